"""The core: a split network equals the uncut one, for every legal cut."""

import copy
import itertools

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.conftest import make_batch, make_gan, run_step

NAMES = ("generator", "discriminator")


def legal_halves(blocks):
    return [(h, t) for h in range(1, blocks) for t in range(1, blocks) if h + t < blocks]


def legal_cuts(blocks):
    return [[*g, *d] for g, d in itertools.product(legal_halves(blocks), repeat=2)]


def uncut_step(networks, client, learning_rate=5e-4):
    """One step of a plain GAN, written from the definition; returns losses and gradients."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    optimizers = {
        name: torch.optim.Adam(networks[name].parameters(), learning_rate, (0.5, 0.999), fused=True)
        for name in NAMES
    }
    real, labels, noise = client.samples, client.labels, client.noise
    wrong = client.wrong_labels
    ones, zeros = torch.ones(len(labels)), torch.zeros(len(labels))
    fakes = generator(noise, labels)
    # Two backward passes and a frozen discriminator, as the design's section 2 says: a bias before
    # a batch norm has gradient zero but for rounding, and Adam turns rounding into a full step.
    discriminator_loss = torch.zeros(())
    sources = [(fakes.detach(), labels, zeros), (real, labels, ones)]
    if wrong is not None:
        sources.append((real, wrong, zeros))
    for samples, own, target in sources:
        logits, share = discriminator(samples, own), 1.0
        if own is wrong:
            # Wrong labels that are right after all count as nothing.
            is_wrong = wrong != labels
            logits, target, share = logits[is_wrong], target[is_wrong], is_wrong.float().mean()
        loss = share * binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        discriminator_loss = discriminator_loss + loss.detach()
    gradients = {"discriminator": [p.grad.clone() for p in discriminator.parameters()]}
    optimizers["discriminator"].step()
    discriminator.requires_grad_(False)
    generator_loss = binary_cross_entropy_with_logits(discriminator(fakes, labels), ones)
    generator_loss.backward()
    gradients["generator"] = [p.grad.clone() for p in generator.parameters()]
    optimizers["generator"].step()
    discriminator.requires_grad_(True)
    losses = {
        "generator": generator_loss.item(),
        "discriminator": discriminator_loss.item(),
    }
    return losses, gradients, fakes.detach()


def start(module, batch):
    for client, (samples, labels) in batch.items():
        module.start_step(client, samples, labels, 0)
    return {
        client: {name: copy.deepcopy(module.parties.merged_network(name, client)) for name in NAMES}
        for client in batch
    }


@pytest.mark.parametrize(("depth", "mismatched_weight"), [(4, 0.0), (4, 1.0), (6, 0.0)])
def test_one_client_equals_the_uncut_networks_for_every_legal_cut(depth, mismatched_weight):
    cuts = legal_cuts(depth)
    assert len(cuts) == {4: 9, 6: 100}[depth]
    for each in cuts:
        module = make_gan({0: each}, depth=depth, mismatched_weight=mismatched_weight)
        batch = make_batch([0])
        networks = start(module, batch)[0]
        client = module.client(0)
        private = copy.copy(client)
        made = module.run_u("generator", 0, client.noise).output
        expected_losses, expected_gradients, fakes = uncut_step(networks, private)
        torch.testing.assert_close(made, fakes, rtol=1e-5, atol=1e-5)

        fresh = make_gan({0: each}, depth=depth, mismatched_weight=mismatched_weight)
        losses = run_step(fresh, batch)
        for name in NAMES:
            assert losses[name] == pytest.approx(expected_losses[name], abs=1e-5)
            merged = fresh.parties.merged_network(name, 0)
            pairs = zip(merged.parameters(), expected_gradients[name], strict=True)
            for parameter, gradient in pairs:
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
            for key, value in networks[name].state_dict().items():
                torch.testing.assert_close(
                    merged.state_dict()[key], value, rtol=1e-5, atol=1e-5, msg=f"{each} {key}"
                )


def test_many_clients_get_their_own_gradients_and_the_server_the_mean():
    cuts = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 3, 2, 2], 3: [3, 1, 3, 1]}
    module = make_gan(cuts, depth=5)
    batch = make_batch(cuts)
    networks = start(module, batch)
    results = {c: uncut_step(networks[c], copy.copy(module.client(c))) for c in cuts}
    losses = run_step(module, batch)
    mean = sum(r[0]["discriminator"] for r in results.values()) / 4
    assert losses["discriminator"] == pytest.approx(mean, abs=1e-5)
    # Only the discriminator is compared: the generator's gradients follow from a
    # discriminator whose server blocks have by then moved by the mean gradient.
    shared = {}
    for client in cuts:
        gradients = iter(results[client][1]["discriminator"])
        own = module.client(client).blocks("discriminator")
        for index in range(5):
            for parameter in module.parties.block("discriminator", client, index).parameters():
                gradient = next(gradients)
                if index in own:
                    torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
                else:
                    shared[parameter] = shared.get(parameter, 0) + gradient / 4
    assert shared
    for parameter, gradient in shared.items():
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_shares_by_samples_scale_the_servers_gradient_only():
    cuts = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}
    module = make_gan(cuts, client_sizes={0: 30, 1: 90}, server_gradient="samples")
    batch = make_batch(cuts)
    networks = start(module, batch)
    results = {c: uncut_step(networks[c], copy.copy(module.client(c))) for c in cuts}
    run_step(module, batch)
    middle = list(module.server.segment("discriminator", 0).block(1).parameters())
    skip = len(list(module.client(0).blocks("discriminator")[0].parameters()))
    for offset, parameter in enumerate(middle):
        one, other = (results[c][1]["discriminator"][skip + offset] for c in cuts)
        torch.testing.assert_close(parameter.grad, 0.25 * one + 0.75 * other, rtol=1e-4, atol=1e-6)


def test_frozen_discriminator_gets_no_gradients_in_the_generator_phase():
    module = make_gan({0: [1, 1, 1, 1]})
    run_step(module, make_batch([0]))
    before = [
        p.grad.clone() for p in module.parties.merged_network("discriminator", 0).parameters()
    ]
    module.optimizer("discriminator").zero_grad(set_to_none=True)
    run_generator_phase(module)
    assert len(before) > 0
    assert all(
        p.grad is None for p in module.parties.merged_network("discriminator", 0).parameters()
    )


def run_generator_phase(module):
    from huscf.loops import StepExchange, list_phases

    module.start_step(0, *make_batch([0])[0], 1)
    StepExchange(module, [0]).run_phase(list_phases(0.0)[1])
