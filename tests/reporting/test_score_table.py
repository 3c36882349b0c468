"""`huscf test` and `huscf validate` from a checkpoint alone, and evaluation during training."""

import copy
import dataclasses
import json
import math
import shutil
import signal
import statistics
from pathlib import Path

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.callbacks.run_folder import read_digests
from huscf.check_data import read_datamodule
from huscf.errors import CheckpointError, HuscfError
from huscf.metrics import ClassifierTraining, JudgeSettings, inception_distances
from huscf.metrics.evaluation import (
    DomainEvaluator,
    DomainScores,
    PublishedResult,
    domain_evaluator,
    paper_protocol,
)
from huscf.metrics.evaluation.domain_scores import spread_out
from huscf.reporting import make_score_tables, summarize_scores
from huscf.reporting.scores import format_spread
from huscf.saved_config import check_same_config
from tests.reporting.conftest import fit
from tests.reporting.test_generate import damage

FEW = ["--model.num_evaluated_per_class=10", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may write to."""
    return shutil.copytree(run, tmp_path / "run")


def test_test_needs_the_checkpoint_only_and_keeps_earlier_figures(
    copied, small_judge, capsys, monkeypatch
):
    calls = []
    load = domain_evaluator.load_judge
    monkeypatch.setattr(domain_evaluator, "load_judge", lambda *a: calls.append(1) or load(*a))
    checkpoint = copied / "checkpoints" / "last.ckpt"
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW]) == 0
    assert len(calls) == 2  # once a domain, not once a client
    out = capsys.readouterr().out
    for text in ("judge on real data", "label accuracy", "downstream F1", "2 of 2 clients", "±"):
        assert text in out
    assert "over 3 draws, evaluation seeds 0, 1, 2" in " ".join(out.split())
    assert "Test metric" not in out
    figures = json.loads((copied / "metrics.json").read_text())
    assert set(figures["domains"]) == {"digits", "negatives"}
    assert figures["round"] == 2
    assert figures["clusters"]["1"]["clients"] == [2, 3]
    digits = figures["domains"]["digits"]
    assert 0 <= digits["together"]["downstream_accuracy"] <= 1
    values = [figures["clients"][c]["frechet_distance"] for c in ("0", "1")]
    spread = digits["over_clients"]["frechet_distance"]
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert spread["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    check_seeds(figures, digits)
    shown = format_spread(digits["over_seeds"]["downstream_accuracy"])
    page = (copied / "report.html").read_text()
    assert f"<td>downstream accuracy</td><td>{shown}<" in page
    assert "over 3 draws, evaluation seeds 0, 1, 2" in page
    first = (copied / "metrics.json").read_bytes()
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW]) == 0
    assert (copied / "metrics.json").read_bytes() == first
    again = json.loads((copied / "metrics-2.json").read_text())
    assert again["clients"] == figures["clients"]


def check_seeds(figures, domain):
    """Every seed has figures of its own, but for those that samples do not change."""
    assert figures["evaluation_seeds"] == [0, 1, 2]
    assert list(domain["by_seed"]) == ["0", "1", "2"]
    for name, spread in domain["over_seeds"].items():
        values = [domain["by_seed"][seed][name] for seed in ("0", "1", "2")]
        assert spread["n"] == 3
        assert domain["together"][name] == pytest.approx(statistics.fmean(values))
        assert spread["mean"] == pytest.approx(statistics.fmean(values))
        assert spread["std"] == pytest.approx(statistics.stdev(values))
    # So short a run draws nearly the same sample always: see tests/metrics/evaluation.
    assert domain["over_seeds"]["nearest_real_ratio"]["std"] > 0
    for name in ("frechet_distance_real", "judge_accuracy"):
        assert domain["over_seeds"][name]["std"] == 0, name


def test_fewer_seeds_are_the_first_ones_and_resuming_may_change_their_number(
    copied, small_judge, capsys
):
    checkpoint = copied / "checkpoints" / "last.ckpt"
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW]) == 0
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW, "--model.num_evaluated_seeds=1"]) == 0
    assert "one draw, evaluation seed 0" in " ".join(capsys.readouterr().out.split())
    three, one = (
        json.loads((copied / name).read_text()) for name in ("metrics.json", "metrics-2.json")
    )
    assert one["evaluation_seeds"] == [0]
    for domain, figures in one["domains"].items():
        assert figures["by_seed"]["0"] == three["domains"][domain]["by_seed"]["0"]
        assert figures["together"] == figures["by_seed"]["0"]
    config = yaml.safe_load((copied / "config.yaml").read_text())
    changed = copy.deepcopy(config)
    changed["model"]["num_evaluated_seeds"] = 7
    changed["model"]["plain_judge"] = True
    changed["model"]["inception"] = {"weights": "w.pth", "antialias": True, "max_samples": 9}
    check_same_config(config, changed, "last.ckpt")
    changed["model"]["method"]["init_args"]["latent_dim"] = 7
    with pytest.raises(CheckpointError, match=r"now\): \S+init_args.latent_dim: 100 -> 7;"):
        check_same_config(config, changed, "last.ckpt")


@pytest.mark.parametrize("name", ["latent_dim", "betas", "fake_label_weights"])
def test_an_argument_that_an_older_version_did_not_have_had_its_default(copied, name):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    older = copy.deepcopy(config)
    assert name in older["model"]["method"]["init_args"]
    del older["model"]["method"]["init_args"][name]
    check_same_config(older, config, "last.ckpt")
    config["model"]["method"]["init_args"][name] = [0.5, 0.5]
    with pytest.raises(CheckpointError, match=rf"now\): \S+init_args.{name}\S*: - -> "):
        check_same_config(older, config, "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"{name}: .+ -> -"):
        check_same_config(config, older, "last.ckpt")


def test_a_test_has_yardsticks_of_real_data_in_table_file_page_and_comparison(
    copied, small_judge, capsys
):
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    options = ["--model.num_evaluated_seeds=1", "--model.num_yardstick_clients=1"]
    assert main(["test", checkpoint, *FEW, *options]) == 0
    out = capsys.readouterr().out
    for text in ("... pooled real data", "... own real data", "... own data+samples"):
        assert text in out
    assert "digits least " in out and "(1 clients)" in out
    figures = json.loads((copied / "metrics.json").read_text())
    assert "downstream_gain" in figures["clients"]["0"]
    assert "downstream_gain" not in figures["clients"]["1"]
    digits = figures["domains"]["digits"]
    assert 0 < digits["together"]["downstream_accuracy_pooled"] <= 1
    own = digits["over_clients"]["downstream_accuracy_own"]
    assert (own["n"], own["mean"]) == (1, figures["clients"]["0"]["downstream_accuracy_own"])
    page = (copied / "report.html").read_text()
    assert f"... own real data</td><td>- ({format_spread(own)})<" in page
    assert "(downstream: of some of them, as many as of all together)" in page
    assert main(["compare", str(copied)]) == 0
    assert "test/digits/downstream_accuracy_own" in capsys.readouterr().out


def test_the_papers_protocol_is_printed_beside_its_figures(copied, capsys, monkeypatch, tmp_path):
    training = ClassifierTraining(epochs=1)
    plain = JudgeSettings(width=4, normalize=False, training=training)
    monkeypatch.setattr(JudgeSettings, "plain", lambda: plain)
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "judges"))
    monkeypatch.setattr(paper_protocol, "NUM_SAMPLES", 100)
    monkeypatch.setattr(paper_protocol, "PUBLISHED", [PublishedResult(7, "x", "digits", 0.5, 4.0)])
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    options = ["--protocol", "paper", "--model.num_evaluated_seeds=1", FEW[1]]
    assert main(["test", checkpoint, *options]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "7: x",
        "50.00",
        "2 rounds",
        "10 samples of each class",
        "by the protocol of the paper",
    ):
        assert text in out
    figures = json.loads((copied / "metrics.json").read_text())
    assert (figures["protocol"], figures["plain_judge"]) == ("paper", True)
    assert figures["published"] == [
        {"scenario": 7, "what": "x", "domain": "digits", "accuracy": 0.5, "score": 4.0}
    ]
    budget = figures["budget"]
    assert (budget["rounds"], budget["clients"]) == (2, 4)
    steps = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert budget["steps"] == steps > 0
    assert "by the protocol of the paper" in (copied / "report.html").read_text()


def test_an_unknown_protocol_is_one_line(copied, capsys):
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    with pytest.raises(SystemExit, match="2"):
        main(["test", checkpoint, "--protocol=papers"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.protocol" in line and "huscf, paper" in line and "papers" in line


def test_a_run_ends_with_its_samples_beside_real_data(tmp_path, small_judge, capsys):
    options = ["--evaluation.every_n_rounds=0", "--evaluation.num_per_class=4"]
    folder = fit(tmp_path, *options, "--trainer.max_epochs=1")
    header, *_, last = (folder / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    own, mixed = (
        float(row[f"eval/digits/downstream_accuracy_{kind}"]) for kind in ("own", "mixed")
    )
    assert float(row["eval/digits/downstream_gain"]) == pytest.approx(mixed - own)
    assert float(row["eval/digits/downstream_gain_least"]) <= mixed - own + 1e-9
    assert "real data" in capsys.readouterr().out.split("trained for as many steps on")[1]
    assert "... own real data" in (folder / "report.html").read_text()


def test_scores_under_a_plain_judge_say_so(copied, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "judges"))
    settings = []
    load = domain_evaluator.load_judge
    monkeypatch.setattr(
        domain_evaluator, "load_judge", lambda *a: settings.append(a[1]) or load(*a)
    )
    options = ["--model.plain_judge=true", "--model.num_evaluated_seeds=1"]
    assert main(["test", f"--ckpt_path={copied}/checkpoints/last.ckpt", *FEW, *options]) == 0
    assert settings == [JudgeSettings.plain()] * 2
    assert "under a plain judge" in " ".join(capsys.readouterr().out.split())
    assert json.loads((copied / "metrics.json").read_text())["plain_judge"] is True
    assert "under a plain judge" in (copied / "report.html").read_text()


class Projection(torch.nn.Module):
    """Stands where Inception stands, whose weights cannot be had."""

    def forward(self, pictures):
        return pictures.flatten(1).float()[:, ::20] / 255


def test_inception_is_measured_where_weights_are_given(copied, small_judge, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(
        inception_distances, "load_inception", lambda *a: calls.append(a) or Projection()
    )
    inception = ["--model.inception.weights=w.pth", "--model.inception.max_samples=60"]
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    assert main(["test", checkpoint, *FEW, *inception]) == 0
    assert calls == [(Path("w.pth"), False)]
    out = capsys.readouterr().out
    for text in ("FID (Inception)", "KID (Inception)", "60 pictures", "antialias false"):
        assert text in " ".join(out.split())
    figures = json.loads((copied / "metrics.json").read_text())
    assert figures["inception"] == {"weights": "w.pth", "antialias": False, "max_samples": 60}
    for seed, measured in figures["domains"]["digits"]["by_seed"].items():
        assert measured["fid"] > 0, seed
        assert math.isfinite(measured["kid"]), seed
    page = (copied / "report.html").read_text()
    assert "FID (Inception)" in page
    assert "antialias false" in page


def test_missing_inception_weights_are_one_line_before_anything_is_measured(
    copied, capsys, monkeypatch
):
    monkeypatch.setattr(domain_evaluator, "load_judge", None)
    weights = "--model.inception.weights=nowhere.pth"
    assert main(["test", f"--ckpt_path={copied}/checkpoints/last.ckpt", *FEW, weights]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Inception weights at nowhere.pth" in line
    assert not (copied / "metrics.json").exists()


def test_validate_prints_quick_scores_and_writes_nothing(copied, small_judge, capsys):
    before = sorted(copied.rglob("*"))
    assert main(["validate", f"--ckpt_path={copied}/checkpoints/last.ckpt", *FEW]) == 0
    out = capsys.readouterr().out
    assert "judge on real data" in out
    assert "downstream" not in out
    assert sorted(copied.rglob("*")) == before


def test_a_configuration_beside_the_checkpoint_changes_what_it_names(
    copied, small_judge, capsys, tmp_path
):
    last = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    # The run's own configuration, which says no more of validation than the user did.
    own = ["--config", str(copied / "config.yaml")]
    assert main(["validate", *own, last, *FEW]) == 0
    assert "judge on real data" in capsys.readouterr().out
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {num_evaluated_per_class: 7}\n")
    assert main(["validate", last, "--config", str(overlay), FEW[1]]) == 0
    assert "7 samples of each class" in " ".join(capsys.readouterr().out.split())


def test_a_run_whose_partition_is_by_shares_is_tested_by_its_checkpoint(tmp_path, small_judge):
    partitioner = {
        "class_path": "huscf.datamodules.LabelExclusionPartitioner",
        "init_args": {"missing_classes": {0: 0.5, 2: 0.5}, "shares": {1.0: 0.7, 0.6667: 0.3}},
    }
    overlay = tmp_path / "skewed.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"init_args": {"partitioner": partitioner}}}))
    folder = fit(tmp_path / "runs", "--config", str(overlay))
    assert main(["validate", f"--ckpt_path={folder}/checkpoints/last.ckpt", *FEW]) == 0


@pytest.mark.parametrize("command", ["test", "validate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "this command needs --ckpt_path runs/.../last.ckpt"),
        (["--ckpt_path={}/untrained.ckpt"], "untrained, it has made no step"),
        (["--ckpt_path={}/diverged.ckpt"], "draws NaN or Inf: its training diverged"),
        (["--ckpt_path={}/text.ckpt"], "not a checkpoint of huscf (truncated, or no archive"),
        (["--ckpt_path={}/last.ckpt", "--model.num_evaluated_seeds=0"], "must be >= 1"),
        (["--ckpt_path={}/last.ckpt", "--model.num_evaluated_per_class=0"], "must be >= 1"),
        (
            ["--ckpt_path={}/last.ckpt", "--model.num_evaluated_clients=-1"],
            "clients is -1, must be >= 0",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    command, options, message, copied, small_judge, capsys
):
    folder = copied / "checkpoints"
    (folder / "text.ckpt").write_text("not a checkpoint")
    for kind in ("untrained", "diverged"):
        damage(kind, folder / "last.ckpt", folder / f"{kind}.ckpt")
    assert main([command, *(option.format(folder) for option in options)]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("huscf: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (copied / "metrics.json").exists()


def test_another_model_and_a_missing_checkpoint_are_one_line(copied, capsys):
    checkpoint = copied / "checkpoints" / "last.ckpt"
    wider = "--model.method.init_args.generator.init_args.width=8"
    assert main(["test", f"--ckpt_path={checkpoint}", wider]) == 2
    assert "model.method.init_args.generator.init_args.width: 4 -> 8" in capsys.readouterr().err
    assert main(["test", "--ckpt_path=nowhere.ckpt"]) == 2
    assert "nowhere.ckpt: no such file" in capsys.readouterr().err
    assert not (copied / "metrics.json").exists()


def test_a_domain_that_cannot_be_measured_does_not_end_the_run(tmp_path, small_judge, monkeypatch):
    measure = DomainEvaluator.measure

    def fail_on_digits(self, *args):
        if self.domain.name == "digits":
            raise HuscfError("samples lie in [nan, nan]")
        return measure(self, *args)

    monkeypatch.setattr(DomainEvaluator, "measure", fail_on_digits)
    options = ["--evaluation.every_n_rounds=0", "--evaluation.num_per_class=2"]
    with pytest.warns(UserWarning, match=r"round 1, digits: not evaluated: samples lie in \[nan"):
        folder = fit(tmp_path, *options, "--trainer.max_epochs=1", "--report.enabled=false")
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert "eval/negatives/label_accuracy" in header
    assert "eval/digits" not in header
    assert not (folder / "report.html").exists()


def test_sigterm_ends_a_test_at_once(copied, small_judge, monkeypatch):
    def be_told_to_end(self, *args):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(DomainEvaluator, "measure", be_told_to_end)
    with pytest.raises(SystemExit) as end:
        main(["test", f"--ckpt_path={copied}/checkpoints/last.ckpt", *FEW])
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (copied / "metrics.json").exists()


def test_odds_that_a_command_borrows_keep_their_order(tmp_path, small_judge):
    """Whoever draws from them in another order has other clients than the run."""
    partitioner = (
        "{class_path: huscf.datamodules.LabelExclusionPartitioner, init_args: "
        "{missing_classes: {3: 0.5, 2: 0.5}, shares: {1.0: 0.5, 0.5: 0.5}}}"
    )
    options = [f"--data.init_args.partitioner={partitioner}", "--evaluation.every_n_rounds=-1"]
    folder = fit(tmp_path, *options, "--trainer.max_epochs=1", "--report.enabled=false")
    quick = [*FEW, "--model.num_evaluated_seeds=1", "--model.num_evaluated_clients=0"]
    assert main(["test", f"--ckpt_path={folder}/checkpoints/last.ckpt", *quick]) == 0
    assert json.loads((folder / "metrics.json").read_text())["data_changed"] is False
    looked_at = read_datamodule([folder / "config.yaml"], [])
    looked_at.setup("fit")
    assert looked_at.client_digests == read_digests(folder / "checkpoints" / "last.ckpt")


def test_other_data_than_the_runs_own_are_measured_and_said_to_be_so(
    copied, small_judge, capsys, recwarn
):
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    quick = [*FEW, "--model.num_evaluated_seeds=1", "--model.num_evaluated_clients=0"]
    assert main(["test", checkpoint, *quick]) == 0
    assert json.loads((copied / "metrics.json").read_text())["data_changed"] is False
    assert not [w for w in recwarn if "trained on" in str(w.message)]
    other = "--data.init_args.clients_per_domain=[1, 3]"
    for command in ("validate", "test"):
        capsys.readouterr()
        with pytest.warns(UserWarning, match=r"those of 4 clients have changed \(0, 1, 2, 3\)"):
            assert main([command, checkpoint, *quick, other]) == 0
        assert "against other data than the run was" in " ".join(capsys.readouterr().out.split())
    assert json.loads((copied / "metrics-2.json").read_text())["data_changed"] is True
    assert "against other data than the run was trained on" in (copied / "report.html").read_text()


def test_domains_that_cannot_be_scored_are_named_and_the_others_are(
    copied, small_judge, capsys, monkeypatch
):
    real = DomainEvaluator.real.func

    def cut(self):
        domain = self.domain
        count = 0 if domain.name == "digits" else 3
        samples, labels = domain.test_samples[:count], domain.test_labels[:count]
        self.domain = dataclasses.replace(domain, test_samples=samples, test_labels=labels)
        return real(self)

    monkeypatch.setattr(DomainEvaluator, "real", property(cut))
    checkpoint = f"--ckpt_path={copied}/checkpoints/last.ckpt"
    with pytest.warns(UserWarning, match="digits: not scored: domain digits: no test samples"):
        assert main(["test", checkpoint, *FEW]) == 0
    out = capsys.readouterr().out
    assert "Frechet distance" in out and "coverage" not in out
    figures = json.loads((copied / "metrics.json").read_text())
    assert list(figures["domains"]) == ["negatives"]
    assert list(figures["clients"]) == ["2", "3"]
    together = figures["domains"]["negatives"]["together"]
    assert "kernel_distance" in together and "coverage" not in together
    assert "negatives" in (copied / "report.html").read_text()


def test_figures_that_a_domain_lacks_are_dashes():
    brief = {"label_accuracy": 0.5}
    scores = [
        DomainScores("a", {0: brief}, 5, {0: brief}, 1, 5),
        DomainScores(
            "b", {0: brief | {"coverage": 0.25}}, 5, {1: brief | {"coverage": 0.75}}, 1, 5
        ),
    ]
    summary = summarize_scores(scores, {0: 0, 1: 0}, seed=4)
    assert summary["domains"]["a"]["over_seeds"].keys() == {"label_accuracy"}
    coverage = {"mean": 0.75, "std": 0.0, "n": 1}
    assert summary["clusters"]["0"]["over_clients"]["coverage"] == coverage
    table = make_score_tables(summary)[0]
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["label accuracy", "coverage"]
    assert [column[1] for column in cells[2:]] == ["-", "-", "0.250", "0.750"]
    uneven = DomainScores("a", {0: {"x": 1.0}, 1: {"x": 2.0, "y": 3.0}}, 5, {}, 1, 5)
    assert uneven.together == {"x": 1.5, "y": 3.0}


def test_summary_by_hand():
    scores = [
        DomainScores("a", {0: {"x": 1.0}, 1: {"x": 4.0}}, 5, {0: {"x": 1.0}, 1: {"x": 3.0}}, 2, 5),
        DomainScores("b", {0: {"x": 2.0}, 1: {"x": 2.0}}, 5, {2: {"x": 5.0}}, 7, 5),
    ]
    summary = summarize_scores(scores, {0: 0, 1: 1, 2: 1}, seed=4)
    assert summary["domains"]["a"]["over_clients"]["x"] == {
        "mean": 2.0,
        "std": pytest.approx(math.sqrt(2)),
        "n": 2,
    }
    assert summary["seed"] == 4
    assert summary["evaluation_seeds"] == [0, 1]
    assert summary["domains"]["a"]["together"] == {"x": 2.5}
    assert summary["domains"]["a"]["over_seeds"]["x"]["std"] == pytest.approx(3 / math.sqrt(2))
    assert summary["domains"]["b"]["over_seeds"]["x"] == {"mean": 2.0, "std": 0.0, "n": 2}
    assert summary["clusters"]["1"]["over_clients"]["x"]["mean"] == 4.0
    assert summary["clusters"]["1"]["domains"] == ["a", "b"]
    assert summary["domains"]["b"]["num_clients"] == 7


def test_clients_are_taken_at_even_distances():
    assert spread_out(range(100), 4) == [0, 25, 50, 75]
    assert spread_out([4, 5], 16) == [4, 5]
    assert spread_out([4, 5], 0) == []


def test_figures_close_to_zero_keep_their_digits():
    assert format_spread({"mean": 0.00312, "std": 0.0004, "n": 3}) == "0.00312 ± 0.00040"
    assert format_spread({"mean": 9.8765, "std": 0.0004, "n": 3}) == "9.877 ± 0.000"
    assert format_spread({"mean": 0.5, "std": 0.0, "n": 3}) == "0.500"
    assert format_spread(None) == "-"
