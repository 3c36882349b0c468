import inspect
import json
from dataclasses import fields

import pytest
import torch
import yaml

from huscf.planning import PlanOptions, SearchedPlan
from tests.conftest import make_batch, make_gan, run_step
from tests.planning.planning_cases import DEVICES, make_request, read_devices


def make_small_request(depth=5, number=3):
    sizes = {10 * client: 8 for client in range(number)}
    return make_request(sizes, 8, depth, latent_dim=16, seed=5)


def test_searched_plan_serves_a_training_run():
    shares = {"shares": {"device1": 1 / 3, "device7": 2 / 3}}
    source = SearchedPlan({**read_devices(), "assignment": shares}, latency_model="paper")
    plan = source.make_plan(make_small_request())
    assert plan.client_ids == [0, 10, 20]
    assert sorted(entry.profile for entry in plan.clients) == ["device1", "device7", "device7"]
    assert source.result is not None and source.result.plan == plan
    assert source.result.seed == 5 and source.result.latency_s > 0
    with pytest.raises(ValueError, match="needs networks of 5 blocks"):
        source.make_plan(make_small_request(depth=6))
    with pytest.raises(ValueError, match="counts sum to 100, but there are 3 clients"):
        SearchedPlan(str(DEVICES)).make_plan(make_small_request())
    with pytest.raises(ValueError, match="latency_model is 'new'"):
        SearchedPlan(str(DEVICES), latency_model="new")
    with pytest.raises(ValueError, match="precision is '16-mixed'; known: 32-true, bf16-mixed"):
        SearchedPlan(str(DEVICES), precision="16-mixed")
    with pytest.raises(ValueError, match="latency_model paper: knows 32-true only"):
        devices = {**read_devices(), "assignment": {"shares": {"device1": 1}}}
        options = {"latency_model": "paper", "precision": "bf16-mixed"}
        SearchedPlan(devices, **options).make_plan(make_small_request())


def test_searched_plans_take_every_option():
    names = inspect.signature(SearchedPlan).parameters.keys()
    assert names == {"devices", *(entry.name for entry in fields(PlanOptions))}


def test_a_run_keeps_what_its_cuts_may_give_away(tmp_path):
    request = make_small_request()
    params = [
        sum(p.numel() for p in block.parameters()) for block in request.networks["discriminator"]
    ]
    heads = {"1": 0.9, "2": 0.5, "3": 0.25}
    values = {"network": "discriminator", "block_params": params, "heads": heads}
    (tmp_path / "leakage.json").write_text(json.dumps({"leakage": values}))
    devices = {**read_devices(), "assignment": {"shares": {"device1": 1}}}
    options = {"leakage": str(tmp_path / "leakage.json"), "max_leakage": 0.3}
    source = SearchedPlan(devices, **options)
    assert {e.cuts.head("discriminator") for e in source.make_plan(request).clients} == {3}
    assert set(source.result.leakage.values()) == {0.25}
    with pytest.raises(ValueError, match="max_leakage: what cuts give away has not been measured"):
        SearchedPlan(devices, max_leakage=0.3).make_plan(request)
    with pytest.raises(ValueError, match=r"model.plan: leakage none.json: cannot be read"):
        SearchedPlan({**devices, "leakage": "none.json"})
    with pytest.raises(ValueError, match="leakage is 3, must be the name of a file"):
        SearchedPlan({**devices, "leakage": 3})


def test_searched_plans_keep_the_options_of_the_devices_file(tmp_path):
    values = {**read_devices(), "assignment": {"shares": {"device1": 1}}}
    limits = {"min_discriminator_head": 2, "forbidden_cuts": {"generator_tail": [1]}}
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump({**values, **limits, "strategy": None}))
    for entry in SearchedPlan(str(path)).make_plan(make_small_request()).clients:
        assert entry.cuts.head("discriminator") >= 2 and entry.cuts.tail("generator") != 1
    options = SearchedPlan(str(path), min_discriminator_head=1, strategy="milp").make_options(7)
    assert options.min_discriminator_head == 1 and options.strategy == "milp" and options.seed == 7
    assert options.forbidden_cuts == {"generator_tail": [1]} and options.common_boundary
    with pytest.raises(ValueError, match="no plan found that keeps memory"):
        SearchedPlan({**values, "max_latency_s": 1e-9}).make_plan(make_small_request())
    with pytest.raises(ValueError, match=r"model.plan: unknown key min_head; known: assignment"):
        SearchedPlan({**values, "min_head": 2})
    path.write_text(yaml.safe_dump({**values, "forbidden_cuts": 3}))
    with pytest.raises(ValueError, match=r"devices.yaml: forbidden_cuts: must map"):
        SearchedPlan(str(path))


@pytest.mark.parametrize(
    ("weight", "precision"), [(0.0, "32-true"), (1.0, "32-true"), (0.0, "bf16-mixed")]
)
def test_a_step_sends_what_its_plan_says(weight, precision):
    devices = {**read_devices(), "assignment": {"shares": {"device1": 0.5, "device7": 0.5}}}
    source = SearchedPlan(devices, precision=precision)
    clients = range(2)
    options = {"mismatched_weight": weight, "mismatched_steps": None}
    module = make_gan(dict.fromkeys(clients, ()), depth=5, plan=source, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        run_step(module, make_batch(clients))
    assert len({entry.cuts for entry in module.plan.clients}) == 2
    assert module.wire.traffic.total() == source.result.traffic_bytes
