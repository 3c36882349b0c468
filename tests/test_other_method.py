"""A method that has no generator: through the command line, with every callback."""

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.metrics import ClassifierTraining, JudgeSettings
from tests.test_cli import differences, rows

CONFIG = {
    "data": {
        "class_path": "huscf.datamodules.DigitsDataModule",
        "init_args": {
            **{"clients_per_domain": 2, "samples_per_client": 12},
            **{"batch_size": 6, "steps_per_epoch": 2},
        },
    },
    "model": {"method": {"class_path": "tests.autoencoder.Autoencoder"}},
    "samples": {"every_n_rounds": 1},
    "evaluation": {"every_n_rounds": 0, "num_per_class": 4},
    "trainer": {"max_epochs": 2, "enable_progress_bar": False, "accelerator": "cpu"},
}
GRIDS = ("round-0001", "round-0002", "final")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run of two rounds."""
    root = tmp_path_factory.mktemp("autoencoder")
    config, training = root / "config.yaml", ClassifierTraining(epochs=1, learning_rate=3e-3)
    config.write_text(yaml.safe_dump(CONFIG))
    settings = JudgeSettings(width=4, num_features=16, training=training)
    with pytest.MonkeyPatch.context() as patch:
        place = "huscf.metrics.evaluation.domain_evaluator.JudgeSettings"
        patch.setattr(place, lambda: settings)
        patch.setenv("HUSCF_CACHE", str(root / "judges"))
        option = f"--trainer.default_root_dir={root / 'runs'}"
        assert main(["fit", "--config", str(config), option]) == 0
    return root / "runs" / "run-1"


def test_a_run_leaves_all_that_a_gans_leaves(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    grids = {f"samples/{d}-{n}.png" for d in ("digits", "negatives") for n in GRIDS}
    assert {"report.html", "clients.csv", "federation.csv", "checkpoints/last.ckpt"} <= found
    assert grids <= found
    table = rows(run)
    assert [row["round"] for row in table] == ["1", "2"]
    assert float(table[1]["train/autoencoder_loss"]) < float(table[0]["train/autoencoder_loss"])
    assert float(table[1]["eval/digits/label_accuracy"]) >= 0
    assert yaml.safe_load((run / "plan.yaml").read_text())["blocks"] == {"autoencoder": 3}
    page = (run / "report.html").read_text()
    assert "Autoencoder" in page and "discriminator" not in page


def test_it_generates_and_says_that_there_is_nothing_to_export(run, tmp_path, capsys):
    checkpoint = ["--ckpt_path", str(run), "--trust", "tests"]
    output = tmp_path / "out"
    assert main(["generate", *checkpoint, "--num_samples=20", f"--output={output}"]) == 0
    assert len(list(output.glob("*/*/*.png"))) == 20
    capsys.readouterr()
    path = tmp_path / "g.pt"
    assert main(["export", *checkpoint, "--cluster=0", f"--output={path}"]) == 2
    assert capsys.readouterr().err == (
        "huscf: error: Autoencoder has no network that can be exported alone\n"
    )
    assert not path.exists()


def test_resuming_is_bit_exact(run, tmp_path):
    config, moved = tmp_path / "config.yaml", tmp_path / "moved.ckpt"
    moved.write_bytes((run / "checkpoints" / "round-0001.ckpt").read_bytes())
    config.write_text(yaml.safe_dump({**CONFIG, "evaluation": {"every_n_rounds": -1}}))
    command = ["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    assert main([*command, f"--ckpt_path={moved}"]) == 0
    whole, resumed = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run, tmp_path / "runs" / "run-1")
    )
    for part in ("state_dict", "huscf", "global_step"):
        assert differences(whole[part], resumed[part], part) == []
