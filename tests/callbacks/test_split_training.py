from types import SimpleNamespace

import pytest

from huscf.callbacks import SplitTraining
from huscf.errors import HuscfError


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
