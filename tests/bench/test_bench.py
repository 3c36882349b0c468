"""A grid of runs: what it stands for, how it goes on, and what it shows."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from threading import Barrier

import pytest
import yaml

from huscf.__main__ import main
from huscf.bench import Grid, run_cells, running
from huscf.bench.command import parse_options
from huscf.bench.page import draw_curves, trace, write_page
from huscf.bench.records import DIGEST, digest_config, find_folder, find_reason, is_done
from huscf.bench.tables import make_figure_table, make_rows, measure
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
    chosen = few.choose(["mdgan"], ["skewed", "iid"]).list_cells()
    assert [cell.name for cell in chosen] == ["mdgan-iid-seed7", "mdgan-skewed-seed7"]
    assert few.choose() == few
    for option, names in (("methods", ["mdgan", "fedgan"]), ("scenarios", ["iid", "even"])):
        with pytest.raises(HuscfError, match=f"^--{option}: there is no {names[1]}; there are "):
            few.choose(**{option: names})


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
        ({"seeds": [0, -1]}, "seeds must be whole numbers from 0 to 4294967295, got -1"),
        ({"seeds": [2**32]}, "from 0 to 4294967295, got 4294967296"),
        ({"seeds": 3}, "seeds must be a list of whole numbers, got 3"),
        ({"grid": {"a": 1}}, "grid: a must be a list"),
        ({"grid": [1, 2]}, "grid: must map keys"),
        ({"grid": {"seed_everything": [1]}}, "grid: seed_everything is the bench's .* give seeds"),
        ({"set": {"run.name": "x"}}, "run.name is the bench's own: name methods"),
        ({"output": 5}, "output must be a path, got 5"),
        ({"output": ["a"]}, r"output must be a path, got \['a'\]"),
        ({"devices": "none.yaml"}, "devices: config none.yaml: there is no such"),
        ({"devices": ["a"]}, "devices: must be a devices file"),
        ({"set": [1]}, "set: must map keys"),
        (
            {"audit": True},
            "audit to numbers, or be {}; known: deco",
        ),
        ({"audit": {"steps": 1}}, "audit: must map options of huscf audit"),
        ({"audit": {"num_judged": 3}}, "audit: --num_judged is 3"),
    ],
)
def test_what_is_no_bench_file_is_one_line(tmp_path, values, words):
    path = write(tmp_path / "b.yaml", **values)
    with pytest.raises(HuscfError, match=words) as raised:
        Grid.load([path]).list_cells()
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_values_of_an_option_are_those_of_a_yaml_list(tmp_path):
    path = write(tmp_path / "b.yaml")
    given = {
        "1e-3,5e-4,null": ["1e-3", "5e-4", None],
        "null,{class_path: a, init_args: {b: 1, c: [2, 3]}}": [
            None,
            {"class_path": "a", "init_args": {"b": 1, "c": [2, 3]}},
        ],
        "[1, 2],[2, 2]": [[1, 2], [2, 2]],
        '"a, b",c': ["a, b", "c"],
    }
    for text, values in given.items():
        assert Grid.load([path], [f"x.y={text}"]).points == {"x.y": values}
    keys = ["model.wire={class_path: a, init_args: {b: 1}}"]
    (cell,) = Grid.load([path], keys).list_cells()
    assert "--model.wire={class_path: a, init_args: {b: 1}}" in cell.options(tmp_path)


@pytest.mark.parametrize("text", ["x=[1", "x=*a", "x=1,,2", "x={a: 1", "x=1]", "x=2020-13-45"])
def test_an_option_that_is_no_yaml_is_one_line(text, tmp_path):
    with pytest.raises(HuscfError) as raised:
        Grid.load([write(tmp_path / "b.yaml")], [text])
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"--grid {text}: write key=value,value, the values as in")


def test_options_that_are_the_bench_s_own_are_refused(tmp_path):
    path = write(tmp_path / "b.yaml")
    with pytest.raises(HuscfError, match="--grid: seed_everything is the bench's own: give seeds"):
        Grid.load([path], ["seed_everything=1,2"])
    for seed in (-1, 2**32):
        with pytest.raises(HuscfError, match=f"--seeds must be whole numbers from .* got {seed}"):
            Grid.load([path], seeds=[0, seed])


@pytest.mark.parametrize("key", [RATE, "model.method.generator_lr"])
def test_keys_of_a_grid_may_be_short(key, tmp_path):
    cells = Grid.load([write(tmp_path / "b.yaml")], [f"{key}=0.25,0.5"]).list_cells()
    configs = running.check_cells(cells, tmp_path)
    rates = [config["model"]["method"]["init_args"]["generator_lr"] for config in configs.values()]
    assert rates == [0.25, 0.5] and "huscf-generator_lr=0.25" in configs


def test_files_and_options_that_are_none_are_one_line(tmp_path):
    with pytest.raises(HuscfError, match="there is no such bench file"):
        Grid.load([tmp_path / "none.yaml"])
    with pytest.raises(HuscfError, match="write key=value,value"):
        Grid.load([write(tmp_path / "b.yaml")], ["generator_lr"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(HuscfError, match=r"broken\.yaml: cannot be read"):
        Grid.load([broken])


@pytest.mark.parametrize("jobs", [[], ["--jobs", "1"]])
def test_a_key_that_does_not_exist_is_named_before_anything_runs(
    jobs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(running, "_run", lambda *_: pytest.fail("it ran"))
    path = str(write(tmp_path / "b.yaml"))
    command = ["bench", "--config", path, "--output", str(tmp_path), *jobs]
    assert main([*command, "--grid", "model.method.init_args.generater_lr=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "huscf-generater_lr=1-seed0" in lines[0] and "generater_lr' is not acc" in lines[0]
    assert "nothing was run" in lines[0]
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize("value", ["0", ".nan"])
def test_a_budget_that_no_run_can_have_is_named_before_anything_runs(
    value, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(running, "_run", lambda *_: pytest.fail("it ran"))
    command = ["bench", "--config", str(write(tmp_path / "b.yaml")), "--output", str(tmp_path)]
    assert main([*command, f"--budget.max_mbytes={value}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "huscf-seed0: budget.max_mbytes is " in line and line.endswith("; nothing was run")
    assert not (tmp_path / "cells").exists()


def test_runs_that_will_have_no_scores_are_said_before_they_begin(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huscf.bench.command.run_cells", lambda *_: 0)
    command = ["bench", "--config", str(write(tmp_path / "b.yaml")), "--output", str(tmp_path)]
    assert main([*command, "--evaluation.every_n_rounds=-1"]) == 0
    assert "huscf will have no scores: evaluation.every_n_rounds" in capsys.readouterr().out
    assert main(command) == 0
    assert "no scores" not in capsys.readouterr().out


def test_a_bench_runs_goes_on_after_a_failure_and_resumes(tmp_path, capsys, monkeypatch):
    """Real runs, in this process; the first method's rate is refused when it begins."""
    calls = []

    def run(options, checkpoint, *_):
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
    command = ["bench", "--config", str(path), "--output", "out", "--jobs", "1"]
    assert main(command) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(calls) == 2
    assert "tables: out/table.md" in said[-2] and "page: out/bench.html" in said[-1]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert "failed: method.generator_lr is -1.0" in table[2]
    names, row = ([c.strip(" ↓↑") for c in line.split("|")] for line in (table[0], table[3]))
    cells = dict(zip(names, row, strict=True))
    assert (cells["method"], cells["seeds"], cells["steps"]) == ("mdgan", "1", "2")
    assert float(cells["simulated s"]) == pytest.approx(
        2 * float(cells["simulated s a step"]),
        rel=1e-3,  # both are rounded
    )
    (entry,) = csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())
    assert entry["method"] == "mdgan" and float(entry["traffic/mbytes"]) > 0
    page = (tmp_path / "out" / "bench.html").read_text()
    assert "data:image/png;base64," in page and "bad-seed0: method.generator_lr" in page
    # An interrupted run goes on.
    monkeypatch.setattr("huscf.bench.command.check_cells", lambda *_: {})
    monkeypatch.setattr("huscf.bench.command.write_page", lambda *_: "")
    record = tmp_path / "out" / "cells" / "mdgan-seed0.json"
    interrupted = {"status": "started", "is_trained": False}
    record.write_text(json.dumps({**json.loads(record.read_text()), **interrupted}))
    calls.clear()
    assert main(command) == 1
    assert [c and c.name for _, c in calls] == [None, "last.ckpt"]
    assert json.loads(record.read_text())["status"] == "done"
    calls.clear()
    assert main(command) == 1
    assert [c for _, c in calls] == [None], "what is done is not run again; what failed is"


def test_other_settings_begin_anew_and_the_newest_folder_counts(tmp_path, monkeypatch):
    calls = []

    def run(options, checkpoint, *_):
        calls.append(checkpoint)
        number = len(calls)
        make_run(tmp_path / "runs" / f"huscf-seed0-{number}", 40)
        return ""

    monkeypatch.setattr(running, "_run", run)
    for epochs in (1, 2, 2):
        grid = Grid.load([write(tmp_path / "b.yaml", set={"trainer.max_epochs": epochs})])
        (cell,) = grid.list_cells()
        assert run_cells([cell], tmp_path, lambda line: None) == 0
    assert calls == [None, None]
    assert find_folder(cell, tmp_path).name == "huscf-seed0-2"
    assert is_done(cell, tmp_path)
    (other,) = Grid.load([write(tmp_path / "c.yaml")]).list_cells()
    assert not is_done(other, tmp_path), "it was asked for otherwise"


class Bench:
    """The command on a configuration that changes, whose runs do nothing but make a folder."""

    def __init__(self, folder, monkeypatch, capsys):
        self.base, self.out, self.capsys = folder / "base.yaml", folder / "out", capsys
        self.record = self.out / "cells" / "huscf-seed0.json"
        self.command = ["bench", "--jobs=1", "--output", str(self.out), "--config"]
        self.command.append(str(write(folder / "b.yaml", base=[QUICKSTART, str(self.base)])))
        self.checkpoints, self.is_killed_early = [], False
        monkeypatch.setattr(running, "_run", self.run)
        monkeypatch.setattr("huscf.bench.command.write_page", lambda *_: "")

    def run(self, options, checkpoint, *_):
        self.checkpoints.append(checkpoint)
        if self.is_killed_early:
            raise KeyboardInterrupt
        if checkpoint is None:
            names = (f"{options[-2].partition('=')[2]}-{n}" for n in range(1, 9))
            folder = next(f for name in names if not (f := self.out / "runs" / name).exists())
            make_run(folder, int(self.epochs))
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "last.ckpt").touch()
        return ""

    def call(self, epochs, *options):
        """Return what is said, and the checkpoints from which runs went on."""
        self.epochs = epochs
        self.base.write_text(f"trainer: {{max_epochs: {epochs}}}")
        self.checkpoints.clear()
        main([*self.command, *options])
        return self.capsys.readouterr().out, list(self.checkpoints)

    def end_early(self):
        """Leave the record of a run that was interrupted."""
        known = json.loads(self.record.read_text())
        self.record.write_text(json.dumps({**known, "status": "started", "is_trained": False}))

    def steps(self):
        with (self.out / "table.csv").open() as file:
            return [int(float(row["step"])) for row in csv.DictReader(file)]


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    return Bench(tmp_path, monkeypatch, capsys)


def test_a_run_whose_configuration_file_has_changed_begins_anew(bench):
    assert bench.call(20)[1] == [None]
    said, runs = bench.call(20, "--seeds", "0", "1")
    assert "[1/2] huscf-seed0: done before" in said and runs == [None]
    assert bench.steps() == [20, 20]
    said, runs = bench.call(30)
    assert "[1/1] huscf-seed0: its configuration has changed: it begins anew, in a new" in said
    assert runs == [None] and bench.steps() == [30]
    assert (bench.out / "runs" / "huscf-seed0-1").is_dir(), "nothing is overwritten"
    said, runs = bench.call(30)
    assert "done before" in said and runs == []
    # A run that is half done does not go on as another one.
    bench.end_early()
    assert [path.parts[-3] for path in bench.call(30)[1]] == ["huscf-seed0-2"]
    bench.end_early()
    assert bench.call(40)[1] == [None] and bench.steps() == [40]


def test_what_stopped_before_it_had_a_folder_does_not_go_on_in_that_of_before(bench):
    bench.call(20)
    bench.is_killed_early = True
    said, _ = bench.call(30)
    assert "interrupted" in said and bench.steps() == [], "20 epochs are not what is asked for"
    bench.is_killed_early = False
    assert bench.call(30)[1] == [None] and bench.steps() == [30]


def test_a_record_without_a_digest_counts_as_unchanged(bench):
    bench.call(20)
    known = json.loads(bench.record.read_text())
    bench.record.write_text(json.dumps({k: known[k] for k in known.keys() - {DIGEST, "older"}}))
    said, runs = bench.call(30)
    assert "done before" in said and runs == [] and bench.steps() == [20]


def test_odds_in_another_order_are_another_configuration():
    """Whoever draws from them in another order has other clients."""
    one, other = ({"data": {"odds": odds}} for odds in ({1: 0.5, 2: 0.5}, {2: 0.5, 1: 0.5}))
    assert one == other and digest_config(one) != digest_config(other)


def test_tables_alone_are_of_what_has_run(bench):
    bench.call(20)
    bench.call(30, "--only_table")
    assert bench.steps() == [20]


def test_a_run_whose_folder_is_gone_runs_again(bench):
    bench.call(20)
    bench.call(30)
    shutil.rmtree(bench.out / "runs" / "huscf-seed0-2")
    said, runs = bench.call(30)
    assert "[1/1] huscf-seed0: the folder of its run is gone: it begins anew" in said
    assert runs == [None] and bench.steps() == [30]
    assert "done before" in bench.call(30)[0]


def test_an_audit_follows_every_run_and_is_asked_for_by_itself(tmp_path, monkeypatch):
    calls = []
    reasons = ["", "no data", "", ""]

    def call(words, *_):
        calls.append(words)
        if words[0] == "fit":
            make_run(tmp_path / "runs" / "huscf-seed0-1", 40)
        return reasons[len(calls) - 1]

    monkeypatch.setattr(running, "_call", call)
    audit = {"inversion_steps": 20}
    (cell,) = Grid.load([write(tmp_path / "b.yaml", audit=audit)]).list_cells()
    assert run_cells([cell], tmp_path, lambda line: None) == 1
    assert find_reason(cell, tmp_path) == "audit: no data"
    assert run_cells([cell], tmp_path, lambda line: None) == 0
    asked = ["audit", f"--ckpt_path={tmp_path / 'runs' / 'huscf-seed0-1'}", "--inversion_steps=20"]
    assert [words[0] for words in calls] == ["fit", "audit", "audit"] and calls[1:] == [asked] * 2
    assert is_done(cell, tmp_path)
    # Who asks for another audit, or for none, does not train again.
    (other,) = Grid.load([write(tmp_path / "c.yaml", audit={})]).list_cells()
    (none,) = Grid.load([write(tmp_path / "d.yaml")]).list_cells()
    assert is_done(none, tmp_path) and not is_done(other, tmp_path)
    assert run_cells([other], tmp_path, lambda line: None) == 0
    assert [words[0] for words in calls[3:]] == ["audit"]


def test_an_audit_s_best_attacks_are_columns_with_a_direction(tmp_path):
    (cell,) = Grid.load([write(tmp_path / "b.yaml")]).list_cells()
    run = make_run(tmp_path / "one-1", 40, **{"seconds": 0.5, "privacy/epsilon": 3.0})
    place = "discriminator_head 2, client 3"
    attacks = [
        ("inversion by optimisation", place, {"mse": 0.02, "ssim": 0.5, "accuracy": 0.75}),
        ("inversion by a decoder", place, {"mse": 0.01, "ssim": 0.4}),
        ("labels from gradients", place, {"accuracy": 0.25}),
        ("inversion by a decoder", f"{place}, when compared", {"mse": 0.5, "ssim": 0.1}),
        ("classes from averaged blocks", "generator", {"auroc": 0.9}),
        ("membership by samples", "all domains", {"auroc": 0.6, "tpr_at_1_percent": 0.02}),
    ]
    found = [{"attack": a, "place": p, "trained": figures} for a, p, figures in attacks]
    (run.folder / "audit.json").write_text(json.dumps({"attacks": found}))
    measured = measure(cell, run)
    audited = {
        **{"MSE, head 2": 0.01, "SSIM, head 2": 0.4, "labels found, head 2": 0.75},
        **{"MSE, head 2, compared": 0.5, "SSIM, head 2, compared": 0.1},
        "AUROC, classes, generator": 0.9,
        **{"AUROC, members, samples": 0.6, "TPR at 1 %, members, samples": 0.02},
    }
    known = {"epsilon": 3.0, "ms a step, here": 25.0, "steps": 40.0}
    assert measured.figures.items() >= {**known, **audited}.items()
    head = make_figure_table(make_rows([cell], [measured], lambda _: "")).to_markdown().splitlines()
    assert "MSE, head 2 ↑" in head[0] and "SSIM, head 2 ↓" in head[0] and "epsilon ↓" in head[0]


def test_a_run_that_fails_leaves_its_last_line():
    """A process of its own, which no other test starts."""
    reason = running._run(["--nope=1"], None, running.Children())
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


def test_a_configuration_of_a_run_is_a_bench_of_one_method(tmp_path):
    options = {"trainer.max_epochs": "3", RATE: "1e-3"}
    grid = Grid.load([Path(QUICKSTART), Path(MDGAN)], seeds=[4, 5], keys=options)
    cells = grid.list_cells()
    assert [cell.name for cell in cells] == ["mdgan-seed4", "mdgan-seed5"]
    assert cells[0].options(tmp_path)[:4] == ["--config", QUICKSTART, "--config", MDGAN]
    assert f"--{RATE}=1e-3" in cells[0].options(tmp_path)
    assert grid.output.name == "bench-mdgan"
    # What is given as an option wins over what a bench file sets for all, or for a method.
    file = write(tmp_path / "b.yaml", methods={"m": {"set": {RATE: 5}}}, set={"a.b": 1})
    (cell,) = Grid.load([file], keys={RATE: "7", "a.b": "2"}).list_cells()
    assert dict(cell.keys) == {RATE: "7", "a.b": "2"}
    with pytest.raises(HuscfError, match=r"options: run\.name is the bench's own"):
        Grid.load([file], keys={"run.name": "x"})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--a.b=1", "--c.d", "-2"], {"a.b": "1", "c.d": "-2"}),
        (["--a.b="], {"a.b": ""}),
        (["x"], "x: an option begins with --"),
        (["--a.b"], "--a.b: its value is missing"),
    ],
)
def test_options_of_fit_are_read(words, found):
    if isinstance(found, dict):
        assert parse_options(words) == found
    else:
        with pytest.raises(HuscfError, match=found):
            parse_options(words)


def test_fit_with_seeds_is_a_bench(tmp_path, capsys, monkeypatch):
    """The command line of a user, up to where runs would start."""
    asked = []
    monkeypatch.setattr(running, "_run", lambda options, *_: asked.append(options) or "no")
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", QUICKSTART, "--seeds", "3", "4", "--trainer.max_epochs", "2"]
    assert main([*command, "--jobs=1"]) == 1
    assert len(asked) == 2
    assert {"--trainer.max_epochs=2", "--seed_everything=4"} <= set(asked[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/2] quickstart-seed3: failed: no; 1 to go, about 0 s"
    assert (tmp_path / "runs" / "bench-quickstart" / "table.md").is_file()


def test_runs_go_side_by_side_and_each_is_reported(tmp_path, monkeypatch):
    """Two runs that wait for each other would never end one after the other."""
    both, threads = Barrier(2, timeout=20), []

    def run(options, checkpoint, children, number):
        threads.append(number)
        both.wait()
        if "--seed_everything=0" not in options:
            return "bad"
        make_run(tmp_path / "runs" / "huscf-seed0-1", 40)
        return ""

    monkeypatch.setattr(running, "_run", run)
    cells = Grid.load([write(tmp_path / "b.yaml")], seeds=[0, 1]).list_cells()
    said = []
    assert run_cells(cells, tmp_path, said.append, jobs=2) == 1
    assert sorted(line[:22] for line in said) == [
        "[1/2] huscf-seed0: don",
        "[2/2] huscf-seed1: fai",
    ]
    assert threads == [max(1, running.count_cores() // 2)] * 2
    assert [is_done(cell, tmp_path) for cell in cells] == [True, False]


def test_a_stop_ends_the_runs_and_begins_no_other(tmp_path, monkeypatch):
    """Real processes, which would take a minute; whoever reports is interrupted."""
    started = []

    def run(options, checkpoint, children, threads):
        if "--seed_everything=0" in options:
            return ""
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(children.start(command, os.environ))
        started[-1].communicate()
        return "stopped"

    def stop(line):
        while not started:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_run", run)
    monkeypatch.setattr(running, "TELL_AFTER_S", 0.1)
    cells = Grid.load([write(tmp_path / "b.yaml")], seeds=list(range(5))).list_cells()
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, tmp_path, stop, jobs=2)
    assert all(child.wait(5) for child in started) and len(started) <= 2
    ended = running.Children()
    ended.end()
    with pytest.raises(KeyboardInterrupt):
        ended.start([sys.executable, "--version"], os.environ)


def test_sigterm_ends_a_bench_as_ctrl_c_does(tmp_path, monkeypatch, capsys):
    def end_it(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("huscf.bench.command.check_cells", lambda *_: {})
    monkeypatch.setattr("huscf.bench.command.run_cells", end_it)
    monkeypatch.setattr("huscf.bench.command._write", lambda *_: None)
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["bench", "--config", str(write(tmp_path / "b.yaml"))]) == 1
    assert "interrupted; the same command goes on" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is handler


def test_as_many_runs_as_the_cores_allow(monkeypatch):
    monkeypatch.setattr(running, "count_cores", lambda: 8)
    monkeypatch.setattr(running.torch.accelerator, "is_available", lambda: False)
    two, all_cores = {"training": {"num_threads": 2}}, {"training": {"num_threads": 0}}
    assert running.count_jobs([two]) == 4
    assert running.count_jobs([two, {"training": {"num_threads": 3}}]) == 2
    assert running.count_jobs([two, all_cores]) == running.count_jobs([{}]) == 1
    monkeypatch.setattr(running.torch.accelerator, "is_available", lambda: True)
    assert running.count_jobs([two]) == 1


def test_the_table_has_mean_and_spread_and_marks_the_best_of_a_scenario(tmp_path):
    figures = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.8, ("b", 1): 0.9}
    path = write(tmp_path / "b.yaml", methods={"a": {}, "b": {}}, seeds=[0, 1])
    cells = Grid.load([path]).list_cells()
    measured = []
    for cell in cells:
        value = figures[cell.method, cell.seed]
        scores = {"eval/d/label_accuracy": value, "eval/d/frechet_distance": 10 * value}
        measured.append(measure(cell, make_run(tmp_path / f"{cell.name}-1", 40, **scores)))
    rows = make_rows(cells, measured, lambda cell: "")
    lines = make_figure_table(rows).to_markdown().splitlines()
    assert lines[0] == (
        "| method | seeds | label accuracy ↑ | Frechet ↓ | steps "
        "| MB uplink per client ↓ | MB downlink per client ↓ |"
    )
    assert lines[2:] == [
        "| a | 2 | 0.3 ± 0.14 | **3 ± 1.4** | 40 | 4 | 1.5 |",
        "| b | 2 | **0.85 ± 0.071** | 8.5 ± 0.71 | 40 | 4 | 1.5 |",
    ]
    page = write_page(rows, measured, tmp_path).read_text()
    assert "0.85 ± 0.071 *" in page and "the best of its column and scenario" in page


def test_curves_are_of_a_scenario_each_in_which_a_method_looks_the_same(tmp_path, monkeypatch):
    path = write(
        tmp_path / "b.yaml", methods={"a": {}, "b": {}}, scenarios={"iid": {}, "<x>": {}}, seeds=[0]
    )
    cells = Grid.load([path]).list_cells()[1:]
    drawn = []
    for number, cell in enumerate(cells):
        folder = tmp_path / f"{number}-1"
        drawn.append(measure(cell, make_run(folder, 40, **{"eval/d/label_accuracy": 0.5})))
    seen = []

    def draw(measured, looks):
        seen.append({each.cell.name: looks[each.cell.method] for each in measured})
        return draw_curves(measured, looks)

    monkeypatch.setattr("huscf.bench.page.draw_curves", draw)
    html = write_page(make_rows(cells, drawn, lambda cell: ""), drawn, tmp_path).read_text()
    assert re.findall("<h2>(Curves[^<]*)</h2>", html) == ["Curves: &lt;x&gt;", "Curves: iid"]
    assert [[*each] for each in seen] == [["b-_x_-seed0"], ["a-iid-seed0", "b-iid-seed0"]]
    (one,), (two, three) = seen[0].values(), seen[1].values()
    assert one == three != two
