from types import SimpleNamespace

import pytest

from huscf.callbacks import SplitTraining
from huscf.callbacks.split_training import warn_of_idle_steps
from huscf.errors import HuscfError
from huscf.methods import HuscfGan, RateSchedule


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"world_size": 2, "precision": "32-true", "strategy": "ddp"},
            "give the trainer huscf.training.RankedStrategy",
        ),
        ({"world_size": 1, "precision": "16-mixed"}, "use 32-true or bf16-mixed"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(trainer, message):
    with pytest.raises(HuscfError, match=message):
        SplitTraining().on_fit_start(SimpleNamespace(**trainer), None)


@pytest.mark.parametrize("count", [-1, 1025, 100_000_000])
def test_threads_that_no_machine_has_are_refused(count):
    with pytest.raises(
        HuscfError, match=r"training.num_threads is -?\d+, must be >= 0 and <= 1024"
    ):
        SplitTraining(num_threads=count)


def test_steps_that_would_train_nothing_are_warned_of(recwarn):
    def warn(num_steps, **schedule):
        module = SimpleNamespace(method=HuscfGan(rate_schedule=RateSchedule(**schedule)))
        warn_of_idle_steps(module, num_steps)
        return [str(recwarn.pop(UserWarning).message) for _ in range(len(recwarn))]

    (line,) = warn(300, fall_until=200)
    assert "rates are 0 from step 200 on, and the run has 300" in line
    assert warn(200, fall_until=200) == warn(300, fall_until=200, last_part=0.1) == []
    assert warn(300, warmup_steps=10) == []
    warn_of_idle_steps(SimpleNamespace(method=HuscfGan()), 300)
    assert not len(recwarn)
