"""What a site's configuration says for an NVFlare job: what `huscf join` has options for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from ..errors import HuscfError, check_count, check_number
from ..planning import load_mapping


@dataclass(frozen=True)
class JoinOptions:
    """The section `join`.

    Args:
        clients: Those of the data's clients that are this site's, by number; null is all.
        samples: So many of each client and class are drawn when the run ends.
        calibrate: Whether speed, memory and link are measured, for the plan.
        secret: Whether noise and labels are drawn from a secret that this site alone has; if not,
            they follow from the run's seed, as in one process.
        num_threads: Inside torch's operators; 0 leaves torch's choice.
        max_epsilon: The site takes no step that would exceed it; null leaves that to the run.
    """

    clients: Sequence[int] | None = None
    samples: int = 0
    calibrate: bool = False
    secret: bool = True
    num_threads: int = 0
    max_epsilon: float | None = None

    def __post_init__(self) -> None:
        check_count("join.samples", self.samples)
        check_count("join.num_threads", self.num_threads)
        if self.max_epsilon is not None:
            check_number("join.max_epsilon", self.max_epsilon, 0, is_open=True)

    @classmethod
    def read(cls, path: Path) -> "JoinOptions":
        """Read the section of a site's configuration.

        Raises:
            HuscfError: Naming the file and the key at fault.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "join")
        section = load_mapping(path).get("join") or {}
        try:
            made = parser.instantiate_classes(parser.parse_object({"join": section}))
        except (ArgumentError, HuscfError) as error:
            raise HuscfError(f"{path}: {' '.join(str(error).split())}") from error
        return made.join
