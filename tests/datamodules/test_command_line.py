"""The paper's scenarios, and a user's own data, through the command line."""

import re
from itertools import product

import pytest
import yaml

from huscf.__main__ import main
from tests.conftest import REPOSITORY
from tests.datamodules.test_audio import save_tone

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


@pytest.mark.parametrize(("number", "name"), [(0, "office"), (1, "calls")])
def test_the_guides_own_recordings_train_over_the_audio_config(number, name, monkeypatch, tmp_path):
    guide = (REPOSITORY / "docs" / "datamodules.md").read_text()
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[number])
    rows = ["path,label,client,split"]
    for word, speaker, take in product(("no", "yes"), range(6), range(3)):
        file = f"office/{word}/{speaker}{take}.wav"
        save_tone(tmp_path / "recordings" / file, 300 + 50 * speaker + take)
        rows.append(f"{file},{word},speaker{speaker},{'Train' if take else 'test'}")
    (tmp_path / "recordings" / "calls.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    assert fit(tmp_path, CONFIGS / "audio.yaml", "mine.yaml") == 0
    manifest = yaml.safe_load((tmp_path / f"{name}-1" / "partition.yaml").read_text())
    speakers = [[f"speaker{number}"] for number in range(6)]
    keys = [client["keys"] for client in manifest["clients"]]
    assert sorted(keys) == (speakers if name == "calls" else [[]] * 4)


def test_missing_data_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HUSCF_DATA", str(tmp_path))
    assert fit(tmp_path, CONFIGS / "cifar.yaml") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cifar10_jpeg.npz" in message and "HUSCF_DATA" in message
