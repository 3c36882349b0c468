"""A checkpoint goes on where it was left, in any engine, and says why where it cannot."""

import copy

import pytest
import torch

from huscf.engines import Mixture
from huscf.errors import CheckpointError
from huscf.methods import HuscfGan
from huscf.training.checkpoint_checks import add_fresh
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import SgdGan, plan_of, restore, save

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 1, 1]}
NEW = {0: [2, 1, 1, 1], 1: [1, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 2, 1]}
CLUSTERS = {0: 0, 1: 1, 2: 0, 3: 1}


def differences(one, other, path=""):
    """Paths at which two nested values differ."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path} keys"]
        return [d for k in one for d in differences(one[k], other[k], f"{path}.{k}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path} length"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    return [] if one == other else [f"{path}: {one} != {other}"]


def make(engine, **options):
    settings = {"depth": 5, "on_nonfinite": "drop", "mismatched_weight": 1.0, **options}
    return make_gan(CUTS, engine=engine, **settings)


def train_round(module, number, moments="average"):
    for step in range(2 * number, 2 * number + 2):
        run_step(module, make_batch(CUTS, seed=step), step)
    module.engine.mix(
        Mixture(CLUSTERS, dict.fromkeys(CUTS, 0.5), {"discriminator": [1, 2]}, moments)
    )
    module.num_rounds += 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_two_rounds_equal_one_round_and_a_resumed_one_bit_for_bit(engine, moments):
    whole = make(engine)
    for number in range(2):
        train_round(whole, number, moments)
    first = make(engine)
    train_round(first, 0, moments)
    resumed = restore(make(engine), save(first))
    assert differences(save(first), save(resumed)) == []
    train_round(resumed, 1, moments)
    assert differences(save(whole), save(resumed)) == []
    assert save(resumed)["huscf"]["num_rounds"] == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_in_the_middle_of_a_round_after_a_change_of_cuts_goes_on(engine):
    module = make(engine)
    train_round(module, 0)
    module.engine.apply_plan(plan_of(NEW))
    run_step(module, make_batch(CUTS, seed=5), 5)
    resumed = restore(make(engine), save(module))
    assert resumed.plan == plan_of(NEW)
    for each in (module, resumed):
        train_round(each, 3)
    assert differences(save(module), save(resumed)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_of_one_engine_goes_on_in_the_other(engine):
    (other,) = {*ENGINES} - {engine}
    options = {"norm": "none", "weight_std": 0.2}
    sgd = {**options, "method_class": SgdGan, "lr": 0.01}
    for settings, tolerance in ((sgd, 1e-5), (options, 1e-4)):
        module = make(engine, **settings)
        train_round(module, 0)
        checkpoint = save(module)
        results = []
        for name in (engine, other):
            resumed = restore(make(name, **settings), copy.deepcopy(checkpoint))
            run_step(resumed, make_batch(CUTS, seed=9), 9)
            results.append(save(resumed))
        one, two = results
        assert one["state_dict"].keys() == two["state_dict"].keys()
        for key, value in one["state_dict"].items():
            torch.testing.assert_close(two["state_dict"][key], value, rtol=0, atol=tolerance)
        states = [each["huscf"]["engine"]["optimizers"] for each in results]
        torch.testing.assert_close(*states, rtol=1e-3, atol=1e-5)
        assert two["huscf"]["engine"]["traffic"] == one["huscf"]["engine"]["traffic"]


def refusal(checkpoint, module=None):
    module = module or make("stacked")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        module.on_load_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)
    assert differences(before, module.state_dict()) == []
    return str(caught.value)


def test_a_checkpoint_of_another_version_is_refused_by_its_name():
    old = {"state_dict": {}, "huscf": {"plan": {}, "clusters": {}, "num_bytes": {}}}
    message = "made by an earlier version of huscf (format 1, here 2): train anew, or go on with"
    assert message in refusal(old)
    assert "(format 3, here 2)" in refusal({"state_dict": {}, "huscf": {"format": 3}})
    assert "(format 'unknown', here 2)" in refusal({"state_dict": {}, "huscf": [1]})
    assert "(format 1, here 2)" in refusal({"state_dict": {}})


def test_a_checkpoint_of_another_method_is_refused_by_its_name():
    class OtherGan(HuscfGan):
        pass

    checkpoint = save(make("stacked", method_class=OtherGan))
    assert refusal(checkpoint) == "the checkpoint is of method OtherGan, here HuscfGan"


@pytest.mark.parametrize("name", ["per_cluster", "optimizers", "route", "guard"])
def test_a_checkpoint_that_lacks_something_is_refused_by_name(name):
    checkpoint = save(make("stacked"))
    make("stacked").on_load_checkpoint(checkpoint)
    del checkpoint["huscf"]["engine"][name]
    assert f"it lacks {name}; train anew" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["engine", "method", "num_rounds", "torch_rng"])
def test_a_checkpoint_that_lacks_a_part_is_refused_by_name(name):
    checkpoint = save(make("stacked"))
    del checkpoint["huscf"][name]
    reason = refusal(checkpoint)
    assert f"it lacks {name}; train anew" in reason or "of method" in reason


def test_a_checkpoint_of_other_networks_or_clients_is_refused():
    deeper = save(make_gan({c: [1] * 4 for c in CUTS}, depth=6))
    assert "other networks or clients (blocks, client ids): {'generator': 6" in refusal(deeper)
    fewer = save(make_gan({c: CUTS[c] for c in (0, 1)}, depth=5))
    assert "[0, 1], here" in refusal(fewer)
    wider = make("stacked")
    checkpoint = save(wider)
    key = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][key] = torch.zeros(3, 7)
    assert f"{key} is [3, 7], here [3, 3]" in refusal(checkpoint)


def test_optimiser_state_of_what_is_not_held_is_refused():
    module = make("stacked")
    run_step(module, make_batch(CUTS))
    checkpoint = save(module)
    states = checkpoint["huscf"]["engine"]["optimizers"]["0"]["generator"]
    states["0.blocks.9.weight"] = next(iter(states.values()))
    with pytest.raises(CheckpointError, match=r"state of generator 0.blocks.9.weight, which is"):
        restore(make("stacked"), checkpoint)


JOINED = {**CUTS, 4: [1, 3, 1, 1], 5: [1, 1, 1, 1]}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("per_cluster", [True, False, {"discriminator": [1, 2]}])
def test_clients_that_a_checkpoint_does_not_know_join(engine, per_cluster):
    first = make(engine)
    run_step(first, make_batch(CUTS, seed=1), 1)
    first.engine.mix(Mixture(CLUSTERS, dict.fromkeys(CUTS, 0.5), per_cluster, "keep"))
    saved = save(first)
    joined = make_gan(JOINED, engine=engine, depth=5, on_nonfinite="drop", mismatched_weight=1.0)
    new = joined.engine.set_structure(saved["huscf"]["engine"], may_join=True)
    fresh = tuple(f"parties.{name}" for name in new)
    joined.load_state_dict(add_fresh(saved["state_dict"], joined.state_dict(), fresh))
    joined.engine.set_optimizers(saved["huscf"]["engine"]["optimizers"])
    # Who was there goes on as it was, moments too; who joins begins as everybody began.
    after = joined.state_dict()
    assert differences({n: after[n] for n in saved["state_dict"]}, saved["state_dict"]) == []
    assert joined.clusters == {**CLUSTERS, 4: 2, 5: 2}
    for client in (4, 5):
        start = joined.engine.networks["generator"].state_dict()
        mine = joined.engine.whole_network("generator", client).state_dict()
        # Where clusters share the server's blocks, it is these that they go on with.
        own = range(5) if per_cluster is True else joined.client(client).blocks("generator")
        for index in own:
            for name in (n for n in start if n.startswith(f"{index}.")):
                assert torch.equal(mine[name], start[name]), name
        assert not joined.client(client).optimizers["generator"].state
    # They train with the others, and a round takes them in.
    run_step(joined, make_batch(JOINED, seed=2), 2)
    clusters = {**CLUSTERS, 4: 0, 5: 1}
    joined.engine.mix(Mixture(clusters, dict.fromkeys(JOINED, 1 / 3), per_cluster, "keep"))
    first, *others = (joined.engine.whole_network("generator", c) for c in (0, 2, 4))
    for other in others if per_cluster is True else ():
        torch.testing.assert_close([*other.parameters()], [*first.parameters()], rtol=0, atol=1e-6)
    again = restore(make_gan(JOINED, engine=engine, depth=5, mismatched_weight=1.0), save(joined))
    assert differences(save(again), save(joined)) == []


@pytest.mark.parametrize("party", ["server", "0"])
def test_optimisers_of_a_party_that_was_there_may_not_be_missing(party):
    saved = save(make("stacked"))
    del saved["huscf"]["engine"]["optimizers"][party]
    assert f"it lacks {party}" in refusal(saved)
    more = make_gan(JOINED, depth=5, mismatched_weight=1.0)
    with pytest.raises(CheckpointError, match=f"it lacks {party}"):
        more.engine.set_structure(saved["huscf"]["engine"], may_join=True)


def test_only_a_run_that_goes_on_takes_in_clients_and_none_may_be_missing():
    first = make("stacked")
    saved = save(first)
    more = make_gan(JOINED, depth=5, mismatched_weight=1.0)
    assert "clients (blocks, client ids): " in refusal(saved, more)
    fewer = make_gan({c: CUTS[c] for c in (0, 1, 2)}, depth=5, mismatched_weight=1.0)
    with pytest.raises(CheckpointError, match=r"\[0, 1, 2, 3\], here .*\[0, 1, 2\]"):
        fewer.engine.set_structure(saved["huscf"]["engine"], may_join=True)
    other = make_gan({c: CUTS[c] for c in (0, 1)} | {9: [1, 1, 1, 1]}, depth=5)
    with pytest.raises(CheckpointError, match="other networks or clients"):
        other.engine.set_structure(saved["huscf"]["engine"], may_join=True)
