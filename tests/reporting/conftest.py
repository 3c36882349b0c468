"""One short run that the tests of this folder look at, with a small judge."""

from pathlib import Path

import pytest

from huscf.__main__ import main
from huscf.metrics import ClassifierTraining, JudgeSettings
from tests.test_cli import QUICKSTART, SMALL

OPTIONS = [
    *(o for o in SMALL if not o.startswith(("--samples", "--report"))),
    # Two clusters, however little so short a run lets the server see.
    "--federation.rule=huscf.federation.KMeansClusters",
    "--federation.rule.init_args.num_clusters=2",
]


def fit(root: Path, *options: str) -> Path:
    """Train a small run; return its folder."""
    root_option = f"--trainer.default_root_dir={root}"
    arguments = ["fit", "--config", QUICKSTART, *OPTIONS, root_option, "--trainer.max_epochs=2"]
    assert main([*arguments, "--samples.every_n_rounds=1", *options]) == 0
    return max(root.iterdir(), key=lambda path: path.stat().st_mtime)


@pytest.fixture
def small_judge(monkeypatch, tmp_path_factory):
    """Judges that are trained in a second, in a cache of their own."""
    training = ClassifierTraining(epochs=1, learning_rate=3e-3)
    settings = JudgeSettings(width=4, num_features=16, training=training)
    monkeypatch.setattr("huscf.metrics.evaluation.domain_evaluator.JudgeSettings", lambda: settings)
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path_factory.getbasetemp() / "judges"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run of two rounds; tests do not change it."""
    return fit(tmp_path_factory.mktemp("reported"))


@pytest.fixture
def checkpoint(run):
    return run / "checkpoints" / "last.ckpt"
