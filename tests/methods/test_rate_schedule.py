"""Learning rates that change over a run: which they are, and that every party steps with them."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from huscf.errors import HuscfError
from huscf.methods import FlowMatching, MdGan, RateSchedule, Vae
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import SgdGan, restore, save

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 1]}


def torch_factors(make_scheduler, steps):
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_a_line_and_a_cosine_are_those_of_torch():
    line = RateSchedule(fall_until=10, last_part=0.2)
    cosine = RateSchedule(fall_until=10, last_part=0.2, shape="cosine")
    expected = torch_factors(lambda o: LinearLR(o, 1.0, 0.2, total_iters=10), 12)
    assert [line.factor(step) for step in range(12)] == pytest.approx(expected)
    expected = torch_factors(lambda o: CosineAnnealingLR(o, 10, eta_min=0.2), 11)
    assert [cosine.factor(step) for step in range(11)] == pytest.approx(expected)


def test_rates_rise_stay_and_fall():
    schedule = RateSchedule(fall_from=6, fall_until=10, warmup_steps=3)
    factors = [schedule.factor(step) for step in range(12)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0])
    assert RateSchedule(warmup_steps=1).factor(10**6) == 1.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (3, 0.25), (9, 0.0)])
def test_every_party_steps_with_its_part_of_the_rate(engine, step, factor):
    def change(schedule):
        module = make_gan(
            *(CUTS, 5, "none"), method_class=SgdGan, lr=0.5, engine=engine, rate_schedule=schedule
        )
        before = {name: p.clone() for name, p in module.parties.named_parameters()}
        run_step(module, make_batch(CUTS), step)
        trained = {n: p for n, p in module.parties.named_parameters() if ".trained." in n}
        return {name: (p - before[name]).detach() for name, p in trained.items()}

    plain, changed = change(None), change(RateSchedule(fall_until=4))
    assert sum(delta.abs().max() > 1e-6 for delta in plain.values()) > 10
    # The generator learns from what the discriminator has become.
    own = [name for name in plain if factor == 0 or "discriminator" in name]
    assert {name.split(".")[0] for name in own} == {"clients", "server"}
    for name in own:
        torch.testing.assert_close(changed[name], factor * plain[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_goes_on_has_the_rates_that_it_would_have_had(engine):
    options = {"engine": engine, "rate_schedule": RateSchedule(1, 5, 0.1, "cosine", 2)}
    whole, half = make_gan(CUTS, **options), make_gan(CUTS, **options)
    for step in range(6):
        run_step(whole, make_batch(CUTS, seed=step), step)
    for step in range(3):
        run_step(half, make_batch(CUTS, seed=step), step)
    later = restore(make_gan(CUTS, **options), save(half))
    for step in range(3, 6):
        run_step(later, make_batch(CUTS, seed=step), step)
    found = later.parties.state_dict()
    for name, value in whole.parties.state_dict().items():
        assert torch.equal(found[name], value), name


def test_every_family_takes_one():
    schedule = RateSchedule(fall_until=2)
    for method in (MdGan(rate_schedule=schedule), FlowMatching(rate_schedule=schedule)):
        assert method.rate_factor(1) == 0.5
    assert Vae(rate_schedule=schedule).rate_factor(1) == 0.5 and Vae().rate_factor(1) == 1.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fall_from": 5, "fall_until": 5}, r"fall_until is 5, must be >= 6"),
        ({"last_part": 1.5}, r"last_part is 1\.5, must be a finite number >= 0 and <= 1"),
        ({"warmup_steps": -1}, r"warmup_steps is -1, must be >= 0"),
        ({"fall_until": 2.5}, r"fall_until is 2\.5, must be a whole number"),
        ({"shape": "steps"}, r"shape is steps, must be linear or cosine"),
    ],
)
def test_what_is_no_schedule_is_refused(options, reason):
    with pytest.raises(HuscfError, match=rf"method\.rate_schedule\.{reason}"):
        RateSchedule(**options)
