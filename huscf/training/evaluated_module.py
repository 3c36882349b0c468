"""What validate, test and predict do with a module that can draw samples."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ..engines import LocalEngine
from ..methods import find_drawn
from ..metrics.evaluation import ScoreBook
from ..models import SampleShape
from ..randomness import make_generator


class EvaluatedModule(LightningModule):
    """A module that is scored domain by domain; all that this needs of it is a sampler.

    Attributes:
        sample_shape: Shape of the samples.
        score_book: What measures them.
        engine: What has the clients.
        seed: Of the run.
    """

    sample_shape: SampleShape
    score_book: ScoreBook
    engine: LocalEngine
    seed: int

    @abstractmethod
    def sample(self, client_id: int, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw samples (N, C, H, W) in [-1, 1] of the classes labels (N,) as a client would."""

    def draws_alike(self, one: int, other: int) -> bool:
        """Return whether two clients' networks for drawing are equal, as after a round."""
        if one == other:
            return True
        for name in find_drawn(self.engine.method, self.engine.networks):
            states = [self.engine.sampling_network(name, c).state_dict() for c in (one, other)]
            # Norms count batches for their training alone.
            keys = [key for key in states[0] if not key.endswith("num_batches_tracked")]
            if not all(torch.equal(states[0][key], states[1][key]) for key in keys):
                return False
        return True

    def on_validation_start(self) -> None:
        """Forget the scores of an earlier validation."""
        self.engine.gather_clients()
        self.score_book.begin_validation()

    def on_test_start(self) -> None:
        """Forget the scores of an earlier test; say at once if Inception cannot be loaded."""
        self.score_book.begin_test()

    def validation_step(self, domain_name: str, batch_idx: int) -> None:
        """Log quick scores of one domain."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._log_scores(f"val/{domain_name}", self.score_book.validate(self, data, domain_name))

    def test_step(self, domain_name: str, batch_idx: int) -> None:
        """Log all scores of one domain, over seeds, and measure its clients one by one."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._log_scores(f"test/{domain_name}", self.score_book.test(self, data, domain_name))

    def on_validation_epoch_end(self) -> None:
        """Warn of domains that could not be scored."""
        self.score_book.close()

    def on_test_epoch_end(self) -> None:
        """Warn of domains that could not be scored."""
        self.score_book.close()

    def predict_step(self, client_id: int, batch_idx: int) -> dict[str, Tensor]:
        """Draw ten samples of every class from one client.

        Returns:
            samples (N, C, H, W) in [-1, 1], labels, client and cluster (N,).
        """
        labels = torch.arange(self.sample_shape.num_classes).repeat_interleave(10)
        stream = make_generator(self.seed, "prediction", client_id)
        return {
            "samples": self.sample(client_id, labels, stream),
            "labels": labels,
            "client": torch.full_like(labels, client_id),
            "cluster": torch.full_like(labels, self.engine.clusters[client_id]),
        }

    def _log_scores(self, prefix: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.log(f"{prefix}/{name}", value, batch_size=1)
