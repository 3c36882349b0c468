"""Equal copies of a block lie in one memory until their holder trains."""

import pytest
import torch
from torch import nn

from huscf.engines import Mixture
from huscf.models import ConditionalDiscriminator
from huscf.parties import Party
from tests.conftest import ENGINES, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 1], 2: [1, 1, 2, 1], 3: [1, 1, 1, 2]}


def addresses(module, client_id):
    """Where a client's trained tensors and averages lie."""
    return {tensor.data_ptr() for tensor in module.client(client_id).state_dict().values()}


def mix(module, moments="keep"):
    clusters = {c: c % 2 for c in CUTS}
    module.engine.mix(Mixture(clusters, dict.fromkeys(CUTS, 0.5), moments=moments))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_an_absent_client_shares_memory_and_stays_as_it_was(engine, moments):
    module = make_gan(CUTS, engine=engine)
    run_step(module, make_batch(CUTS))
    mix(module, moments)
    assert len(addresses(module, 0) & addresses(module, 2)) > 10
    assert not addresses(module, 0) & addresses(module, 1)
    absent = {name: tensor.clone() for name, tensor in module.client(2).state_dict().items()}
    held = repr(module.client(2).get_optimizer_state())
    run_step(module, make_batch([0, 1], seed=1), 1)
    assert not addresses(module, 0) & addresses(module, 2)
    for name, tensor in module.client(2).state_dict().items():
        assert torch.equal(tensor, absent[name]), name
    assert repr(module.client(2).get_optimizer_state()) == held


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_shared_memory_changes_no_bit(engine, moments):
    shared, apart = (make_gan(CUTS, engine=engine) for _ in range(2))
    for step in range(4):
        present = [c for c in CUTS if (c + step) % 4]
        for module in (shared, apart):
            run_step(module, make_batch(present, seed=step), step)
            mix(module, moments)
        for party in apart.engine.all_parties().values():
            party.own_memory()
    wanted = apart.state_dict()
    for name, tensor in shared.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("engine", ENGINES)
def test_averages_of_absent_clients_rest(engine):
    module = make_gan(CUTS, engine=engine, ema_decay=0.5)
    run_step(module, make_batch(CUTS))
    before = {n: t.clone() for n, t in module.client(3).average.state_dict().items()}
    run_step(module, make_batch([0]), 1)
    after = module.client(3).average.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_that_have_never_trained_get_averages_beside_those_of_others(engine, monkeypatch):
    """Estimates of spectral norms are made in place, which no other client may see."""
    clusters, weights = {c: c % 2 for c in CUTS}, dict.fromkeys(CUTS, 1.0)
    weights |= {2: 0.0, 3: 0.0}
    states = []
    for is_shared in (True, False):
        with monkeypatch.context() as patch:
            if is_shared:
                patch.setattr(Party, "own_memory", lambda self: None)
            module = make_gan(CUTS, engine=engine, discriminator=normed_discriminator)
        run_step(module, make_batch([0, 1]))
        module.engine.mix(Mixture(clusters, weights))
        states.append(module.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def normed_discriminator(shape):
    torch.manual_seed(0)
    network = ConditionalDiscriminator(shape, width=4, depth=4, norm="none")
    for block in network:
        for module in list(block.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.utils.parametrizations.spectral_norm(module)
    return network
