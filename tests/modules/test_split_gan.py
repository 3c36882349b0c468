import copy

import pytest
import torch

from huscf.errors import CheckpointError, HuscfError, NonFiniteError
from huscf.modules import Segment
from huscf.modules.server import observed_boundary
from huscf.randomness import make_generator
from huscf.split import ExplicitPlan, PlanRequest
from tests.conftest import SHAPE, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 1, 1]}


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_everybody_starts_from_one_set_of_weights():
    module = make_gan(CUTS, depth=5)
    for network in ("generator", "discriminator"):
        first = module.parties.merged_network(network, 0).state_dict()
        for client in CUTS:
            assert equal_states(module.parties.merged_network(network, client).state_dict(), first)


def test_segments_are_lightning_modules_named_by_block():
    module = make_gan(CUTS, depth=5)
    tail = module.client(1).segment("discriminator", "tail")
    assert isinstance(tail, Segment)
    assert tail.indices == [3, 4]
    assert all(
        key.split(".")[:2] in (["blocks", "3"], ["blocks", "4"]) for key in tail.state_dict()
    )
    assert module.server.segment("generator", 0).indices == [1, 2, 3]


def test_averaging_identical_models_is_the_identity():
    module = make_gan(CUTS, depth=5)
    before = state(module)
    module.federate(dict.fromkeys(CUTS, 0), {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})
    assert equal_states(state(module), before)


def test_each_client_alone_changes_nothing_after_a_step():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    merged = {c: copy.deepcopy(module.parties.merged_network("generator", c)) for c in CUTS}
    module.federate({c: c for c in CUTS}, dict.fromkeys(CUTS, 1.0))
    for client, before in merged.items():
        after = module.parties.merged_network("generator", client)
        assert equal_states(after.state_dict(), before.state_dict())


def test_clustered_averages_equal_the_closed_form_over_unequal_cuts():
    module = make_gan(CUTS, depth=5)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
    clusters, weights = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.3, 1: 0.7, 2: 0.6, 3: 0.4}
    before = {
        (c, n): copy.deepcopy(module.parties.merged_network(n, c).state_dict())
        for c in CUTS
        for n in ("generator", "discriminator")
    }
    module.federate(clusters, weights)
    assert module.server.num_copies == 2
    for network in ("generator", "discriminator"):
        for client, cluster in clusters.items():
            after = module.parties.merged_network(network, client).state_dict()
            for key, value in after.items():
                # Variances are pooled: tests/federation/test_averaging.py.
                if not value.is_floating_point() or key.endswith("running_var"):
                    continue
                members = [c for c in CUTS if clusters[c] == cluster]
                expected = sum(weights[c] * before[c, network][key].double() for c in members)
                torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_all_members_of_a_cluster_share_one_model_after_a_round_even_with_one_server():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    module.federate(dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 0.25), per_cluster=False)
    first = module.parties.merged_network("discriminator", 0).state_dict()
    for client in CUTS:
        other = module.parties.merged_network("discriminator", client).state_dict()
        for key, value in first.items():
            if value.is_floating_point():
                torch.testing.assert_close(other[key], value, rtol=1e-6, atol=1e-7)


def test_new_server_copies_inherit_parameters_and_are_trained_apart():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    module.parties.set_clusters({0: 0, 1: 1, 2: 0, 3: 1}, per_cluster=True)
    one, other = module.server.copies("discriminator")
    assert equal_states(one.state_dict(), other.state_dict())
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    run_step_with_fresh_optimizers(module)
    assert not equal_states(one.state_dict(), other.state_dict())


def test_clusters_may_share_some_of_the_servers_blocks():
    module = make_gan(CUTS, depth=5, ema_decay=0.5)
    run_step(module, make_batch(CUTS))
    before = {
        (c, i): module.parties.block("discriminator", c, i).state_dict()
        for c in CUTS
        for i in range(5)
    }
    before = {key: {k: v.clone() for k, v in state.items()} for key, state in before.items()}
    clusters, weights = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.25, 1: 0.75, 2: 0.5, 3: 0.5}
    module.federate(clusters, weights, per_cluster={"discriminator": [1]})
    one, other = module.server.copies("discriminator")
    assert one.block(1) is not other.block(1)
    assert one.block(2) is other.block(2)
    assert module.server.copies("generator")[0].block(2) is (
        module.server.copies("generator")[1].block(2)
    )
    # Block 2: the mean over all clients of their clusters' averages.
    key = next(k for k in before[0, 2] if k.endswith("0.weight"))
    averages = [
        sum(weights[c] * before[c, 2][key].double() for c in members)
        for members in ((0, 1), (2, 3))
    ]
    users = [c for c in CUTS if module.parties.block("discriminator", c, 2) is one.block(2)]
    expected = sum(averages[clusters[c]] for c in users) / len(users)
    torch.testing.assert_close(one.block(2).state_dict()[key].double(), expected)
    shared = next(iter(one.block(2).parameters()))
    copied = [next(iter(each.block(1).parameters())) for each in (one, other)]
    names = ("generator", "discriminator")
    optimizers = dict(zip(names, module.configure_optimizers(), strict=True))
    held = optimizers["discriminator"].param_groups[0]["params"]
    assert len({id(p) for p in held}) == len(held)
    module.optimizer = optimizers.__getitem__
    start = [p.detach().clone() for p in (shared, *copied)]
    averaged = next(iter(module.averaged.server.copies("generator")[0].block(2).parameters()))
    trained = next(iter(module.server.copies("generator")[0].block(2).parameters()))
    old = averaged.clone()
    run_step(module, make_batch(CUTS, seed=9), 1)
    # One step of Adam, not one for each cluster.
    lr = module.learning_rates["discriminator"]
    for parameter, value in zip((shared, *copied), start, strict=True):
        assert 0 < (parameter - value).abs().max() <= lr * 1.01
    module.update_average(10**6)
    torch.testing.assert_close(averaged, 0.5 * old + 0.5 * trained.detach())


def run_step_with_fresh_optimizers(module):
    names = ("generator", "discriminator")
    optimizers = dict(zip(names, module.configure_optimizers(), strict=True))
    module.optimizer = optimizers.__getitem__
    run_step(module, make_batch(CUTS, seed=9), 1)


def test_sampling_changes_no_state_and_is_seeded():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    module.client(0).segment("generator", "head").eval()
    before, modes = state(module), [m.training for m in module.modules()]
    random_state = torch.get_rng_state()
    traffic = module.exchange.total_bytes()
    labels = torch.tensor([0, 1, 2])
    one = module.sample(1, labels, make_generator(0, "test"))
    assert torch.equal(one, module.sample(1, labels, make_generator(0, "test")))
    assert not torch.equal(one, module.sample(1, labels, make_generator(1, "test")))
    assert equal_states(state(module), before)
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert module.exchange.total_bytes() == traffic
    assert one.shape == (3, 1, 8, 8)
    assert not one.requires_grad


def test_noise_depends_on_seed_client_and_step_only():
    module = make_gan({0: [1] * 4, 1: [1] * 4})
    samples, labels = make_batch([0])[0]
    seen = []
    for client, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.manual_seed(len(seen))
        module.start_step(client, samples, labels, step)
        seen.append(module.client(client).noise)
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("poison", ["samples", "head", "tail"])
def test_a_client_with_nan_stops_the_run_and_is_named(poison):
    module = make_gan(CUTS, depth=5)
    with pytest.raises(NonFiniteError, match="client 2"):
        poisoned_step(module, poison)


@pytest.mark.parametrize("poison", ["samples", "head", "tail"])
def test_a_dropped_client_is_counted_and_poisons_nobody(poison):
    module = make_gan(CUTS, depth=5, on_nonfinite="drop")
    poisoned_step(module, poison)
    assert module.num_dropped == {0: 0, 1: 0, 2: 1, 3: 0}
    for client in (0, 1, 3):
        merged = [module.parties.merged_network(n, client) for n in ("generator", "discriminator")]
        for tensor in (t for network in merged for t in network.state_dict().values()):
            assert tensor.isfinite().all()


def poisoned_step(module, poison):
    if poison == "head":
        module.client(2).segment("discriminator", "head").block(1)[0].weight.data[0] = torch.nan
    if poison == "tail":
        module.client(2).segment("discriminator", "tail").block(4)[1].bias.data[0] = torch.inf
    batch = make_batch(CUTS)
    if poison == "samples":
        # Samples are uint8 on the wire from the data; a broken scale shows up at the client.
        hold = module.client(2).hold
        module.client(2).hold = lambda samples, *rest: hold(samples * torch.nan, *rest)
    run_step(module, batch)


def test_a_broken_client_does_not_enter_the_average():
    module = make_gan({0: [1] * 4, 1: [1] * 4, 2: [1] * 4})
    module.client(1).segment("generator", "tail").block(3)[0].bias.data[0] = torch.nan
    assert [module.client(c).is_finite() for c in (0, 1, 2)] == [True, False, True]
    module.federate(dict.fromkeys(range(3), 0), {0: 0.5, 1: 0.0, 2: 0.5})
    assert all(module.client(c).is_finite() for c in range(3))


def test_the_observed_boundary_is_at_the_server_for_all_clients():
    def boundary(cuts, depth=5):
        module = make_gan(cuts, depth=depth)
        return observed_boundary(module.plan)

    assert boundary({0: [1, 1, 1, 1]}) == 3
    assert boundary({0: [1, 1, 1, 1], 1: [1, 1, 1, 3]}) == 2
    assert boundary({0: [1, 1, 3, 1], 1: [1, 1, 1, 1]}) == 4
    assert boundary({0: [1, 1, 3, 1], 1: [1, 1, 1, 3]}) is None


def test_training_without_the_loop_says_what_is_missing():
    with pytest.raises(HuscfError, match="SplitTraining"):
        make_gan({0: [1] * 4}).training_step({}, 0)


def test_any_other_network_is_a_function_that_returns_blocks():
    from torch import nn

    from huscf.models import Network
    from huscf.modules import SplitGAN

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

    module = SplitGAN(
        SHAPE,
        {0: 6, 1: 6},
        {0: 60, 1: 60},
        my_generator,
        my_discriminator,
        ExplicitPlan({0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}),
        latent_dim=5,
    )
    optimizers = dict(
        zip(("generator", "discriminator"), module.configure_optimizers(), strict=True)
    )
    module.optimizer = optimizers.__getitem__
    before = state(module)
    losses = run_step(module, make_batch([0, 1]))
    assert losses["generator"] > 0
    assert not equal_states(state(module), before)


def test_plan_request_lists_clients_in_order():
    assert PlanRequest(None, None, SHAPE, 5, {3: 1, 1: 1}).client_ids == [1, 3]


def test_a_checkpoint_that_lacks_something_is_refused_by_name():
    module = make_gan({0: [1] * 4})
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    del checkpoint["huscf"]["per_cluster"]
    with pytest.raises(CheckpointError, match="it lacks per_cluster; train anew"):
        module.on_load_checkpoint(checkpoint)


def test_a_federation_counts_all_that_is_averaged():
    def count(ema_decay, moments="keep"):
        module = make_gan({c: [1, 1, 1, 1] for c in range(3)}, ema_decay=ema_decay)
        module.federate({0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}, moments=moments)
        # Up and down, of the two members of the one real cluster.
        return module.exchange.total_bytes() / 4

    client = make_gan({0: [1, 1, 1, 1]}).client(0)
    sizes = {
        network: [
            sum(t.nbytes for end in ("head", "tail") for t in each(client.segment(network, end)))
            for each in (Segment.tensors, Segment.parameters)
        ]
        for network in ("generator", "discriminator")
    }
    tensors, parameters = (sum(each) for each in zip(*sizes.values(), strict=True))
    assert count(0.0) == tensors
    assert count(0.0, "average") == tensors + 2 * parameters
    assert count(0.9) == tensors + sizes["generator"][0]
