"""Writes the run's page and the files behind it when a run ends."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..federation import make_features
from ..modules import SplitGAN
from .clustered_federation import ClusteredFederation
from .run_folder import RunFolder


class RunReport(Callback):
    """Writes report.html, its charts, and clients.csv into the run's folder.

    Args:
        enabled: False leaves them out; `huscf report` writes the page later.

    Attributes:
        places: By client, its place among the others as the server saw them in the last round:
            the first two principal components of its mean activations.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.places: dict[int, list[float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the server saw, before the federation at the epoch's end forgets it."""
        assert isinstance(pl_module, SplitGAN)
        federation = _find(trainer, ClusteredFederation)
        ends_round = trainer.is_last_batch and federation.should_federate(trainer.current_epoch)
        if self.enabled and ends_round:
            self.places = _locate_clients(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, then the page that shows them."""
        from ..reporting import RunRecord, write_clients, write_page

        assert isinstance(pl_module, SplitGAN)
        folder = _find(trainer, RunFolder).path
        if not self.enabled or folder is None:
            return
        write_clients(folder / "clients.csv", self.describe_clients(trainer, pl_module))
        write_page(RunRecord.read(folder))

    def describe_clients(self, trainer: Trainer, module: SplitGAN) -> list[dict[str, Any]]:
        """Return one record per client: cuts, cluster, weight, place and traffic."""
        domains = getattr(trainer.datamodule, "client_domains", {})  # type: ignore[attr-defined]
        assignment = _find(trainer, ClusteredFederation).assignment
        weights = {} if assignment is None else assignment.weights
        divergences = {} if assignment is None else assignment.divergences
        records = []
        for plan in module.plan.clients:
            client = plan.client_id
            x, y = self.places.get(client, ("", ""))
            records.append(
                {
                    "client": client,
                    "domain": domains.get(client, ""),
                    "profile": plan.profile,
                    "cuts": " ".join(map(str, plan.cuts.as_list())),
                    "num_samples": module.client_sizes[client],
                    "cluster": module.clusters[client],
                    "weight": weights.get(client, ""),
                    "divergence": divergences.get(client, ""),
                    "map_x": x,
                    "map_y": y,
                    "uplink_mbytes": module.exchange.total_bytes(client, "uplink") / 1e6,
                    "downlink_mbytes": module.exchange.total_bytes(client, "downlink") / 1e6,
                    "dropped_steps": module.num_dropped[client],
                }
            )
        return records


def _locate_clients(module: SplitGAN) -> dict[int, list[float]]:
    statistics = module.server.statistics
    if len(statistics.client_ids) < 3:
        return {}
    features = make_features(statistics.features().double().numpy())[:, :2]
    return dict(zip(statistics.client_ids, features.tolist(), strict=True))


def _find(trainer: Trainer, kind: type[Any]) -> Any:
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
