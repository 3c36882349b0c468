"""`huscf compare`: figures, differing keys and curves of several runs."""

import dataclasses
import json
import os
import shutil

import yaml
from PIL import Image

from huscf.__main__ import main
from huscf.reporting import RunRecord, charts
from huscf.reporting.comparison import differing_keys

RATE = "model.method.init_args.generator_lr"


def test_figures_differing_keys_and_curves(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["method"]["init_args"]["generator_lr"] = 0.25
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
    assert [cell.strip() for cell in lines[RATE]] == ["0.001", "0.25"]
    assert not any(name.startswith("model.") for name in lines if name != RATE)
    with Image.open(picture) as curves:
        assert len(curves.convert("RGB").getcolors(1 << 24)) > 50


def test_runs_of_the_same_name_are_told_apart_and_equal_ones_said_to_be(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / run.name)
    assert main(["compare", str(run), str(tmp_path / run.name)]) == 0
    assert "The configurations do not differ." in capsys.readouterr().out


def repeat(run, folder, seed, losses, **keys):
    """A copy of the run as if it had been made with another seed and other settings."""
    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["seed_everything"] = config["model"]["seed"] = seed
    config["data"]["init_args"]["seed"] = seed
    config["run"]["name"] = folder.name
    config["model"]["method"]["init_args"].update(keys)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["round,train/generator_loss", *(f"{n},{x}" for n, x in enumerate(losses, 1))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def spread_lines(out):
    """Cells by figure of the table over seeds."""
    rows = out.split("over seeds")[1].split("Differing")[0].splitlines()
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows if "│" in row]
    return {cell[0]: cell[1:] for cell in cells}


def test_runs_that_differ_in_the_seed_alone_have_mean_and_spread(run, tmp_path, capsys):
    folders = [
        repeat(run, tmp_path / "a", 0, [9.0, 1.0]),
        repeat(run, tmp_path / "b", 1, [9.0, 2.0]),
        repeat(run, tmp_path / "c", 2, [9.0, 6.0]),
        repeat(run, tmp_path / "d", 0, [4.0], generator_lr=0.25),
        repeat(run, tmp_path / "e", 1, [5.0], generator_lr=0.25),
        repeat(run, tmp_path / "f", 3, [7.0], generator_lr=0.5),
    ]
    for folder, accuracy in zip(folders[:2], (0.5, 0.75), strict=True):
        older, newer = ({"digits": {"together": {"fid": x}}} for x in (9.0, accuracy))
        (folder / "metrics.json").write_text(json.dumps({"domains": older}))
        (folder / "metrics-2.json").write_text(json.dumps({"domains": newer}))
        os.utime(folder / "metrics.json", (1, 1))
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "seeds 0, 1, 2" in out
    assert "a, b, c" in out
    found = spread_lines(out)
    assert found["train/generator_loss"] == ["3 ± 2.6", "4.5 ± 0.71"]
    assert found["round"] == ["2", "1"]
    assert found["test/digits/fid"] == ["0.625 ± 0.18 (2 of 3)", "-"]


def test_unfinished_runs_and_second_runs_of_a_seed_are_not_in_the_mean(run, tmp_path, capsys):
    folders = [
        repeat(run, tmp_path / "short", 0, [7.0]),
        repeat(run, tmp_path / "a", 0, [9.0, 1.0]),
        repeat(run, tmp_path / "again", 0, [9.0, 5.0]),
        repeat(run, tmp_path / "b", 1, [9.0, 2.0]),
        repeat(run, tmp_path / "c", 0, [9.0], generator_lr=0.25),
        repeat(run, tmp_path / "d", 1, [9.0, 9.0], generator_lr=0.25),
    ]
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "seeds 0, 1" in out
    found = spread_lines(out.split("not in the mean")[0])
    assert found["train/generator_loss"] == ["1.5 ± 0.71"]
    assert found["round"] == ["2"]
    assert [line for line in out.splitlines() if line.startswith("not in the mean")] == [
        "not in the mean over seeds: short, it ends after round 1, others after 2",
        "not in the mean over seeds: again, seed 0 a second time",
        "not in the mean over seeds: c, it ends after round 1, others after 2",
    ]


def test_runs_that_a_figure_stops_are_whole_however_short(run, tmp_path, capsys):
    folders = [repeat(run, tmp_path / name, n, [1.0] * (n + 1)) for n, name in enumerate("ab")]
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        stopping = {"class_path": "huscf.callbacks.RoundEarlyStopping"}
        config["trainer"]["callbacks"] = [stopping]
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert spread_lines(out)["round"] == ["1.5 ± 0.71"]
    assert "not in the mean" not in out


def test_a_folder_given_twice_is_one_run(run, tmp_path, capsys):
    folder = repeat(run, tmp_path / "a", 0, [1.0])
    other = repeat(run, tmp_path / "b", 1, [3.0])
    twice = str(folder / ".." / "a")
    assert main(["compare", str(folder), twice, str(other)]) == 0
    out = capsys.readouterr().out
    assert spread_lines(out)["train/generator_loss"] == ["2 ± 1.4"]
    assert "not in the mean" not in out


def test_curves_are_of_every_run_and_the_legend_of_what_is_drawn(run, monkeypatch):
    legends = []
    monkeypatch.setattr(charts, "to_png", lambda figure: legends.extend(list_legends(figure)))
    one = RunRecord.read(run)
    rows = [[{"round": 1.0, f"eval/{name}/label_accuracy": 0.5}] for name in ("digits", "faces")]
    runs = [dataclasses.replace(one, rows=each) for each in rows]
    charts.draw_panels(runs, ["run", "run"])
    assert legends == [["run digits", "run faces"]]


def list_legends(figure):
    return [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]


def test_tests_under_different_judges_are_no_repetitions(run, tmp_path, capsys):
    folders = [repeat(run, tmp_path / name, seed, [1.0]) for seed, name in enumerate("ab")]
    for folder, plain in zip(folders, (False, True), strict=True):
        domains = {"digits": {"together": {"fid": 9.0}, "num_per_class": 10}}
        content = {"round": 2, "plain_judge": plain, "domains": domains}
        (folder / "metrics.json").write_text(json.dumps(content))
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "test/digits/fid" not in spread_lines(out), "neither seed has it under the same test"
    assert "huscf test: plain_judge" in out.split("Differing")[1]
    assert "huscf test: round" not in out
    for folder, extra in zip(folders, ({}, {"data_changed": True}), strict=True):
        content = {"round": 2, "domains": {"digits": {"together": {"fid": 9.0}}}, **extra}
        (folder / "metrics.json").write_text(json.dumps(content))
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "test/digits/fid" not in spread_lines(out), "neither seed has it under the same test"
    assert "huscf test: data_changed" in out.split("Differing")[1]


def test_runs_of_one_seed_or_of_different_settings_are_no_repetitions(run, tmp_path, capsys):
    folders = [
        repeat(run, tmp_path / "a", 0, [1.0]),
        repeat(run, tmp_path / "b", 0, [2.0]),
        repeat(run, tmp_path / "c", 1, [3.0], latent_dim=7),
    ]
    assert main(["compare", *map(str, folders)]) == 0
    assert "over seeds" not in capsys.readouterr().out


def test_an_existing_picture_is_left_alone_and_a_missing_folder_named(run, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    picture.write_text("mine")
    assert main(["compare", str(run), f"--output={picture}"]) == 2
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert picture.read_text() == "mine"
    assert main(["compare", str(run), f"--output={tmp_path / 'no' / 'c.png'}"]) == 2
    assert "the folder does not exist" in capsys.readouterr().err


def test_missing_keys_are_dashes():
    found = differing_keys([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}])
    assert found == {"a.c": ["2", "-"]}


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert "not a run's folder" in capsys.readouterr().err
