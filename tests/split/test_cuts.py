import pytest
from hypothesis import given
from hypothesis import strategies as st

from huscf.errors import PlanError
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.split import (
    ClientCuts,
    ClientPlan,
    CutPlan,
    ExplicitPlan,
    PlanRequest,
    ProfilePlan,
    SavedPlan,
    UniformPlan,
)


def request(client_ids=(0, 1, 2), depth=5):
    shape = SampleShape(1, 8, 3)
    return PlanRequest(
        ConditionalGenerator(shape, 5, width=2, depth=depth),
        ConditionalDiscriminator(shape, width=2, depth=depth),
        shape,
        5,
        dict.fromkeys(client_ids, 4),
    )


@st.composite
def cut_plans(draw):
    blocks = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    clients = []
    for client in sorted(draw(st.sets(st.integers(0, 99), min_size=1, max_size=6))):
        counts = []
        for number in blocks:
            head = draw(st.integers(1, number - 2))
            counts += [head, draw(st.integers(1, number - 1 - head))]
        clients.append(ClientPlan(client, ClientCuts(*counts), draw(st.sampled_from(["", "p1"]))))
    return CutPlan(*blocks, tuple(clients))


@given(cut_plans())
def test_yaml_round_trip(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan.save(path, latency_s=1.5)
    assert CutPlan.load(path) == plan


@given(cut_plans())
def test_head_server_and_tail_cover_every_block_once(plan):
    for client in plan.clients:
        for network in ("generator", "discriminator"):
            count = plan.num_blocks(network)
            middle = client.cuts.server_range(network, count)
            head, tail = client.cuts.head(network), client.cuts.tail(network)
            covered = [*range(head), *middle, *range(count - tail, count)]
            assert covered == list(range(count))
            assert set(middle) <= set(plan.server_blocks(network))


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ((0, 1, 1, 1), "client 7: generator_head is 0"),
        ((1, 1, 1, 0), "client 7: discriminator_tail is 0"),
        ((2, 3, 1, 1), r"client 7: generator_head 2 \+ generator_tail 3 leave the server no"),
        ((1, 1, 4, 1), r"client 7: discriminator_head 4 \+ discriminator_tail 1 leave"),
    ],
)
def test_illegal_cuts_name_client_and_cut(cuts, message):
    with pytest.raises(PlanError, match=message):
        CutPlan(5, 5, (ClientPlan(7, ClientCuts(*cuts)),))


def test_plans_refuse_repeated_clients_and_none():
    entry = ClientPlan(0, ClientCuts())
    with pytest.raises(PlanError, match="unique"):
        CutPlan(5, 5, (entry, entry))
    with pytest.raises(PlanError, match="names no client"):
        CutPlan(5, 5, ())


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
    with pytest.raises(PlanError, match="networks of 6 and 6 blocks, these have 5 and 5"):
        SavedPlan(str(path)).make_plan(request(depth=5))


def entry(rest, client="0", blocks="5"):
    clients = f"[{{client: {client}, {rest}}}]"
    return f"{{generator_blocks: {blocks}, discriminator_blocks: 5, clients: {clients}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a YAML mapping"),
        ("generator_blocks: 5", "needs generator_blocks"),
        ("{: :", "cannot be read"),
        (
            "{generator_blocks: 5, discriminator_blocks: 5, clients: [{client: 0, cuts: [1, 1]}]}",
            "client 0: cuts are four whole numbers",
        ),
        (entry("cuts: null"), "client 0: cuts are four whole numbers"),
        (entry("cuts: 3"), "client 0: cuts are four whole numbers"),
        (entry("cuts: {1: 1}"), "client 0: cuts are four whole numbers"),
        (entry("cuts: [1, 1, 1, 1], profile: 3"), "client 0: profile is 3, must be text"),
        (entry("cuts: [1, 1, 1, 1]", client="1.9"), "client 1.9: client is 1.9, must be a whole"),
        (entry("cuts: [1, 1, 1, 1]", client="true"), "client True: client is True"),
        (entry("cuts: [1, 1, 1, 1]", blocks="5.9"), "generator_blocks is 5.9, must be a whole"),
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
