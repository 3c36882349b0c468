"""The paper's scenarios, and a user's own data, through the command line."""

import pytest

from huscf.__main__ import main
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
SMALL = [
    "--model.generator.init_args.width=4",
    "--model.discriminator.init_args.width=4",
    "--data.init_args.samples_per_client=6",
    "--data.init_args.batch_size=3",
    "--data.init_args.steps_per_epoch=1",
    "--federation.every_n_epochs=1",
    "--samples.every_n_rounds=0",
    "--evaluation.every_n_rounds=-1",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]


def fit(folder, *configs, options=()):
    chosen = [argument for config in configs for argument in ("--config", str(config))]
    return main(["fit", *chosen, *SMALL, f"--trainer.default_root_dir={folder}", *options])


def list_samples(folder):
    return sorted(path.stem for path in folder.glob("*/samples/*.png"))


@pytest.mark.parametrize("number", [2, 6])
def test_scenarios_lay_over_the_quickstart(number, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HUSCF_DATA", str(shared_data))
    overlay = CONFIGS / "paper" / f"scenario{number}.yaml"
    fewer = ["--data.init_args.clients_per_domain=3"]  # than the paper's 100
    assert fit(tmp_path, QUICKSTART, overlay, options=fewer) == 0
    assert (tmp_path / f"scenario{number}-1" / "partition.yaml").is_file()


def test_the_guides_example_trains_from_a_folder_of_its_own(example, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert fit(tmp_path, QUICKSTART, example / "stripes.yaml") == 0
    assert list_samples(tmp_path) == ["thick-final", "thin-final"]


def test_missing_data_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HUSCF_DATA", str(tmp_path))
    assert fit(tmp_path, CONFIGS / "cifar.yaml") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cifar10_jpeg.npz" in message and "HUSCF_DATA" in message
