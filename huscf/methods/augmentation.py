"""Random changes of what a discriminator sees, made by every client in front of its head."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import HuscfError, check_number

Policy = Literal["translation", "cutout", "colour", "flip", "time_shift", "level"]

#: What policies are for; a shift along the other axis of a spectrogram would change the pitch.
FOR_SOUND: tuple[Policy, ...] = ("time_shift", "level")
FOR_PICTURES: tuple[Policy, ...] = ("translation", "cutout", "colour", "flip")

#: Data whose samples mean something else in a mirror, by the names of domains.
SYMBOLS = ("mnist", "kmnist", "emnist", "qmnist", "notmnist", "digits", "negatives", "svhn", "usps")

#: Parts of a side by which samples are shifted at most, and that a cutout takes.
LARGEST_SHIFT = 1 / 8
CUTOUT = 1 / 2

#: Random numbers of each sample and policy: whether it is changed at all, and how.
NUM_DRAWS = 4


@dataclass(frozen=True)
class DiscriminatorAugmentation:
    """Changes reals and fakes alike before a client's discriminator head sees them.

    Gradients go through the changes to the generator, so it learns unchanged samples, and a
    discriminator that has few of them cannot learn these by heart. Nothing of it leaves the
    client. Sources: Zhao et al. 2020, arXiv:2006.10738; Karras et al. 2020, arXiv:2006.06676.

    Args:
        policies: For pictures "translation" (up to an eighth of the side, edges repeated),
            "cutout" (a grey square of half the side), "colour" (brightness, saturation, contrast)
            and "flip" (left to right, every second one); for spectrograms "time_shift" (up to an
            eighth of the duration) and "level" (a tenth of the range up or down).
        strength: Probability, from 0 to 1, that a policy is applied to a sample; where adaptive,
            the one that a client begins with. Below 1 some samples stay as they are, which keeps
            changes out of what is generated.
        adaptive: Let every client for itself raise the probability while its discriminator is
            surer of its own real samples than target, and lower it otherwise.
        target: Mean sign of the logits of real samples, from -1 to 1, that adaptive aims at.
        ramp_samples: Samples of a client after which an adaptive probability may have gone from 0
            to 1.
    """

    policies: Sequence[Policy] = ("translation",)
    strength: float = 0.5
    adaptive: bool = False
    target: float = 0.6
    ramp_samples: int = 20_000

    def __post_init__(self) -> None:
        owner = "method.augmentation"
        for policy in self.policies:
            if policy not in get_args(Policy):
                known = ", ".join(get_args(Policy))
                raise HuscfError(f"{owner}.policies: there is no {policy}; there are {known}")
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise HuscfError(f"{owner}.policies needs one or more different ones")
        check_number(f"{owner}.strength", self.strength, 0, 1)
        check_number(f"{owner}.target", self.target, -1, 1)
        check_number(f"{owner}.ramp_samples", self.ramp_samples, 1)

    def check_data(self, is_sound: bool, domains: Collection[str]) -> list[str]:
        """Return what a user may want to know before training.

        Args:
            is_sound: Whether samples are spectrograms.
            domains: Names of the domains.

        Raises:
            HuscfError: Naming a policy that these data forbid.
        """
        kind, allowed = ("spectrograms", FOR_SOUND) if is_sound else ("pictures", FOR_PICTURES)
        if wrong := [policy for policy in self.policies if policy not in allowed]:
            reason = ": what moves up or down has another pitch" if "translation" in wrong else ""
            raise HuscfError(
                f"method.augmentation.policies: {wrong[0]} is not for {kind}{reason}; take "
                f"{' or '.join(allowed)}"
            )
        mirrored = [name for name in domains if name in SYMBOLS]
        if "flip" in self.policies and mirrored:
            return [
                f"method.augmentation.policies: flip mirrors {mirrored[0]}, whose samples mean "
                "something else in a mirror: the generator may draw such"
            ]
        return []

    def draw(self, count: int, stream: torch.Generator) -> dict[str, Tensor]:
        """Return what decides about a step's changes of so many samples.

        Returns:
            augmentation_draws (B, policies, 4) uniform in [0, 1), augmentation_strength (B,).
        """
        return {
            "augmentation_draws": torch.rand(
                count, len(self.policies), NUM_DRAWS, generator=stream
            ),
            "augmentation_strength": torch.full((count,), float(self.strength)),
        }

    def apply(self, samples: Tensor, draws: Tensor, strength: Tensor) -> Tensor:
        """Return changed samples; differentiable in them, and each for itself.

        Args:
            samples: (B, C, H, W) in [-1, 1].
            draws: As `draw` returns them.
            strength: Likewise.
        """
        for policy, own in zip(self.policies, draws.unbind(1), strict=True):
            samples = _CHANGES[policy](samples, own[:, 0] < strength, own[:, 1:])
        return samples

    def adapt(self, signs: Tensor, strength: Tensor) -> Tensor:
        """Return the next step's strength, a scalar.

        Source: Karras et al. 2020, section 3.1, the heuristic r_t.

        Args:
            signs: (B,) of a client's real logits, 1 where it takes them for real, else -1.
            strength: The present one, a scalar.
        """
        direction = torch.sign(signs.mean() - self.target)
        return (strength + direction * len(signs) / self.ramp_samples).clamp(0, 1)


def _translate(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    rows, columns = (_draw_moves(draws[:, i], is_changed, samples.shape[2 + i]) for i in (0, 1))
    return _move(samples, rows, columns)


def _shift_time(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    columns = _draw_moves(draws[:, 0], is_changed, samples.shape[3])
    return _move(samples, torch.zeros_like(columns), columns)


def _draw_moves(uniform: Tensor, is_changed: Tensor, side: int) -> Tensor:
    """Return (B,) whole pixels, evenly from -limit to limit, 0 where nothing is changed."""
    limit = max(1, round(side * LARGEST_SHIFT))
    return (uniform * (2 * limit + 1)).long().sub(limit) * is_changed


def _move(samples: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Move every sample down and to the right by so many pixels; its edge is repeated."""
    height, width = samples.shape[2:]
    device = samples.device
    at_row = (torch.arange(height, device=device) - rows.view(-1, 1)).clamp_(0, height - 1)
    at_column = (torch.arange(width, device=device) - columns.view(-1, 1)).clamp_(0, width - 1)
    index = (at_row.unsqueeze(2) * width + at_column.unsqueeze(1)).flatten(1).unsqueeze(1)
    flat = samples.flatten(2)
    return flat.gather(2, index.expand_as(flat)).view_as(samples)


def _cut_out(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    inside = is_changed.view(-1, 1, 1, 1)
    for axis, shape in enumerate([(1, 1, -1, 1), (1, 1, 1, -1)]):
        side = samples.shape[2 + axis]
        places = torch.arange(side, device=samples.device).view(shape) + 0.5
        centre = (draws[:, axis] * side).view(-1, 1, 1, 1)
        inside = inside & ((places - centre).abs() < side * CUTOUT / 2)
    return samples.masked_fill(inside, 0.0)


def _recolour(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    """Change brightness by up to 0.5, saturation to 0 to 2 and contrast to 0.5 to 1.5 times."""
    amounts = draws.to(samples.dtype).view(-1, 3, 1, 1, 1)
    grey = samples.mean(1, keepdim=True)
    changed = (samples - grey) * (2 * amounts[:, 1]) + grey
    mean = changed.mean((1, 2, 3), keepdim=True)
    changed = (changed - mean) * (0.5 + amounts[:, 2]) + mean + (amounts[:, 0] - 0.5)
    return torch.where(is_changed.view(-1, 1, 1, 1), changed, samples)


def _flip(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    is_mirrored = (is_changed & (draws[:, 0] < 0.5)).view(-1, 1, 1, 1)
    return torch.where(is_mirrored, samples.flip(3), samples)


def _change_level(samples: Tensor, is_changed: Tensor, draws: Tensor) -> Tensor:
    change = 0.4 * (draws[:, 0] - 0.5) * is_changed
    return samples + change.to(samples.dtype).view(-1, 1, 1, 1)


_CHANGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "translation": _translate,
    "cutout": _cut_out,
    "colour": _recolour,
    "flip": _flip,
    "time_shift": _shift_time,
    "level": _change_level,
}
