"""The files of a domain: which there are, their classes, and to whom they belong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .bad_data import BadInput
from .paths import shorten_path


class SourceFile(NamedTuple):
    """One file, or one picture of a file with several: one sample.

    Args:
        path: Where it is; below the data folder.
        class_name: Its class.
        key: Natural client key (hospital, speaker), or "" for none.
        is_test: Whether it is held out.
        patient: Of whom it is, or "" where that is not known; all samples of a patient stay on
            one side of the split and with one client.
        frame: Which picture of the file, from 0; None where it has to be the only one.
    """

    path: Path
    class_name: str
    key: str = ""
    is_test: bool = False
    patient: str = ""
    frame: int | None = None


@dataclass(frozen=True)
class Source:
    """The files of one domain.

    Args:
        name: The domain's name.
        folder: The data folder; names in messages are relative to it.
        files: All usable files.
        class_names: Classes in order of label.
        bad: What is wrong with the listing; these files are not among files.
    """

    name: str
    folder: Path
    files: list[SourceFile]
    class_names: tuple[str, ...]
    bad: list[BadInput] = field(default_factory=list)


def check_numbering(sources: Sequence[Source]) -> None:
    """Raise a DataError where sources that share a class have two names for one label."""
    for one, other in combinations(sources, 2):
        if not (shared := set(one.class_names) & set(other.class_names)):
            continue  # as digits and clothing, which are numbered each by itself
        for label, (first, second) in enumerate(
            zip(one.class_names, other.class_names, strict=False)
        ):
            if first != second:
                raise DataError(
                    f"label {label} is class {first} in {one.name} and {second} in {other.name}, "
                    f"which share class {min(shared, key=number_first)}: number them with "
                    f"classes: {list_classes(sources)}"
                )


def list_classes(sources: Sequence[Source]) -> list[str]:
    """Return the classes of all sources, numbers by value and names in order of the alphabet."""
    return sorted({n for each in sources for n in each.class_names}, key=number_first)


def drop_lonely_keys(source: Source) -> Source:
    """Take out client keys with a single training sample: no client can train on one."""
    counts = Counter(file.key for file in source.files if file.key and not file.is_test)
    lonely = {key for key, count in counts.items() if count < 2}
    if not lonely:
        return source
    bad = [BadInput("client key with one training sample", key) for key in sorted(lonely)]
    files = [file for file in source.files if file.is_test or file.key not in lonely]
    return replace(source, files=files, bad=source.bad + bad)


def drop_divided_patients(source: Source) -> Source:
    """Take out what would put one patient on both sides of the split, or with two clients.

    Of a patient who is held out, the training files go; of one with several client keys, those
    that do not have the patient's first one.
    """
    held_out = {file.patient for file in source.files if file.patient and file.is_test}
    first_key: dict[str, str] = {}
    files, bad = [], []
    for file in source.files:
        name = shorten_path(file.path, source.folder)
        if file.is_test or not file.patient:
            files.append(file)
        elif file.patient in held_out:
            bad.append(BadInput("training file of a patient who is held out for testing", name))
        elif first_key.setdefault(file.patient, file.key) != file.key:
            bad.append(BadInput("file of a patient whom another client has, too", name))
        else:
            files.append(file)
    return replace(source, files=files, bad=source.bad + bad) if bad else source


def list_owners(files: Sequence[SourceFile]) -> list[str] | None:
    """Return whose sample each is, None where each stands for itself.

    Owners are patients, and files with several pictures.
    """
    owners = [file.patient or (str(file.path) if file.frame is not None else "") for file in files]
    if not any(owners):
        return None
    return [owner or f"\0{position}" for position, owner in enumerate(owners)]


def number_first(name: str) -> tuple[int, str]:
    """Return a key that sorts numbers by value, and before other names."""
    return (int(name), "") if name.removeprefix("-").isdecimal() else (1 << 62, name)
