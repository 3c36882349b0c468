"""The root module: parties, sampling, and what it refuses."""

import pytest
import torch
from torch import nn

from huscf.engines import SerialEngine, StackedEngine
from huscf.errors import HuscfError
from huscf.methods import HuscfGan
from huscf.models import Network
from huscf.parties import Segment, observed_boundary
from huscf.randomness import make_generator
from huscf.split import ExplicitPlan, PlanRequest
from huscf.training import SplitModule
from tests.conftest import ENGINES, SHAPE, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 1, 1]}


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_everybody_starts_from_one_set_of_weights():
    module = make_gan(CUTS, depth=5)
    for network in ("generator", "discriminator"):
        first = module.engine.whole_network(network, 0).state_dict()
        for client in CUTS:
            assert equal_states(module.engine.whole_network(network, client).state_dict(), first)


def test_segments_are_lightning_modules_named_by_block():
    module = make_gan(CUTS, depth=5)
    tail = module.client(1).trained.segment("discriminator", "tail")
    assert isinstance(tail, Segment)
    assert tail.indices == [3, 4]
    assert all(
        key.split(".")[:2] in (["blocks", "3"], ["blocks", "4"]) for key in tail.state_dict()
    )
    assert module.server.segment("generator", 0).indices == [1, 2, 3]


def test_sampling_changes_no_state_and_is_seeded():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    module.client(0).trained.segment("generator", "head").eval()
    before, modes = state(module), [m.training for m in module.modules()]
    random_state = torch.get_rng_state()
    traffic = module.wire.traffic.total()
    labels = torch.tensor([0, 1, 2])
    one = module.sample(1, labels, make_generator(0, "test"))
    assert torch.equal(one, module.sample(1, labels, make_generator(0, "test")))
    assert not torch.equal(one, module.sample(1, labels, make_generator(1, "test")))
    assert equal_states(state(module), before)
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert module.wire.traffic.total() == traffic
    assert one.shape == (3, 1, 8, 8)
    assert not one.requires_grad


def test_noise_depends_on_seed_client_and_step_only():
    module = make_gan({0: [1] * 4, 1: [1] * 4})
    samples, labels = make_batch([0])[0]
    seen = []
    for client, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.manual_seed(len(seen))
        module.engine.load_batches({client: (samples, labels)}, step)
        seen.append(module.client(client).private["noise"])
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_the_observed_boundary_is_at_the_server_for_all_clients():
    def boundary(cuts, depth=5):
        module = make_gan(cuts, depth=depth)
        return observed_boundary(module.plan, module.method.observed)

    assert boundary({0: [1, 1, 1, 1]}) == 3
    assert boundary({0: [1, 1, 1, 1], 1: [1, 1, 1, 3]}) == 2
    assert boundary({0: [1, 1, 3, 1], 1: [1, 1, 1, 1]}) == 4
    assert boundary({0: [1, 1, 3, 1], 1: [1, 1, 1, 3]}) is None


def test_training_without_the_loop_says_what_is_missing():
    with pytest.raises(HuscfError, match="SplitTraining"):
        make_gan({0: [1] * 4}).training_step({}, 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_other_network_is_a_function_that_returns_blocks(engine):
    class Join(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, inputs, labels):
            return self.layer(inputs.flatten(1)) + labels[:, None]

    def my_generator(shape, latent_dim):
        pixels = shape.image_size**2
        out = nn.Sequential(nn.Linear(9, pixels), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
        return Network([Join(nn.Linear(latent_dim, 9)), nn.ReLU(), nn.Linear(9, 9), out])

    def my_discriminator(shape):
        pixels = shape.image_size**2
        last = nn.Sequential(nn.Linear(9, 1), nn.Flatten(0))
        return Network([Join(nn.Linear(pixels, 9)), nn.ReLU(), nn.Linear(9, 9), last])

    module = SplitModule(
        SHAPE,
        {0: 6, 1: 6},
        {0: 60, 1: 60},
        HuscfGan(my_generator, my_discriminator, latent_dim=5),
        ExplicitPlan({0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}),
        engine=engine,
    )
    assert module.configure_optimizers() == []
    before = state(module)
    losses = run_step(module, make_batch([0, 1]))
    assert losses["generator"] > 0
    assert not equal_states(state(module), before)


def test_plan_request_lists_clients_in_order():
    assert PlanRequest({}, SHAPE, {}, {3: 1, 1: 1}).client_ids == [1, 3]


def test_an_engine_is_chosen_by_name():
    assert type(make_gan({0: [1] * 4}, engine="serial").engine) is SerialEngine
    assert type(make_gan({0: [1] * 4}).engine) is StackedEngine


def test_parties_share_no_tensor_and_no_optimiser():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    owners, optimizers = {}, []
    for name, party in module.engine.all_parties().items():
        tensors = [*party.parameters(), *party.buffers()]
        for optimizer in party.optimizers.values():
            optimizers.append(optimizer)
            tensors += [t for own in optimizer.state.values() for t in own.values()]
        for tensor in tensors:
            storage = tensor.untyped_storage().data_ptr()
            assert owners.setdefault(storage, name) == name
    assert len({*map(id, optimizers)}) == 2 * (len(CUTS) + 1)


def test_samples_come_from_the_moving_average():
    module = make_gan({0: [1] * 4}, ema_decay=0.5)
    labels = torch.tensor([0, 1, 2])
    before = module.sample(0, labels, make_generator(0, "test"))
    for parameter in module.client(0).trained.segment("generator", "tail").parameters():
        parameter.data.fill_(3.0)
    assert torch.equal(module.sample(0, labels, make_generator(0, "test")), before)
    plain = make_gan({0: [1] * 4}, ema_decay=0.0)
    assert plain.client(0).average is None and plain.server.average is None
    assert torch.equal(plain.sample(0, labels, make_generator(0, "test")), before)


def test_a_moving_average_follows_by_its_decay():
    module = make_gan(CUTS, depth=5, ema_decay=0.75)
    old = {k: v.clone() for k, v in module.parties.state_dict().items()}
    run_step(module, make_batch(CUTS), 10**6)
    new = module.parties.state_dict()
    names = [name for name in new if ".average." in name]
    assert names
    for name in names:
        trained = new[name.replace(".average.", ".trained.")]
        expected = trained
        if trained.is_floating_point():
            expected = 0.75 * old[name] + 0.25 * trained
        torch.testing.assert_close(new[name], expected)
