"""What a run says while it goes on: on a terminal, in a log file, above another bar."""

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest

from huscf.activity import OnceClock, describe_duration, doing, unwatch, watch
from huscf.callbacks import ClusteredFederation, Evaluation, RoundProgressBar
from huscf.callbacks import run_course as course_module
from huscf.callbacks.closing_summary import describe_time
from huscf.callbacks.evaluation import EVALUATION_SECONDS
from huscf.callbacks.run_course import RunCourse
from huscf.callbacks.training_clock import TrainingClock
from tests.test_cli import SMALL as QUIET
from tests.test_cli import fit, rows

SMALL = [option for option in QUIET if "progress_bar" not in option]
ROUNDS = [
    "--training.num_threads=1",
    "--data.init_args.steps_per_epoch=2",
    "--federation.every_n_epochs=3",
]


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self):
        return True


def make_trainer(**given):
    values = {
        **{"callbacks": [ClusteredFederation(every_n_epochs=5)], "num_training_batches": 6},
        **{"max_epochs": 60, "max_steps": -1, "current_epoch": 0, "global_step": 0},
    }
    return SimpleNamespace(**{**values, **given})


def test_a_course_counts_rounds_epochs_and_steps():
    course = RunCourse.begin(make_trainer(), 0)
    assert (course.num_steps, course.num_epochs, course.num_rounds) == (360, 60, 12)
    assert course.describe(make_trainer(current_epoch=33)) == ["round 7 of 12", "epoch 34 of 60"]
    # The end of training ends a round too.
    assert RunCourse.begin(make_trainer(max_epochs=61), 0).num_rounds == 13
    by_steps = RunCourse.begin(make_trainer(max_steps=45), 0)
    assert (by_steps.num_steps, by_steps.num_epochs, by_steps.num_rounds) == (45, 8, 2)
    endless = RunCourse.begin(make_trainer(max_epochs=-1), 0)
    assert endless.describe(make_trainer(current_epoch=33)) == ["round 7", "epoch 34"]
    alone = RunCourse.begin(make_trainer(callbacks=[]), 0)
    assert alone.describe(make_trainer(callbacks=[])) == ["epoch 1 of 60"]


def test_a_run_that_ended_within_a_round_and_goes_on_has_one_round_more():
    """It ended after 7 epochs, in its second round; up to 15 there are two more to come."""
    trainer = make_trainer(current_epoch=7, global_step=42, max_epochs=15)
    course = RunCourse.begin(trainer, 2)
    assert course.num_rounds == 4
    assert course.describe(trainer)[0] == "round 3 of 4"
    assert course.describe(make_trainer(current_epoch=14))[0] == "round 4 of 4"


def test_the_time_left_leaves_out_what_comes_once_and_steps_of_earlier_processes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(course_module.time, "monotonic", lambda: now[0])
    course = RunCourse.begin(make_trainer(global_step=160), 0)
    assert course.estimate_s(make_trainer(global_step=160), 0.0) is None
    now[0] = 101.0
    assert course.estimate_s(make_trainer(global_step=170), 0.0) is None, "too early"
    now[0] = 170.0
    # 20 steps in 70 s, 50 of them for the judge: 1 s a step, 180 to go.
    assert course.estimate_s(make_trainer(global_step=180), 50.0) == pytest.approx(180.0)
    assert course.estimate_s(make_trainer(global_step=360), 50.0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (40.4, "40 s"), (180, "3 min"), (3600, "1 h"), (4800, "1 h 20 min")],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert describe_duration(seconds) == text


def test_activities_are_told_from_the_outside_in_and_end_with_their_block():
    told = []

    def note(running):
        told.append([activity.text for activity in running])

    watch(note)
    try:
        with pytest.raises(ValueError), doing("measuring a 1/2"), doing("training the judge", True):
            raise ValueError
    finally:
        unwatch(note)
    with doing("unheard"):
        pass
    inner = ["measuring a 1/2", "training the judge"]
    assert told == [["measuring a 1/2"], inner, ["measuring a 1/2"], []]


def test_only_what_is_done_once_is_on_the_once_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("huscf.activity.time.monotonic", lambda: now[0])
    clock = OnceClock()
    watch(clock)
    try:
        with doing("measuring"):
            now[0] = 5.0
            with doing("training the judge", is_once=True):
                now[0] = 12.0
                assert clock.seconds == 7.0
            now[0] = 20.0
    finally:
        unwatch(clock)
    assert clock.seconds == 7.0


def test_a_terminal_has_one_bar_for_the_whole_run(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(course_module, "FIRST_ESTIMATE_S", 0.0)
    options = [*ROUNDS, "--trainer.max_epochs=7", "--trainer.limit_val_batches=0"]
    assert fit(tmp_path, *options, small=SMALL) == 0
    drawn = terminal.getvalue()
    states = re.findall(r"round \d of \d · epoch \d of \d · [^\r\n\x1b]*", drawn)
    assert [s for s in states if s.startswith("round 2 of 3 · epoch 5 of 7 · ")]
    assert re.search(r"round 3 of 3 · epoch 7 of 7 · 0 s left · discriminator \d+\.\d{3}", drawn)
    # One line, drawn over and over, that ends where the summary begins.
    before_the_summary = drawn[: drawn.index("cluster")]
    assert before_the_summary.count("\n") <= 2
    assert len(re.findall(r"\|", drawn.split("\r")[-1].split("\n")[0])) <= 2


def test_a_log_file_has_lines_and_no_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huscf.cli.RoundProgressBar", lambda: RoundProgressBar(line_every_s=0.0))
    monkeypatch.setattr(course_module, "FIRST_ESTIMATE_S", 0.0)
    assert fit(tmp_path, *ROUNDS, "--trainer.max_epochs=4", small=SMALL) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("round")]
    assert "\r" not in out
    assert any(re.match(r"round 2 of 2 · epoch 4 of 4 · \d+ s left · ", line) for line in lines)


def test_no_bar_says_nothing(tmp_path, capsys):
    assert fit(tmp_path, *ROUNDS, "--trainer.max_epochs=3", small=QUIET) == 0
    assert not re.search(r"^round \d of", capsys.readouterr().out, re.MULTILINE)


def train_judge_first(callback, module, data, domain, settings):
    """Stands for the evaluation of a domain that needs its judge in the first round."""
    names = list(data.domains)
    with doing(f"measuring {domain} {names.index(domain) + 1}/{len(names)}"):
        if module.num_rounds == 1:
            with doing("training the judge", is_once=True):
                pass
    return {"label_accuracy": 0.5}


@pytest.mark.parametrize("other", [False, True])
def test_what_is_measured_and_trained_beside_the_steps_is_said(
    tmp_path, monkeypatch, capsys, other
):
    """Above another bar it is said once what may take as long as rounds."""
    monkeypatch.setattr(Evaluation, "_measure", train_judge_first)
    options = [*ROUNDS, "--trainer.max_epochs=6", "--evaluation.every_n_rounds=1"]
    options += ["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"] if other else []
    assert fit(tmp_path, *options, small=SMALL) == 0
    out = capsys.readouterr().out
    said = [line for line in out.splitlines() if "training the judge" in line]
    if other:
        assert said == [
            f"measuring {n} · training the judge" for n in ("digits 1/2", "negatives 2/2")
        ]
    else:
        assert said == [
            f"round 1 of 2 · epoch 3 of 6 · measuring {name} · training the judge"
            for name in ("digits 1/2", "negatives 2/2")
        ]


def test_time_of_evaluation_is_no_time_of_training(tmp_path, monkeypatch, capsys):
    """Evaluations by a clock that goes an hour ahead in each domain."""
    ahead, monotonic = [0.0], time.monotonic

    def measure(self, module, data, domain, settings):
        ahead[0] += 3600.0
        return {"label_accuracy": 0.5}

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead[0])
    monkeypatch.setattr(Evaluation, "_measure", measure)
    options = ["--trainer.max_epochs=6", "--evaluation.every_n_rounds=1"]
    options += ["--evaluation.max_time_share=1.0"]
    assert fit(tmp_path, *ROUNDS, *options) == 0
    found = rows(tmp_path / "quickstart-1")
    assert [round(float(row[EVALUATION_SECONDS]) / 3600, 1) for row in found] == [2.0, 2.0]
    assert all(0 < float(row["seconds"]) < 1800 for row in found)
    out = capsys.readouterr().out
    assert re.search(r"2 rounds in \d+ s of training, 2 evaluations in 144\d\d s", out)


def test_the_training_clock_stops_between_epochs_and_at_the_end_of_the_federation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("huscf.callbacks.training_clock.time.monotonic", lambda: now[0])
    clock = TrainingClock()
    for begin, end in ((10.0, 13.0), (20.0, 24.0)):
        now[0] = begin
        clock.start()
        now[0] = end
        clock.stop()
    now[0] = 30.0
    clock.start()
    now[0] = 50.0  # an evaluation has begun at 35
    assert clock.take(35.0) == 3.0 + 4.0 + 5.0
    clock.stop()
    assert clock.take(60.0) == 0.0


def test_the_summary_names_both_times():
    found = [{"seconds": 4.0}, {"seconds": 6.0, EVALUATION_SECONDS: 3.0}]
    assert describe_time(found) == "2 rounds in 10 s of training, 1 evaluation in 3 s"
    assert describe_time(found[:1]) == "1 round in 4 s of training"
