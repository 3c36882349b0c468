"""Attacks on one client's batch: samples and labels out of what the server is sent of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ..models import MAIN, to_float
from ..randomness import make_generator
from .attacked_run import Seen
from .auxiliary_data import Auxiliary
from .findings import Audit, AuditSettings, Figures
from .inversion import SoftHead, invert_head, measure_reconstruction, train_decoder
from .label_inference import guess_commonest, infer_labels, measure_accuracy

T = TypeVar("T")


class View(Protocol):
    """One way in which the server sees clients' samples."""

    @property
    def way(self) -> str:
        """Return which."""

    def observe(self, client_id: int, samples: Tensor, labels: Tensor, batch_size: int) -> Seen:
        """Return what the server is sent of samples."""

    def soft_head(self, client_id: int) -> SoftHead:
        """Return what the client runs, as the server can run it."""

    def reads_labels(self, client_id: int) -> bool:
        """Return whether that depends on labels."""

    def why_not_inverted(self, client_id: int) -> str | None:
        """Return why samples cannot be looked for, or None."""


@dataclass(frozen=True)
class Victim:
    """One client's batch.

    Args:
        client_id: Whose.
        place: The cut, and whose it is.
        samples: (B, C, H, W) uint8.
        labels: (B,) int64.
        known: What attackers have of their own, the first of the client's domain.
    """

    client_id: int
    place: str
    samples: Tensor
    labels: Tensor
    known: list[Auxiliary]

    @property
    def pixels(self) -> Tensor:
        """Return the samples in [-1, 1]."""
        return to_float(self.samples)

    def guess_blindly(self) -> Figures:
        """Return what the mean of the domain's samples that the server has comes to."""
        mean = to_float(self.known[0].samples).mean(0, keepdim=True)
        return measure_reconstruction(mean.expand_as(self.pixels), self.pixels)


class ActivationAttacks:
    """All attacks on one batch by one view.

    Args:
        views: Of the trained and the untrained run; the same twice where training changes nothing.
        victim: Whose batch.
        settings: How hard they try.
        audit: Gets what they find.
        num_classes: Labels that there are.
    """

    def __init__(
        self,
        views: Mapping[str, View],
        victim: Victim,
        settings: AuditSettings,
        audit: Audit,
        num_classes: int,
    ) -> None:
        self.views, self.victim, self.settings = views, victim, settings
        self.audit, self.num_classes = audit, num_classes
        self.place = victim.place
        if (way := views["trained"].way) != "trained":
            self.place = f"{victim.place}, {way}"
        self.seen = self._for_each(lambda view: self._observe(view, victim.samples, victim.labels))

    def run(self) -> None:
        """Run all of them, and add what they find."""
        reason = self.views["trained"].why_not_inverted(self.victim.client_id)
        if reason is None:
            self._optimise()
        else:
            self.audit.not_applicable[f"inversion, {self.place}"] = reason
        for known in self.victim.known:
            of_known = self._for_each(
                lambda view, own=known: self._observe(view, own.samples, own.labels)  # type: ignore[misc]
            )
            if reason is None:
                self._decode(known, of_known)
            for kind in ("activations", "gradients"):
                self._infer(kind, known, of_known)

    def _optimise(self) -> None:
        """Look for the batch whose activations are those that arrived."""
        client_id, pixels = self.victim.client_id, self.victim.pixels
        self.audit.pictures.setdefault(f"{self.victim.place}: originals", pixels)

        def attack(view: View) -> Figures:
            found = invert_head(
                view.soft_head(client_id),
                self.seen[self._name(view)].activations,
                tuple(pixels.shape),
                self.num_classes,
                self.settings.inversion_steps,
                self._stream("audit inversion"),
            )
            self.audit.pictures.setdefault(f"{self.place}: by optimisation", found.samples)
            figures = measure_reconstruction(found.samples, pixels)
            if view.reads_labels(client_id):
                figures |= measure_accuracy(found.labels, self.victim.labels)
            return figures

        chance = self.victim.guess_blindly() | guess_commonest(self.victim.labels)
        figures = self._for_each(attack)
        self.audit.add("inversion by optimisation", "server", self.place, figures, chance)

    def _decode(self, known: Auxiliary, of_known: Mapping[str, Seen]) -> None:
        """Go back by a decoder that learned on samples of the server's own."""
        pixels = self.victim.pixels

        def attack(view: View) -> Figures:
            name = self._name(view)
            decoder = train_decoder(
                _main(of_known[name], "activations"),
                to_float(known.samples),
                self.settings.decoder_steps,
                self._stream("audit decoder"),
            )
            with torch.no_grad():
                made = decoder(_main(self.seen[name], "activations"))
            title = f"{self.place}: by a decoder that knows {known.origin}"
            self.audit.pictures.setdefault(title, made)
            return measure_reconstruction(made, pixels)

        attack_name, chance = "inversion by a decoder", self.victim.guess_blindly()
        figures = self._for_each(attack)
        self.audit.add(attack_name, "server", self.place, figures, chance, known.origin)

    def _infer(
        self,
        kind: Literal["activations", "gradients"],
        known: Auxiliary,
        of_known: Mapping[str, Seen],
    ) -> None:
        """Tell labels by a classifier that learned on samples of the server's own."""
        if not all(getattr(each, kind) for each in (*of_known.values(), *self.seen.values())):
            if self.views["trained"].way == "trained":
                reason = f"no {kind} cross in this pass"
                self.audit.not_applicable[f"labels from {kind}, {self.place}"] = reason
            return

        def attack(view: View) -> Figures:
            name = self._name(view)
            pair = [_main(each, kind) for each in (of_known[name], self.seen[name])]
            guessed = infer_labels(pair[0], known.labels, pair[1], self.num_classes)
            return measure_accuracy(guessed, self.victim.labels)

        attack_name, chance = f"labels from {kind}", guess_commonest(self.victim.labels)
        figures = self._for_each(attack)
        self.audit.add(attack_name, "server", self.place, figures, chance, known.origin)

    def _observe(self, view: View, samples: Tensor, labels: Tensor) -> Seen:
        return view.observe(self.victim.client_id, samples, labels, len(self.victim.labels))

    def _for_each(self, attack: Callable[[View], T]) -> dict[str, T]:
        """Return what an attack gives by view; what is the same view is attacked once."""
        done = {id(view): attack(view) for view in {id(v): v for v in self.views.values()}.values()}
        return {name: done[id(view)] for name, view in self.views.items()}

    def _name(self, view: View) -> str:
        return next(name for name, each in self.views.items() if each is view)

    def _stream(self, purpose: str) -> torch.Generator:
        return make_generator(self.settings.seed, purpose, self.victim.client_id)


def _main(seen: Seen, kind: Literal["activations", "gradients"]) -> Tensor:
    """Return what attacks look at: the main tensor, or the first number of those that crossed."""
    carry = getattr(seen, kind)
    floats = (tensor for tensor in carry.values() if tensor.is_floating_point())
    return carry[MAIN] if MAIN in carry else next(floats)
