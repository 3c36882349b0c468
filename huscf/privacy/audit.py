"""The audit of a run: which attack finds what, beside chance and beside an untrained run."""

from collections.abc import Callable, Mapping

from ..datamodules import FederatedDataModule
from ..sampling import SavedGAN
from .activation_attacks import ActivationAttacks, Victim, View
from .attacked_run import AttackedRun, take_batch
from .auxiliary_data import Auxiliary, choose_auxiliary
from .class_presence import attack_presence
from .cut_leakage import describe_leakage
from .findings import Audit, AuditSettings
from .membership_attacks import Membership, attack_discriminator, attack_generator
from .reference_view import ReferenceView


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
    auditor.note_leakage()
    tell("classes out of averaged blocks")
    auditor.attack_blocks()
    tell("members out of generated samples and logits")
    auditor.attack_members(membership)
    return auditor.audit


class _Auditor:
    def __init__(self, saved: SavedGAN, data: FederatedDataModule, settings: AuditSettings) -> None:
        self.data, self.settings, self.audit = data, settings, Audit()
        trained, untrained = saved.module, saved.make_untrained()
        self.modules = {"trained": trained, "untrained": untrained}
        self.runs = {name: AttackedRun(module) for name, module in self.modules.items()}
        self.clients = {client.client_id: client for client in data.clients}
        self.num_classes = trained.sample_shape.num_classes
        self.are_compared = saved.are_compared
        federation = saved.config.get("federation") or {}
        self.is_secure = bool(federation.get("secure"))
        if federation.get("observe") == "statistics":
            reason = "federation.observe: clients are compared by statistics of their own making"
            self.audit.not_applicable["inversion, when compared"] = reason
        self.victims: dict[int, int] = {}
        self.auxiliaries: dict[int, list[Auxiliary]] = {}
        self.leaks: dict[int, tuple[float, str]] = {}

    def choose_victims(self) -> None:
        """Take one client for every depth of a head, and what the server knows beside it."""
        self.victims = self.runs["trained"].find_depths()
        are_bare = self.victims.pop(0, None) is not None
        if not self.victims:
            reason = "no activations of real samples leave a client in this method"
            if are_bare:
                reason = "samples and labels cross as they are: nothing is left to attack"
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
        """Look for samples and labels in what a client sends, in steps and to be compared."""
        run = self.runs["trained"]
        assert run.item is not None
        client = self.clients[client_id]
        batch_size = min(self.data.batch_size, len(client))
        depth = self.modules["trained"].plan.by_client[client_id].cuts.head(run.item.network)
        place = f"{run.item.network}_head {depth}, client {client_id}"
        victim = Victim(
            client_id,
            place,
            *take_batch(client, batch_size, self.settings.seed),
            self.auxiliaries[client_id],
        )
        ways: list[Mapping[str, View]] = [self.runs]
        if self.are_compared:
            ways.append(dict.fromkeys(self.runs, ReferenceView(run)))
        for views in ways:
            attacks = ActivationAttacks(views, victim, self.settings, self.audit, self.num_classes)
            attacks.run()
        if (worst := self.audit.find_worst_inversion(place)) is not None:
            self.leaks[depth] = worst

    def note_leakage(self) -> None:
        """Note of every head the share of the samples' variance that the best attack gives back."""
        item = self.runs["trained"].item
        if item is not None and self.leaks:
            self.audit.leakage = describe_leakage(
                item.network, self.modules["trained"].engine.networks[item.network], self.leaks
            )

    def attack_blocks(self) -> None:
        """Tell the classes that clients have from the blocks that they send to be averaged."""
        if "blocks" not in self.modules["trained"].method.kinds:
            self.audit.not_applicable["classes from averaged blocks"] = "no blocks are averaged"
            return
        if self.is_secure:
            reason = "federation.secure: of blocks the server gets sums alone"
            self.audit.not_applicable["classes from averaged blocks"] = reason
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
            self.audit.add(
                "classes from averaged blocks", "server", network, figures, {"auroc": 0.5}
            )

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
        self.audit.add(attack, "sample holder", place, figures, membership.chance)
        attack = "membership by logits"
        if "discriminator" not in self.modules["trained"].engine.networks:
            self.audit.not_applicable[attack] = "the method has no discriminator"
            return
        figures = {
            name: attack_discriminator(module, membership) for name, module in self.modules.items()
        }
        self.audit.add(attack, "cluster member", place, figures, membership.chance)
