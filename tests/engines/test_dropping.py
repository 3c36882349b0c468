"""A client that sends NaN, Inf or an explosion: named, or left out as if it had not been there."""

import pytest
import torch
from torch import nn

from huscf.errors import HuscfError, NonFiniteError
from huscf.models import NonSaturatingLoss
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import SgdGan, WatchedGan, seen_gradients

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 1, 1]}
SAME = {client: [1, 1, 1, 1] for client in range(4)}
SGD = {"method_class": SgdGan, "lr": 0.05}


def poisoned_step(module, poison, batch):
    if poison == "head":
        module.client(2).blocks("discriminator")[1][0].weight.data[0] = torch.nan
    if poison == "tail":
        module.client(2).blocks("discriminator")[4][1].bias.data[0] = torch.inf
    if poison == "samples":
        # Samples are uint8 on their way from the data; a broken scale shows up at the client.
        prepare = module.method.prepare

        def broken(samples, *rest):
            private = prepare(samples, *rest)
            if samples is batch[2][0]:
                private["samples"] = private["samples"] * torch.nan
            return private

        module.method.prepare = broken
    return module.engine.run_step(batch, 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", ["samples", "head", "tail"])
def test_a_client_with_nan_stops_the_run_and_is_named(poison, engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    with pytest.raises(NonFiniteError, match="client 2"):
        poisoned_step(module, poison, make_batch(CUTS))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", ["samples", "head", "tail"])
def test_a_dropped_client_is_counted_and_poisons_nobody(poison, engine):
    module = make_gan(CUTS, depth=5, on_nonfinite="drop", engine=engine)
    result = poisoned_step(module, poison, make_batch(CUTS))
    assert result.dropped == (2,)
    assert module.engine.num_dropped == {0: 0, 1: 0, 2: 1, 3: 0}
    for client in (0, 1, 3):
        whole = [module.engine.whole_network(n, client) for n in ("generator", "discriminator")]
        for tensor in (t for network in whole for t in network.state_dict().values()):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", ["head", "tail"])
def test_a_client_with_nan_leaves_its_group_and_the_others_train_on(poison, engine):
    cuts = {client: [1, 1, 1, 1] for client in range(3)}
    module = make_gan(cuts, on_nonfinite="drop", engine=engine)
    sick = module.client(1).trained.segment("generator", poison)
    next(sick.parameters()).data.fill_(torch.nan)
    before = {k: v.clone() for k, v in module.server.state_dict().items()}
    losses = run_step(module, make_batch(cuts))
    assert module.engine.num_dropped == {0: 0, 1: 1, 2: 0}
    assert losses["discriminator"] > 0
    assert all(t.isfinite().all() for t in module.server.state_dict().values())
    assert any(not torch.equal(v, before[k]) for k, v in module.server.state_dict().items())
    assert all(module.client(c).is_finite() for c in (0, 2))


class BrokenGradient(nn.Module):
    """Passes values on; its gradient is NaN."""

    def forward(self, values):
        return values + (0 * values).sqrt()


def break_head(module):
    next(iter(module.client(1).blocks("discriminator")[0].parameters())).data.fill_(torch.nan)


def break_gradient(module):
    module.client(1).blocks("discriminator")[3].append(BrokenGradient())


def explode(module):
    for parameter in module.client(1).blocks("discriminator")[0].parameters():
        parameter.data.mul_(1e30)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", [break_head, break_gradient, explode])
@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_without_a_client_that_is_dropped_gradients_are_those_of_the_others(
    poison, server_gradient, engine
):
    def step(clients, poisoned):
        module = make_gan(
            {client: [1, 1, 1, 1] for client in range(3)},
            client_sizes={client: 30 * (client + 1) for client in range(3)},
            server_gradient=server_gradient,
            on_nonfinite="drop",
            norm="none",
            method_class=SgdGan,
            engine=engine,
        )
        if poisoned:
            poison(module)
        result = module.engine.run_step({c: make_batch(range(3))[c] for c in clients}, 0)
        return result, seen_gradients(module)

    result, found = step([0, 1, 2], poisoned=True)
    expected_result, expected = step([0, 2], poisoned=False)
    assert (result.dropped, expected_result.dropped) == ((1,), ())
    assert result.losses == pytest.approx(expected_result.losses, abs=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def clones(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("norm", "method"), [("none", {"method_class": WatchedGan}), ("batch", SGD), ("none", SGD)]
)
@pytest.mark.parametrize("scale", [1e12, 1e27])
def test_one_finite_explosion_leaves_no_trace_in_the_others_and_the_server(
    scale, norm, method, engine
):
    def train(explodes):
        module = make_gan(SAME, norm=norm, on_nonfinite="drop", engine=engine, **method)
        for step in range(3):
            run_step(module, make_batch(SAME, seed=step), step)
        batch = make_batch(SAME, seed=3)
        tail = module.client(1).blocks("discriminator")[3]
        saved = clones(tail.state_dict())
        if explodes:
            tail[1].weight.data.mul_(scale)
        else:
            del batch[1]
        losses = run_step(module, batch, 3)
        tail.load_state_dict(saved)
        for step in range(4, 8):
            run_step(module, make_batch(SAME, seed=step), step)
        return losses, module

    losses, module = train(explodes=True)
    expected_losses, expected = train(explodes=False)
    assert module.engine.num_dropped == {0: 0, 1: 1, 2: 0, 3: 0}
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    # The serial engine computes the same; the other's shares of the three are rounded otherwise.
    close = dict(rtol=0, atol=0) if engine == "serial" else dict(rtol=1e-3, atol=1e-4)
    state, wanted = module.parties.state_dict(), expected.parties.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], **close)
    parties = zip(*(each.engine.all_parties().values() for each in (module, expected)), strict=True)
    for own, other in parties:
        torch.testing.assert_close(own.get_optimizer_state(), other.get_optimizer_state(), **close)
    usual, expected_usual = (m.server.guard.state_dict()["usual"] for m in (module, expected))
    assert usual == pytest.approx(expected_usual, rel=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_finite_explosion_stops_the_run_where_it_shall_and_is_named(engine):
    module = make_gan(SAME, norm="none", engine=engine)
    run_step(module, make_batch(SAME))
    module.client(3).blocks("discriminator")[0].layers[0].weight.data.mul_(1e12)
    message = r"client 3: activations at discriminator_head are \de\+1\d times the usual"
    with pytest.raises(NonFiniteError, match=message):
        run_step(module, make_batch(SAME, seed=1), 1)


class FailingLoss(NonSaturatingLoss):
    """Fails for one of the clients in the generator's half."""

    def __init__(self, which=None):
        super().__init__()
        self.which, self.calls = which, 0

    def generator(self, logits):
        self.calls += 1
        factor = float("nan") if self.calls - 1 == self.which else 1.0
        return factor * super().generator(logits)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drop_in_the_generators_half_counts_running_statistics_once(engine):
    def step(which):
        loss = FailingLoss(which)
        module = make_gan(SAME, loss=loss, on_nonfinite="drop", engine=engine)
        run_step(module, make_batch(SAME))
        return module

    module, sound = step(1), step(None)
    assert module.engine.num_dropped == {0: 0, 1: 1, 2: 0, 3: 0}
    for client in (0, 2, 3):
        one, other = (m.client(client).blocks("generator")[0].flat_norm for m in (module, sound))
        assert int(one.num_batches_tracked) == 1
        torch.testing.assert_close(one.running_var, other.running_var)
    middle = module.server.segment("generator", 0).block(1)[1]
    assert int(middle.num_batches_tracked) == len(SAME)


@pytest.mark.parametrize("engine", ENGINES)
def test_where_all_are_dropped_nothing_moves(engine):
    module = make_gan(SAME, on_nonfinite="drop", engine=engine)
    for client in SAME:
        next(iter(module.client(client).blocks("discriminator")[0].parameters())).data.fill_(
            torch.nan
        )
    before = {k: v.clone() for k, v in module.server.trained.state_dict().items()}
    result = module.engine.run_step(make_batch(SAME), 0)
    assert result.dropped == tuple(SAME)
    assert all(value != value for value in result.losses.values())
    after = module.server.trained.state_dict()
    assert all(torch.equal(value, after[k]) for k, value in before.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_label_beyond_the_classes_is_named_before_anything_is_trained(engine):
    module = make_gan(SAME, engine=engine)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    batch = make_batch(SAME)
    for label in (3, 4, -1):
        batch[2] = (batch[2][0], torch.tensor([0, 1, 2, 0, 1, label]))
        with pytest.raises(HuscfError, match=f"client 2: label {label}, but .* 0 to 2") as caught:
            run_step(module, batch)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
