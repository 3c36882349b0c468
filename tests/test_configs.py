"""Every shipped configuration runs through the real command line, shortened by overrides."""

import pytest
import yaml

from huscf.__main__ import main
from tests.conftest import REPOSITORY, SHARED_DATA

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))


def is_run(path):
    return "class_path" in yaml.safe_load(path.read_text()).get("data", {})


RUNS = [path for path in CONFIGS if is_run(path)]


def test_there_are_configurations():
    assert REPOSITORY / "configs" / "quickstart.yaml" in RUNS


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(REPOSITORY / "configs")))
def test_each_configuration_trains_a_round(path, tmp_path, monkeypatch):
    # scikit-learn's digits alone need no files; spoken ones do.
    needs_files = "huscf.datamodules.DigitsDataModule" not in path.read_text()
    if needs_files and not SHARED_DATA.is_dir():
        pytest.skip("needs the real data sets beside the checkout")
    monkeypatch.setenv("HUSCF_DATA", str(SHARED_DATA))
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    assert main(["fit", "--config", str(path), *shorten(path, tmp_path)]) == 0
    folders = [p.parent for p in tmp_path.glob("runs/*/metrics.csv")]
    assert len(folders) == 1
    assert list(folders[0].glob("samples/*-final.png"))


OVERLAYS = [
    REPOSITORY / "configs" / "paper" / "method.yaml",
    REPOSITORY / "configs" / "private.yaml",
    REPOSITORY / "configs" / "private_clients.yaml",
    *sorted((REPOSITORY / "configs" / "methods").glob("*.yaml")),
]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_each_method_is_an_overlay_and_draws_and_exports(overlay, tmp_path):
    quickstart = REPOSITORY / "configs" / "quickstart.yaml"
    configs = ["--config", str(quickstart), "--config", str(overlay)]
    assert main(["fit", *configs, *shorten(overlay, tmp_path)]) == 0
    (saved,) = tmp_path.glob("runs/*/config.yaml")
    config = yaml.safe_load(saved.read_text())
    wanted = yaml.safe_load(overlay.read_text())
    wanted.get("federation", {}).pop("every_n_epochs", None)  # shortened
    for part, values in wanted.items():
        assert_holds(config[part], values)
    drawn, checkpoint = tmp_path / "drawn", ["--ckpt_path", str(saved.parent)]
    assert main(["generate", *checkpoint, "--num_samples=20", f"--output={drawn}"]) == 0
    assert len(list(drawn.glob("*/*/*.png"))) == 20
    # Some clients of IFL-GAN keep their own generator: there is none of the cluster.
    refused = 2 if overlay.stem == "iflgan" else 0
    assert main(["export", *checkpoint, "--cluster=0", f"--output={tmp_path / 'g.pt'}"]) == refused
    assert main(["report", str(saved.parent)]) == 0


def assert_holds(given, wanted):
    """All that an overlay says stands in the configuration."""
    for key, value in wanted.items():
        if isinstance(value, dict):
            assert_holds(given[key], value)
        elif key not in ("width", "batch_size"):  # which are shortened
            assert given[key] == value, key


def shorten(path, tmp_path):
    """One round of one step, tiny networks and batches."""
    return [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
        "--federation.every_n_epochs=1",
        "--evaluation.every_n_rounds=-1",
        "--data.init_args.batch_size=4",
        *[
            f"--model.method.init_args.{name}.init_args.width={width}"
            for name, width in networks(path)
        ],
    ]


def networks(path):
    """The networks of a configuration and a small width; a GAN's where it names no method."""
    text = path.read_text()
    if "denoiser:" in text:
        return [("denoiser", 8)]
    if "encoder:" in text:
        return [("encoder", 4), ("decoder", 4)]
    return [("generator", 4), ("discriminator", 4)]
