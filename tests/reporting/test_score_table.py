"""`huscf test` and `huscf validate` from a checkpoint alone, and evaluation during training."""

import json
import math
import shutil

import pytest

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.modules import evaluation
from huscf.modules.evaluation import DomainEvaluator, DomainScores, spread_out
from huscf.reporting import summarize_scores
from tests.reporting.conftest import fit

FEW = ["--model.num_evaluated_per_class=10", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may write to."""
    return shutil.copytree(run, tmp_path / "run")


def test_test_needs_the_checkpoint_only_and_keeps_earlier_figures(
    copied, small_judge, capsys, monkeypatch
):
    calls = []
    load = evaluation.load_judge
    monkeypatch.setattr(evaluation, "load_judge", lambda *a: calls.append(1) or load(*a))
    checkpoint = copied / "checkpoints" / "last.ckpt"
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW]) == 0
    assert len(calls) == 2  # once a domain, not once a client
    out = capsys.readouterr().out
    for text in ("judge on real data", "label accuracy", "downstream F1", "2 of 2 clients", "±"):
        assert text in out
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
    accuracy = digits["together"]["label_accuracy"]
    assert f"<td>label accuracy</td><td>{accuracy:.3f} (" in (copied / "report.html").read_text()
    first = (copied / "metrics.json").read_bytes()
    assert main(["test", f"--ckpt_path={checkpoint}", *FEW]) == 0
    assert (copied / "metrics.json").read_bytes() == first
    again = json.loads((copied / "metrics-2.json").read_text())
    assert again["clients"] == figures["clients"]


def test_validate_prints_quick_scores_and_writes_nothing(copied, small_judge, capsys):
    before = sorted(copied.rglob("*"))
    assert main(["validate", f"--ckpt_path={copied}/checkpoints/last.ckpt", *FEW]) == 0
    out = capsys.readouterr().out
    assert "judge on real data" in out
    assert "downstream" not in out
    assert sorted(copied.rglob("*")) == before


def test_another_model_and_a_missing_checkpoint_are_one_line(copied, capsys):
    checkpoint = copied / "checkpoints" / "last.ckpt"
    wider = "--model.generator.init_args.width=8"
    assert main(["test", f"--ckpt_path={checkpoint}", wider]) == 2
    assert "model.generator.init_args.width: 4 -> 8" in capsys.readouterr().err
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


def test_summary_by_hand():
    scores = [
        DomainScores("a", {"x": 1.0}, 5, {0: {"x": 1.0}, 1: {"x": 3.0}}, 2, 5),
        DomainScores("b", {"x": 2.0}, 5, {2: {"x": 5.0}}, 7, 5),
    ]
    summary = summarize_scores(scores, {0: 0, 1: 1, 2: 1}, seed=4)
    assert summary["domains"]["a"]["over_clients"]["x"] == {
        "mean": 2.0,
        "std": pytest.approx(math.sqrt(2)),
        "n": 2,
    }
    assert summary["clusters"]["1"]["over_clients"]["x"]["mean"] == 4.0
    assert summary["clusters"]["1"]["domains"] == ["a", "b"]
    assert summary["domains"]["b"]["num_clients"] == 7


def test_clients_are_taken_at_even_distances():
    assert spread_out(range(100), 4) == [0, 25, 50, 75]
    assert spread_out([4, 5], 16) == [4, 5]
    assert spread_out([4, 5], 0) == []
