"""A grid of runs: what it stands for, how it goes on, and what it shows."""

import csv
import json

import pytest
import yaml

from huscf.__main__ import main
from huscf.bench import Grid, run_cells, running
from huscf.bench.page import trace
from huscf.bench.running import find_folder, is_done
from huscf.bench.tables import measure
from huscf.errors import HuscfError
from huscf.reporting import RunRecord
from tests.conftest import REPOSITORY

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.yaml")
MDGAN = str(REPOSITORY / "configs" / "methods" / "mdgan.yaml")
TINY = {
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 1,
    "trainer.accelerator": "cpu",
    "federation.every_n_epochs": 1,
    "evaluation.every_n_rounds": -1,
    "samples.every_n_rounds": 0,
    "report.enabled": False,
    "training.num_threads": 1,
    "data.init_args.batch_size": 4,
    "data.init_args.clients_per_domain": 2,
    "model.method.init_args.generator.init_args.width": 4,
    "model.method.init_args.discriminator.init_args.width": 4,
}
RATE = "model.method.init_args.generator_lr"


def write(path, **values):
    path.write_text(yaml.safe_dump({"base": [QUICKSTART], "methods": {"huscf": {}}, **values}))
    return path


def make_run(folder, step, seed=0, rule="MergedClusters", **figures):
    """The least that a run's folder needs, with two rounds."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "data": {"class_path": "Data"},
        "model": {"method": {"class_path": "Method"}},
        "federation": {"rule": {"class_path": rule}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    plan = {"blocks": {"net": 3}, "clients": [{"client": 0, "cuts": [1, 1], "profile": ""}]}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    rows = [{"round": n, "step": step * n / 2, "traffic/mbytes": 2.0, **figures} for n in (1, 2)]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    header = "client,profile,cuts,uplink_mbytes,downlink_mbytes"
    (folder / "clients.csv").write_text(f"{header}\n0,,1 1,3.0,1.0\n1,,1 1,5.0,2.0\n")
    return RunRecord.read(folder)


def test_a_grid_is_every_method_scenario_value_and_seed(tmp_path):
    path = write(
        tmp_path / "b.yaml",
        methods={"huscf": {}, "mdgan": {"configs": [MDGAN], "set": {"a.b": 1}}},
        scenarios={"iid": {}, "skewed": {"set": {"data.x": {"odds": {0: 0.5}}}}},
        seeds=[0, 1],
        set={"trainer.max_epochs": 3},
    )
    cells = Grid.load([path], [f"{RATE}=1e-3,5e-4"]).list_cells()
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert cells[0].name == "huscf-iid-generator_lr=1e-3-seed0"
    options = cells[-1].options(tmp_path)
    assert options[:4] == ["--config", QUICKSTART, "--config", MDGAN]
    assert "--data.x={odds: {0: 0.5}}" in options and "--a.b=1" in options
    assert f"--{RATE}=5e-4" in options and "--seed_everything=1" in options
    few = Grid.load([path], seeds=[7], output=tmp_path / "out")
    assert (few.seeds, few.output) == ((7,), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metods": {}}, "unknown key metods; known: base"),
        ({"methods": {}}, "methods is missing"),
        (
            {"methods": {"m": {"configs": ["no.yaml"]}}},
            "m: configs: config no.yaml: there is no such",
        ),
        ({"methods": {"m": {"config": []}}}, "m: must have configs, a list of files, or set"),
        ({"seeds": ["a"]}, "seeds must be whole numbers"),
        ({"grid": {"a": 1}}, "grid: a must be a list"),
        ({"set": {"run.name": "x"}}, "run.name is the bench's own"),
        ({"set": [1]}, "set: must map keys"),
    ],
)
def test_what_is_no_bench_file_is_one_line(tmp_path, values, words):
    path = write(tmp_path / "b.yaml", **values)
    with pytest.raises(HuscfError, match=words) as raised:
        Grid.load([path]).list_cells()
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_files_and_options_that_are_none_are_one_line(tmp_path):
    with pytest.raises(HuscfError, match="there is no such bench file"):
        Grid.load([tmp_path / "none.yaml"])
    with pytest.raises(HuscfError, match="write key=value,value"):
        Grid.load([write(tmp_path / "b.yaml")], ["generator_lr"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(HuscfError, match=r"broken\.yaml: cannot be read"):
        Grid.load([broken])


def test_a_key_that_does_not_exist_is_named_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "_run", lambda *_: pytest.fail("it ran"))
    command = ["bench", "--config", str(write(tmp_path / "b.yaml")), "--output", str(tmp_path)]
    assert main([*command, "--grid", "model.method.init_args.generater_lr=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "huscf---generater_lr=1-seed0" in lines[0] and "generater_lr' is not acc" in lines[0]
    assert "nothing was run" in lines[0]
    assert not (tmp_path / "cells").exists()


def test_a_bench_runs_goes_on_after_a_failure_and_resumes(tmp_path, capsys, monkeypatch):
    """Real runs, in this process; the first method's rate is refused when it begins."""
    calls = []

    def run(options, checkpoint):
        calls.append((options, checkpoint))
        capsys.readouterr()
        path = [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
        if main(["fit", *options, *path, "--trainer.enable_progress_bar=false"]):
            return capsys.readouterr().err.strip().removeprefix("huscf: error: ")
        return ""

    monkeypatch.setattr(running, "_run", run)
    monkeypatch.chdir(tmp_path)
    methods = {"bad": {"set": {RATE: -1}}, "mdgan": {"configs": [MDGAN]}}
    devices = {
        "profiles": {"a": {"speed_gflops": 1, "uplink_mbit_per_s": 8, "downlink_mbit_per_s": 8}},
        "server": {"speed_gflops": 9, "uplink_mbit_per_s": 80, "downlink_mbit_per_s": 80},
        "assignment": {"counts": {"a": 4}},
    }
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump(devices))
    path = write(tmp_path / "b.yaml", methods=methods, set=TINY, devices="devices.yaml")
    command = ["bench", "--config", str(path), "--output", "out"]
    assert main(command) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(calls) == 2
    assert "tables: out/table.md" in said[-2] and "page: out/bench.html" in said[-1]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert "failed: method.generator_lr is -1.0" in table[2]
    names, row = ([c.strip() for c in line.split("|")] for line in (table[0], table[3]))
    cells = dict(zip(names, row, strict=True))
    assert (cells["method"], cells["seeds"], cells["steps"]) == ("mdgan", "1", "2")
    assert float(cells["simulated s"]) == pytest.approx(2 * float(cells["simulated s a step"]))
    (entry,) = csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())
    assert entry["method"] == "mdgan" and float(entry["traffic/mbytes"]) > 0
    page = (tmp_path / "out" / "bench.html").read_text()
    assert "data:image/png;base64," in page and "bad---seed0: method.generator_lr" in page
    # An interrupted run goes on.
    monkeypatch.setattr("huscf.bench.command.check_cells", lambda *_: None)
    monkeypatch.setattr("huscf.bench.command.write_page", lambda *_: "")
    record = tmp_path / "out" / "cells" / "mdgan---seed0.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "started"}))
    calls.clear()
    assert main(command) == 1
    assert [c and c.name for _, c in calls] == [None, "last.ckpt"]
    assert json.loads(record.read_text())["status"] == "done"
    calls.clear()
    assert main(command) == 1
    assert [c for _, c in calls] == [None], "what is done is not run again; what failed is"


def test_other_settings_begin_anew_and_the_newest_folder_counts(tmp_path, monkeypatch):
    calls = []

    def run(options, checkpoint):
        calls.append(checkpoint)
        number = len(calls)
        make_run(tmp_path / "runs" / f"huscf---seed0-{number}", 40)
        return ""

    monkeypatch.setattr(running, "_run", run)
    for epochs in (1, 2, 2):
        grid = Grid.load([write(tmp_path / "b.yaml", set={"trainer.max_epochs": epochs})])
        (cell,) = grid.list_cells()
        assert run_cells([cell], tmp_path, lambda line: None) == 0
    assert calls == [None, None]
    assert find_folder(cell, tmp_path).name == "huscf---seed0-2"
    assert is_done(cell, tmp_path)
    (other,) = Grid.load([write(tmp_path / "c.yaml")]).list_cells()
    assert not is_done(other, tmp_path), "it was asked for otherwise"


def test_a_run_that_fails_leaves_its_last_line():
    """A process of its own, which no other test starts."""
    reason = running._run(["--nope=1"], None)
    assert "nope" in reason and "\n" not in reason and not reason.startswith("huscf")


def test_figures_are_means_over_domains_and_curves_have_three_axes(tmp_path):
    (cell,) = Grid.load([write(tmp_path / "b.yaml")]).list_cells()
    figures = {"eval/a/label_accuracy": 0.5, "eval/b/label_accuracy": 0.7, "federation/ari": 0.9}
    run = make_run(tmp_path / "one-1", 40, **figures)
    found = measure(cell, run, 0.25)
    assert found.figures == pytest.approx(
        {
            **{"ARI": 0.9, "label accuracy": 0.6, "steps": 40},
            **{"MB uplink per client": 4.0, "MB downlink per client": 1.5},
            **{"simulated s a step": 0.25, "simulated s": 10.0},
        }
    )
    curves = trace(found, "eval/*/label_accuracy")
    assert curves["steps"] == ([20, 40], pytest.approx([0.6, 0.6]))
    assert curves["MB of all clients"][0] == [2, 4]
    assert curves["simulated seconds"][0] == [5, 10]
    fixed = make_run(tmp_path / "two-1", 40, rule="huscf.federation.OneCluster", **figures)
    assert "ARI" not in measure(cell, fixed).figures, "nobody looked for clusters"
