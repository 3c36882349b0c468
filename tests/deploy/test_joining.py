"""What sites say when they join, and whether the server takes it."""

import pytest

from huscf.deploy.joining import Roll
from huscf.engines.remote import PROTOCOL
from huscf.errors import HuscfError
from huscf.models import SampleShape

ROSTER = {"a": (0,), "b": (1,)}


def say(*shape):
    clients = [[100, 10]]
    return {"protocol": PROTOCOL, "version": "0", "clients": clients, "shape": [*shape]}


def test_the_most_classes_of_all_sites_are_the_runs():
    roll = Roll(ROSTER)
    roll.enter("a", say(1, 8, 3), True)
    roll.enter("b", say(1, 8, 5), True)
    assert roll.shape == SampleShape(1, 8, 5)


def test_a_site_that_mends_what_it_said_takes_it_back():
    roll = Roll(ROSTER)
    roll.enter("a", say(1, 64, 12), True)
    with pytest.raises(HuscfError, match="its samples have 1 channels and 32 pixels"):
        roll.enter("b", say(1, 32, 10), True)
    roll.enter("a", say(1, 32, 10), True)
    roll.enter("b", say(1, 32, 10), True)
    assert roll.shape == SampleShape(1, 32, 10)


def test_a_run_that_goes_on_keeps_its_shape():
    roll = Roll(ROSTER, SampleShape(1, 8, 3))
    roll.enter("a", say(1, 8, 2), False)
    for shape, reason in (((1, 8, 4), "has 4 classes"), ((1, 16, 3), "16 pixels")):
        with pytest.raises(HuscfError, match=reason):
            roll.enter("b", say(*shape), False)
    assert roll.shape == SampleShape(1, 8, 3)


def test_what_was_set_up_stays_when_a_site_joins_again():
    roll = Roll(ROSTER)
    roll.enter("a", say(1, 8, 3), True)
    roll.enter("b", say(1, 8, 5), True)
    roll.enter("b", say(1, 8, 2), False)
    assert roll.shape == SampleShape(1, 8, 5)
