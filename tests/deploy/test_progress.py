"""How far a run is."""

from huscf.deploy import progress
from huscf.deploy.progress import Progress


def test_it_says_how_long_the_steps_that_are_left_take(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = Progress(10.0)
    told.begin(20)
    assert told.describe(20, (60, -1)) == "step 20"
    now[0] += 9.0
    assert not told.is_due()
    now[0] += 1.0
    assert told.is_due() and not told.is_due()
    # Ten steps in ten seconds.
    assert told.describe(30, (60, -1)) == "step 30 of 60, 30 s left"
    assert told.describe(30, (600, 630)) == "step 30 of 600, 10 min left"
    assert told.describe(30, (-1, -1)) == "step 30"
