"""The paper's scenarios, and a user's own data, through the command line."""

import json
import re
import warnings
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from huscf.__main__ import main
from tests.conftest import REPOSITORY
from tests.datamodules.test_audio import save_tone

CONFIGS = REPOSITORY / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
SMALL = [
    "--model.method.init_args.generator.init_args.width=4",
    "--model.method.init_args.discriminator.init_args.width=4",
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


def make_skin_and_xray(root):
    for name, colour in (("ill", (200, 60, 60)), ("well", (160, 90, 90))):
        for number in range(10):
            for site in ("skin", "xray"):
                (root / site / name).mkdir(parents=True, exist_ok=True)
                level = 20 * number if name == "ill" else 255 - 20 * number
                shade = colour if site == "skin" else (level,) * 3
                Image.new("RGB", (16, 16), shade).save(root / site / name / f"{number}.png")


def read_pixels(paths):
    for path in paths:
        with Image.open(path) as image:
            yield np.asarray(image.convert("RGB"))


def test_xrays_come_out_grey_of_a_run_that_has_colour_too(tmp_path):
    make_skin_and_xray(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(
        "data:\n  class_path: huscf.datamodules.FolderDataModule\n  init_args:\n"
        f"    root: {tmp_path / 'data'}\n    sources: {{skin: skin, xray: xray}}\n"
        "    image_size: 16\n    clients_per_domain: 2\nrun: {name: mixed}\n"
    )
    assert fit(tmp_path, QUICKSTART, tmp_path / "mine.yaml") == 0
    run = tmp_path / "mixed-1"
    is_grey = {}
    for client in ("0", "2"):
        options = ["--num_samples", "4", "--client", client, "--output", str(tmp_path / client)]
        assert main(["generate", "--ckpt_path", str(run), *options]) == 0
        drawn = list(read_pixels((tmp_path / client).glob("*/*/*.png")))
        assert len(drawn) == 4
        is_grey[client] = all((pixels == pixels[..., :1]).all() for pixels in drawn)
    assert is_grey == {"0": False, "2": True}
    for site, expected in (("skin", False), ("xray", True)):
        (grid,) = read_pixels([run / "samples" / f"{site}-final.png"])
        assert bool((grid == grid[..., :1]).all()) == expected


OWN = """
import numpy as np
from huscf.datamodules import Domain, FederatedDataModule

class Mine(FederatedDataModule):
    def load_domains(self):
        labels = np.arange(40) % 4 + 1
        samples = (labels[:, None, None, None] * 50 * np.ones((40, 1, 16, 16))).astype(np.uint8)
        return [Domain("mine", samples, labels, samples, labels)]
"""


def test_a_class_that_nobody_has_is_neither_drawn_nor_exported(tmp_path, monkeypatch):
    (tmp_path / "labels_from_one.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "data: {class_path: labels_from_one.Mine, init_args: {clients_per_domain: 2}}\n"
        "run: {name: mine}\n"
    )
    with pytest.warns(UserWarning, match=r"no training sample has label 0: .* \(1, 2, 3, 4\)"):
        assert fit(tmp_path, QUICKSTART, tmp_path / "mine.yaml") == 0
    run, output = str(tmp_path / "mine-1"), tmp_path / "drawn"
    assert (
        main(["generate", "--ckpt_path", run, "--num_samples", "8", "--output", str(output)]) == 0
    )
    drawn = {path.name: len(list(path.iterdir())) for path in (output / "mine").iterdir()}
    assert drawn == {"0-1": 2, "1-2": 2, "2-3": 2, "3-4": 2}
    saved = str(tmp_path / "generator.pt")
    assert main(["export", "--ckpt_path", run, "--cluster", "0", "--output", saved]) == 0
    extra = {"huscf.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load's
        torch.jit.load(saved, _extra_files=extra)
    told = json.loads(extra["huscf.json"])
    assert told["num_classes"] == 4 and told["class_names"] == ["1", "2", "3", "4"]


def test_missing_data_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HUSCF_DATA", str(tmp_path))
    assert fit(tmp_path, CONFIGS / "cifar.yaml") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cifar10_jpeg.npz" in message and "HUSCF_DATA" in message
