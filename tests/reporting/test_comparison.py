"""`huscf compare`: figures, differing keys and curves of several runs."""

import shutil

import yaml
from PIL import Image

from huscf.__main__ import main
from huscf.reporting.comparison import differing_keys


def test_figures_differing_keys_and_curves(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["generator_lr"] = 0.25
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    rows = (other / "metrics.csv").read_text().splitlines()
    (other / "metrics.csv").write_text("\n".join(rows[:2]) + "\n")
    picture = tmp_path / "curves.png"
    assert main(["compare", str(run), str(other), f"--output={picture}"]) == 0
    out = capsys.readouterr().out
    lines = {
        line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines() if "│" in line
    }
    assert [cell.strip() for cell in lines["round"]] == ["2", "1"]
    assert [cell.strip() for cell in lines["model.generator_lr"]] == ["0.001", "0.25"]
    assert not any(name.startswith("model.") for name in lines if name != "model.generator_lr")
    with Image.open(picture) as curves:
        assert len(curves.convert("RGB").getcolors(1 << 24)) > 50


def test_runs_of_the_same_name_are_told_apart_and_equal_ones_said_to_be(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / run.name)
    assert main(["compare", str(run), str(tmp_path / run.name)]) == 0
    assert "The configurations do not differ." in capsys.readouterr().out


def test_missing_keys_are_dashes():
    found = differing_keys([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}])
    assert found == {"a.c": ["2", "-"]}


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert "not a run's folder" in capsys.readouterr().err
