"""The audit of a run: which attack finds what, beside chance and beside an untrained run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..datamodules import FederatedDataModule
from ..errors import check_count
from ..models import to_float
from ..randomness import make_generator
from ..sampling import SavedGAN
from .attacked_run import AttackedRun, Seen, take_batch
from .auxiliary_data import LEAST, Auxiliary, choose_auxiliary
from .class_presence import attack_presence
from .inversion import invert_head, measure_reconstruction, reads_labels, train_decoder
from .label_inference import guess_commonest, infer_labels, measure_accuracy
from .membership_attacks import Membership, attack_discriminator, attack_generator

Adversary = Literal["server", "cluster member", "sample holder"]
Figures = dict[str, float]


@dataclass(frozen=True)
class AuditSettings:
    """How hard the attacks try.

    Args:
        seed: Of everything that they draw.
        num_auxiliary: At most so many labelled samples an attacker has of its own, see
            `choose_auxiliary`.
        inversion_steps: Of the optimisation.
        decoder_steps: Of the decoder's training.
        num_generated: Samples that are drawn of each domain, as if they were published.
        num_judged: At most so many members of each domain, and as many others.
    """

    seed: int = 0
    num_auxiliary: int = 1000
    inversion_steps: int = 2000
    decoder_steps: int = 1000
    num_generated: int = 2000
    num_judged: int = 2000

    def __post_init__(self) -> None:
        check_count("--seed", self.seed)
        least = {"num_auxiliary": LEAST}
        for name in ("num_auxiliary", "inversion_steps", "decoder_steps", "num_generated"):
            check_count(f"--{name}", getattr(self, name), least.get(name, 1))
        check_count("--num_judged", self.num_judged, 10)


@dataclass(frozen=True)
class Finding:
    """What one attack has come to.

    Args:
        attack: Which.
        adversary: Who can make it.
        place: Where: a cut and whose, a network, or which data.
        knowing: Which labelled samples the attacker has, or "".
        trained: Figures on the run.
        untrained: The same on a run of the same configuration before its first step.
        chance: Of whoever has seen nothing.
    """

    attack: str
    adversary: Adversary
    place: str
    knowing: str
    trained: Figures
    untrained: Figures
    chance: Figures


@dataclass
class Audit:
    """All that was tried.

    Args:
        findings: In the order in which they were made.
        not_applicable: Reason by attack, or by attack and place.
        pictures: Originals and what was made of them, (N, C, H, W) in [-1, 1], by title.
        counts: How many samples were used for what.
    """

    findings: list[Finding] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def as_values(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values."""
        return {
            "attacks": [asdict(finding) for finding in self.findings],
            "not_applicable": self.not_applicable,
            "counts": self.counts,
        }


def audit_run(
    saved: SavedGAN,
    data: FederatedDataModule,
    settings: AuditSettings,
    tell: Callable[[str], None] = print,
) -> Audit:
    """Attack a run.

    Args:
        saved: The run, loaded with a serial engine.
        data: What it was trained on.
        settings: How hard.
        tell: Told which attack comes next.

    Raises:
        DataError: Where there are too few samples, before anything is attacked.
    """
    membership = Membership.choose(data, settings.num_judged, settings.seed)
    auditor = _Auditor(saved, data, settings)
    auditor.choose_victims()
    for client_id in auditor.victims.values():
        tell(f"client {client_id}: samples and labels out of what it sends")
        auditor.attack_activations(client_id)
    tell("classes out of averaged blocks")
    auditor.attack_blocks()
    tell("members out of generated samples and logits")
    auditor.attack_members(membership)
    return auditor.audit


@dataclass(frozen=True)
class Victim:
    """One client's batch, and what the server is sent of it.

    Args:
        client_id: Whose.
        place: The cut, and whose it is.
        samples: (B, C, H, W) in [-1, 1].
        labels: (B,) int64.
        seen: In the trained and the untrained run.
    """

    client_id: int
    place: str
    samples: Tensor
    labels: Tensor
    seen: Mapping[str, Seen]


class _Auditor:
    def __init__(self, saved: SavedGAN, data: FederatedDataModule, settings: AuditSettings) -> None:
        self.data, self.settings, self.audit = data, settings, Audit()
        trained, untrained = saved.module, saved.make_untrained()
        self.modules = {"trained": trained, "untrained": untrained}
        self.runs = {name: AttackedRun(module) for name, module in self.modules.items()}
        self.clients = {client.client_id: client for client in data.clients}
        self.num_classes = trained.sample_shape.num_classes
        self.victims: dict[int, int] = {}
        self.auxiliaries: dict[int, list[Auxiliary]] = {}

    def choose_victims(self) -> None:
        """Take one client for every depth of a head, and what the server knows beside it."""
        self.victims = self.runs["trained"].find_depths()
        if not self.victims:
            reason = "no activations of real samples leave a client in this method"
            for attack in ("inversion", "labels from activations", "labels from gradients"):
                self.audit.not_applicable[attack] = reason
        settings = self.settings
        for client_id in self.victims.values():
            client = self.clients[client_id]
            found = choose_auxiliary(self.data, client, settings.num_auxiliary, settings.seed)
            self.auxiliaries[client_id] = found
            for known in found:
                self.audit.counts[f"auxiliary, {known.origin}"] = len(known.labels)

    def attack_activations(self, client_id: int) -> None:
        """Look for samples and labels in what a client sends in a step."""
        run = self.runs["trained"]
        assert run.item is not None
        client = self.clients[client_id]
        batch_size = min(self.data.batch_size, len(client))
        samples, labels = take_batch(client, batch_size, self.settings.seed)
        depth = self.modules["trained"].plan.by_client[client_id].cuts.head(run.item.network)
        victim = Victim(
            client_id,
            f"{run.item.network}_head {depth}, client {client_id}",
            to_float(samples),
            labels,
            {n: r.observe(client_id, samples, labels, batch_size) for n, r in self.runs.items()},
        )
        reason = run.why_not_inverted(client_id)
        if reason is None:
            self._optimise(victim)
        else:
            self.audit.not_applicable[f"inversion, {victim.place}"] = reason
        for known in self.auxiliaries[client_id]:
            seen = {
                name: each.observe(client_id, known.samples, known.labels, batch_size)
                for name, each in self.runs.items()
            }
            if reason is None:
                self._decode(victim, known, seen)
            for kind in ("activations", "gradients"):
                self._infer(kind, victim, known, seen)

    def _optimise(self, victim: "Victim") -> None:
        """Look for the batch whose activations are those that arrived."""
        figures: dict[str, Figures] = {}
        self.audit.pictures[f"{victim.place}: originals"] = victim.samples
        for name, run in self.runs.items():
            found = invert_head(
                run.soft_head(victim.client_id),
                victim.seen[name].activations,
                tuple(victim.samples.shape),
                self.num_classes,
                self.settings.inversion_steps,
                self._stream("audit inversion", victim.client_id),
            )
            figures[name] = measure_reconstruction(found.samples, victim.samples)
            if reads_labels(run.head(victim.client_id)):
                figures[name] |= measure_accuracy(found.labels, victim.labels)
            self.audit.pictures.setdefault(f"{victim.place}: by optimisation", found.samples)
        chance = self._guess_blindly(victim) | guess_commonest(victim.labels)
        self._add("inversion by optimisation", "server", victim.place, figures, chance)

    def _decode(self, victim: "Victim", known: Auxiliary, seen: Mapping[str, Seen]) -> None:
        """Go back by a decoder that learned on samples of the server's own."""
        figures: dict[str, Figures] = {}
        for name, of_known in seen.items():
            decoder = train_decoder(
                _main(of_known.activations),
                to_float(known.samples),
                self.settings.decoder_steps,
                self._stream("audit decoder", victim.client_id),
            )
            with torch.no_grad():
                made = decoder(_main(victim.seen[name].activations))
            figures[name] = measure_reconstruction(made, victim.samples)
            title = f"{victim.place}: by a decoder that knows {known.origin}"
            self.audit.pictures.setdefault(title, made)
        chance = self._guess_blindly(victim)
        attack = "inversion by a decoder"
        self._add(attack, "server", victim.place, figures, chance, known.origin)

    def _infer(
        self,
        kind: Literal["activations", "gradients"],
        victim: "Victim",
        known: Auxiliary,
        seen: Mapping[str, Seen],
    ) -> None:
        """Tell labels by a classifier that learned on samples of the server's own."""
        if any(not getattr(each, kind) for each in (*seen.values(), *victim.seen.values())):
            reason = "none cross in this pass"
            self.audit.not_applicable[f"labels from {kind}, {victim.place}"] = reason
            return
        figures = {}
        for name, of_known in seen.items():
            both = [_main(getattr(each, kind)) for each in (of_known, victim.seen[name])]
            guessed = infer_labels(both[0], known.labels, both[1], self.num_classes)
            figures[name] = measure_accuracy(guessed, victim.labels)
        attack, chance = f"labels from {kind}", guess_commonest(victim.labels)
        self._add(attack, "server", victim.place, figures, chance, known.origin)

    def _guess_blindly(self, victim: "Victim") -> Figures:
        """Return what the mean of the domain's samples that the server has comes to."""
        known = to_float(self.auxiliaries[victim.client_id][0].samples)
        blind = known.mean(0, keepdim=True).expand_as(victim.samples)
        return measure_reconstruction(blind, victim.samples)

    def attack_blocks(self) -> None:
        """Tell the classes that clients have from the blocks that they send to be averaged."""
        if "blocks" not in self.modules["trained"].method.kinds:
            self.audit.not_applicable["classes from averaged blocks"] = "no blocks are averaged"
            return
        found = {
            name: attack_presence(run, self.data, self.settings.seed)
            for name, run in self.runs.items()
        }
        if not found["trained"]:
            reason = "no client holds an embedding of labels, or none has several classes"
            self.audit.not_applicable["classes from averaged blocks"] = reason
        for network, trained in found["trained"].items():
            figures = {"trained": trained, "untrained": found["untrained"][network]}
            self._add("classes from averaged blocks", "server", network, figures, {"auroc": 0.5})

    def attack_members(self, membership: Membership) -> None:
        """Tell trained samples from others."""
        self.audit.counts |= {
            "members": membership.count,
            "others": membership.count,
            "generated": self.settings.num_generated * len(membership.domains),
        }
        figures = {
            name: attack_generator(module, membership, self.settings.num_generated)
            for name, module in self.modules.items()
        }
        attack, place = "membership by samples", "all domains"
        self._add(attack, "sample holder", place, figures, membership.chance)
        attack = "membership by logits"
        if "discriminator" not in self.modules["trained"].engine.networks:
            self.audit.not_applicable[attack] = "the method has no discriminator"
            return
        figures = {
            name: attack_discriminator(module, membership) for name, module in self.modules.items()
        }
        self._add(attack, "cluster member", place, figures, membership.chance)

    def _add(
        self,
        attack: str,
        adversary: Adversary,
        place: str,
        figures: Mapping[str, Figures],
        chance: Figures,
        knowing: str = "",
    ) -> None:
        both = figures["trained"], figures["untrained"]
        self.audit.findings.append(Finding(attack, adversary, place, knowing, *both, chance))

    def _stream(self, purpose: str, client_id: int) -> torch.Generator:
        return make_generator(self.settings.seed, purpose, client_id)


def _main(carry: Mapping[str, Tensor]) -> Tensor:
    """Return what attacks look at: the main tensor, or the first of those that crossed."""
    return carry["x"] if "x" in carry else next(_floats(carry))


def _floats(carry: Mapping[str, Tensor]) -> Iterator[Tensor]:
    return (tensor for tensor in carry.values() if tensor.is_floating_point())
