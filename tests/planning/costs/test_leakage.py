"""What a file says of cuts, and what follows for heads that it does not know."""

import json

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.planning.costs.leakage import Leakage

OPTIONS = np.array([[0, 1], [1, 1], [2, 1], [2, 2], [3, 1], [4, 1], [3, 2]])


def write(tmp_path, leakage):
    path = tmp_path / "leakage.json"
    path.write_text(json.dumps({"leakage": leakage, "seed": 0}))
    return str(path)


def test_a_head_that_was_not_measured_gives_away_what_the_next_shorter_one_does(tmp_path):
    values = {"network": "d", "block_params": [5] * 5, "heads": {"4": 0.25, "2": 0.75}}
    leakage = Leakage.load(write(tmp_path, values))
    assert leakage == Leakage("d", (5,) * 5, {2: 0.75, 4: 0.25})
    # All where nobody knows better; nothing where the client holds all five blocks.
    assert leakage.of_options("d", OPTIONS).tolist() == [1, 1, 0.75, 0.75, 0.75, 0, 0]
    assert Leakage("d", (5,) * 6, {4: 0.25}).of_options("d", OPTIONS)[5] == 0.25
    assert leakage.of_options("g", OPTIONS).tolist() == [0] * 7
    assert leakage.list_above(0.25) == [0.75, 1.0] and leakage.list_above(1.0) == []


@pytest.mark.parametrize(
    "leakage",
    [
        None,
        {},
        {"network": "d", "block_params": [5], "heads": {}},
        {"network": "d", "block_params": [5], "heads": {"1": 1.5}},
        {"network": "d", "block_params": [5], "heads": {"0": 0.5}},
        {"network": "d", "block_params": [5], "heads": {"one": 0.5}},
        {"network": "d", "block_params": 5, "heads": {"1": 0.5}},
        {"network": "d", "block_params": [5], "heads": {"1": float("nan")}},
        {"network": "d", "block_params": [5], "heads": [0.5]},
        {"network": "d", "block_params": [float("inf")], "heads": {"1": 0.5}},
    ],
)
def test_files_that_say_nothing_are_refused(tmp_path, leakage):
    with pytest.raises(PlanError, match=r"leakage .*leakage.json: says of no cut .* huscf leakage"):
        Leakage.load(write(tmp_path, leakage))


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x01", "[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(PlanError, match=r"leakage .*bad.json: (cannot be read|says of no cut)"):
        Leakage.load(str(tmp_path / "bad.json"))
    with pytest.raises(PlanError, match=r"leakage none.json: cannot be read: No such file"):
        Leakage.load("none.json")


def test_another_network_is_told_by_its_parameters(small_subject):
    blocks = small_subject.costs.blocks
    params = tuple(block.num_params for block in blocks["discriminator"])
    Leakage("discriminator", params, {1: 0.5}).check(blocks)
    with pytest.raises(PlanError, match=r"measured on a discriminator with blocks of 1, 2 param"):
        Leakage("discriminator", (1, 2), {1: 0.5}).check(blocks)
    with pytest.raises(PlanError, match=r"measured on a encoder .* planned is one of none"):
        Leakage("encoder", (1, 2), {1: 0.5}).check(blocks)
