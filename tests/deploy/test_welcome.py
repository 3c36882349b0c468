"""What a server may say to a site that joins, and what it may not take back."""

import math

import pytest
import torch

from huscf.deploy.welcome import check_promised, read_welcome
from huscf.engines.private import DifferentialPrivacy
from huscf.engines.private.budget import RecordBudget
from huscf.engines.remote import PrivateSiteHalf
from huscf.engines.remote.sums import Comparison
from huscf.errors import HuscfError
from huscf.trust import Trust
from tests.conftest import SHAPE, make_gan
from tests.deploy.cases import OWN, make_welcome


def read(said, num_clients=2):
    return read_welcome(said, OWN, num_clients, Trust())


def test_an_honest_welcome_is_read():
    welcome = read(make_welcome())
    assert welcome.order == [4, 7] and welcome.plan.client_ids == [4, 7]
    assert welcome.shape == OWN and welcome.wire == {"bits": {"blocks": 8}}
    assert [len(network) for network in welcome.networks.values()] == [4, 4]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "../../x"}, "the server names the run"),
        ({"run": 7}, "run is no str"),
        ({"more": 1}, "'more' is missing or not known"),
        ({"weights": "0"}, "draws other initial weights"),
        ({"seed": math.inf}, "seed is no natural number"),
        ({"step": -1}, "step is no natural number"),
        ({"shape": [1.5, 8, 10]}, r"shape is no \[natural"),
        ({"shape": [1, 16, 10]}, "the server's run has samples of"),
        ({"shape": [3, 8, 10]}, "the server's run has samples of"),
        ({"shape": [1, 8, 9]}, "the server's run has samples of"),
        ({"blocks": [["generator", 4], ["other", 4]]}, "other blocks than its method"),
        ({"blocks": [["generator", 5], ["discriminator", 4]]}, "other blocks than its method"),
        ({"cuts": [[4, [1, 1, 1, 1]]]}, "cuts of 1 clients, this site has 2"),
        ({"cuts": [[4, [1, 1, 1, 1]]] * 2}, "cuts of 1 clients"),
        ({"cuts": [[4, [1, 1, 1]], [7, [1, 2, 1, 1]]]}, "cuts|numbers"),
        ({"compression": "lzma"}, "compresses by 'lzma'"),
        ({"wire": {"bits": {"blocks": 99}}}, "bits"),
        ({"wire": {"volume": 3}}, "malformed"),
        ({"comparison": {"shown": "samples"}}, "compares clients by 'samples'"),
        ({"privacy": "none"}, "privacy is no dict or null"),
        ({"method": {"class_path": "os.system"}}, "os.system"),
        ({"method": {"class_path": '!!int ""'}}, "."),
    ],
)
def test_what_is_no_welcome_is_refused_in_a_line(changes, reason):
    with pytest.raises(HuscfError, match=reason) as caught:
        read(make_welcome(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights", "cuts", "replans"])
def test_a_welcome_without_a_field_is_refused(name):
    said = make_welcome()
    del said[name]
    with pytest.raises(HuscfError, match=f"'{name}' is missing"):
        read(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "other"),
        ("secure", True),
        ("wire", None),
        ("privacy", {}),
        ("replans", False),
        ("comparison", {"shown": "nothing"}),
    ],
)
def test_a_server_that_was_started_anew_cannot_promise_less(name, value):
    before = make_welcome()
    check_promised(before, make_welcome(step=13, new=True, cuts=[]))
    with pytest.raises(HuscfError, match=f"another {name}: start this site again"):
        check_promised(before, make_welcome(**{name: value}))


def test_a_site_takes_no_part_in_what_gives_its_records_no_privacy():
    """The server has to refuse that, too; a site does not rely on it."""
    module = make_gan({0: [1, 1, 1, 1]}, norm="group", fake_label_weights=[1, 1, 1])
    mixing = make_gan(
        {0: [1, 1, 1, 1]}, norm="group", fake_label_weights=[1, 1, 1], mismatched_weight=1.0
    )

    def make_half(one):
        privacy = DifferentialPrivacy(1.0, 1.0, 1e-3)
        engine, budget = one.engine, RecordBudget(privacy, {0: 6}, {0: 60})
        return PrivateSiteHalf(
            *(engine.method, engine.networks, engine.plan, SHAPE, {0: 0}, {0: 6}),
            comparison=Comparison("nothing"),
            budget=budget,
            noise_seed=1,
        )

    assert torch.is_tensor(next(make_half(module).clients[0].parameters()))
    with pytest.raises(HuscfError, match=r"mismatched_weight|mixes"):
        make_half(mixing)
