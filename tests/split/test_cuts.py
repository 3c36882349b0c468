import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huscf.errors import PlanError
from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.split import (
    ClientCuts,
    ClientPlan,
    CutPlan,
    ExplicitPlan,
    Placement,
    PlanRequest,
    ProfilePlan,
    SavedPlan,
    UniformPlan,
)


def request(client_ids=(0, 1, 2), depth=5):
    shape = SampleShape(1, 8, 3)
    networks = {
        "generator": ConditionalGenerator(shape, 5, width=2, depth=depth),
        "discriminator": ConditionalDiscriminator(shape, width=2, depth=depth),
    }
    return PlanRequest(networks, shape, {}, dict.fromkeys(client_ids, 4))


NAMES = ("generator", "discriminator")


def entry_of(client, cuts, profile="", networks=NAMES):
    return ClientPlan(client, ClientCuts.from_list(cuts, networks), profile)


def pair(depth, *entries):
    return CutPlan((("generator", depth), ("discriminator", depth)), entries)


@st.composite
def cut_plans(draw):
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True))
    blocks = tuple((name, draw(st.integers(1, 9))) for name in names)
    clients = []
    for client in sorted(draw(st.sets(st.integers(0, 99), min_size=1, max_size=6))):
        counts = []
        for _, number in blocks:
            head = draw(st.integers(0, number))
            counts += [head, draw(st.integers(0, number - head))]
        clients.append(entry_of(client, counts, draw(st.sampled_from(["", "p1"])), names))
    return CutPlan(blocks, tuple(clients))


@given(cut_plans())
def test_yaml_round_trip(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan.save(path, latency_s=1.5)
    assert CutPlan.load(path) == plan


@given(cut_plans())
def test_head_server_and_tail_cover_every_block_once(plan):
    for client in plan.clients:
        for network in plan.networks:
            count = plan.num_blocks(network)
            middle = client.cuts.server_range(network, count)
            head, tail = client.cuts.head(network), client.cuts.tail(network)
            covered = [*range(head), *middle, *range(count - tail, count)]
            assert covered == list(range(count))
            assert client.cuts.held(network, count) == sorted({*range(count)} - {*middle})
            assert set(middle) <= set(plan.server_blocks(network))


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ((-1, 1, 1, 1), "client 7: generator_head is -1, must be at least 0 blocks"),
        ((1, 1, 1, -2), "client 7: discriminator_tail is -2, must be at least 0"),
        (
            (3, 3, 1, 1),
            r"client 7: generator_head 3 \+ generator_tail 3 leave the server -1 blocks",
        ),
    ],
)
def test_impossible_cuts_name_client_and_cut(cuts, message):
    with pytest.raises(PlanError, match=message):
        pair(5, entry_of(7, cuts))


@pytest.mark.parametrize("cuts", [(0, 1, 1, 1), (1, 1, 1, 0), (2, 3, 1, 1), (0, 0, 5, 0)])
def test_plans_hold_whatever_is_possible(cuts):
    assert pair(5, entry_of(7, cuts)).by_client[7].cuts.as_list() == [*cuts]


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ((0, 1, 1, 1), "client 7: generator_head is 0, must be at least 1 block$"),
        ((1, 1, 1, 0), "client 7: discriminator_tail is 0, must be at least 1 block$"),
        ((2, 3, 1, 1), r"client 7: generator_head 2 \+ generator_tail 3 leave the server no"),
        ((1, 1, 4, 1), r"client 7: discriminator_head 4 \+ discriminator_tail 1 leave"),
    ],
)
def test_a_method_refuses_cuts_by_client_and_cut(cuts, message):
    with pytest.raises(PlanError, match=message):
        HuscfGan().check_plan(pair(5, entry_of(7, cuts)))


def test_plans_refuse_repeated_clients_and_none():
    with pytest.raises(PlanError, match="unique"):
        pair(5, entry_of(0, [1] * 4), entry_of(0, [1] * 4))
    with pytest.raises(PlanError, match="names no client"):
        pair(5)


def test_plans_refuse_cuts_of_other_networks():
    message = "client 3: has cuts of a, b, the plan is for generator, discriminator"
    with pytest.raises(PlanError, match=message):
        pair(5, entry_of(3, [1] * 4, networks=("a", "b")))


def test_uniform_cuts_are_the_fewest_that_a_method_allows():
    free = dataclasses.replace(
        request(), placements={"generator": Placement(0, 2, 0), "discriminator": Placement()}
    )
    assert UniformPlan().make_plan(free).by_client[1].cuts.as_list() == [0, 2, 1, 1]
    assert UniformPlan().make_plan(request()).by_client[1].cuts.as_list() == [1, 1, 1, 1]


def test_uniform_and_profiles_and_explicit():
    assert UniformPlan([2, 1, 1, 2]).make_plan(request()).by_client[1].cuts.as_list() == [
        2,
        1,
        1,
        2,
    ]
    profiles = ProfilePlan({"a": [1, 1, 1, 1], "b": [2, 2, 1, 1]}, assignment={2: "b"})
    plan = profiles.make_plan(request())
    assert [c.profile for c in plan.clients] == ["a", "b", "b"]
    assert plan.by_client[2].cuts.as_list() == [2, 2, 1, 1]
    explicit = ExplicitPlan({0: [1, 1, 1, 1], 1: [2, 1, 1, 1], 2: [1, 2, 1, 1]})
    assert explicit.make_plan(request()).by_client[1].cuts.as_list() == [2, 1, 1, 1]


def test_plans_for_other_clients_or_networks_are_refused(tmp_path):
    with pytest.raises(PlanError, match=r"without cuts: \[2\], not in the run: \[5\]"):
        ExplicitPlan({0: [1] * 4, 1: [1] * 4, 5: [1] * 4}).make_plan(request())
    path = tmp_path / "plan.yaml"
    UniformPlan().make_plan(request(depth=6)).save(path)
    with pytest.raises(
        PlanError,
        match=r"is for a generator of 6 blocks, .*, these networks are a generator of 5 blocks, ",
    ):
        SavedPlan(str(path)).make_plan(request(depth=5))


def entry(rest, client="0", blocks="5"):
    clients = f"[{{client: {client}, {rest}}}]"
    return f"{{blocks: {{generator: {blocks}, discriminator: 5}}, clients: {clients}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a YAML mapping"),
        ("blocks: {generator: 5}", "needs blocks .network: number. and a list clients"),
        ("generator_blocks: 5", "needs blocks"),
        ("{blocks: 5, clients: []}", "needs blocks"),
        ("{: :", "cannot be read"),
        (entry("cuts: [1, 1]"), "client 0: cuts are four whole numbers .generator_head, "),
        (entry("cuts: null"), "client 0: cuts are four whole numbers"),
        (entry("cuts: 3"), "client 0: cuts are four whole numbers"),
        (entry("cuts: {1: 1}"), "client 0: cuts are four whole numbers"),
        (entry("cuts: [1, 1, 1, 1], profile: 3"), "client 0: profile is 3, must be text"),
        (entry("cuts: [1, 1, 1, 1]", client="1.9"), "client 1.9: client is 1.9, must be a whole"),
        (entry("cuts: [1, 1, 1, 1]", client="true"), "client True: client is True"),
        (entry("cuts: [1, 1, 1, 1]", blocks="5.9"), "blocks: generator is 5.9, must be a whole"),
    ],
)
def test_bad_plan_files_are_named(tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as error:
        CutPlan.load(path)
    assert str(path) in str(error.value)


def test_unknown_profile_in_assignment():
    with pytest.raises(PlanError, match="client 1 has profile c; known: a"):
        ProfilePlan({"a": [1, 1, 1, 1]}, assignment={1: "c"})
