"""What differential privacy cannot be given to, refused before anything is trained."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import is_parametrized

from ...errors import CheckpointError, HuscfError
from ...methods import Method, Phase
from ...models import Carry, Network, SampleShape, run_blocks
from ...parties.sample_gradients import note_layers, sum_weighted
from ...randomness import make_generator
from ..base import OnNonFinite
from .accounting import make_counter
from .options import DifferentialPrivacy

#: Samples of the trial batch; the first and the last have one label.
_NUM_ROWS = 4

#: Largest difference between two ways to the same gradient, as a part of it.
_TOLERANCE = 1e-3


def check_private(method: Method, options: DifferentialPrivacy, on_nonfinite: OnNonFinite) -> Phase:
    """Refuse what is known before networks and data are; return the phase that reads records.

    Raises:
        HuscfError: Naming the option, or the library that is missing.
    """
    if on_nonfinite == "drop":
        raise HuscfError(
            "model.on_nonfinite: to drop a client follows from its records, which nothing "
            "accounts for under model.privacy: set it to stop"
        )
    if options.noise_multiplier:
        make_counter(options.accountant)
    return find_private_phase(method, method.phases(0))


def reads_records(method: Method, phase: Phase) -> bool:
    """Return whether a record of a client enters any pass of a phase."""
    return len(_list_free(method, phase, frozenset())) < len(phase.passes)


def find_free_passes(method: Method, phase: Phase) -> frozenset[str]:
    """Return the names of a phase's passes whose samples are no record's.

    No record enters them, and their losses are given none, see PrivateClient.view. In a phase that
    reads records, what is trained is trained on records and what goes with them.
    """
    is_private = reads_records(method, phase)
    return _list_free(method, phase, frozenset(phase.trains if is_private else ()))


def _list_free(method: Method, phase: Phase, trained: frozenset[str]) -> frozenset[str]:
    free: set[str] = set()
    for item in phase.passes:
        changing = () if item.change is None else item.change.reads
        sources = [source.partition(".")[0] for source in item.inputs.values()]
        known = method.record_free | free
        reads_none = not item.drawn and all(name in known for name in (*sources, *changing))
        if reads_none and item.network not in trained:
            free.add(item.name)
    return frozenset(free)


def find_private_phase(method: Method, phases: Sequence[Phase]) -> Phase:
    """Return the one of a step's phases that reads records.

    Raises:
        HuscfError: Where there are several, or where something in it mixes records.
    """
    name = type(method).__name__
    reading = [phase for phase in phases if reads_records(method, phase)]
    if len(reading) != 1:
        raise HuscfError(
            f"model.privacy: {name} reads a client's records in {len(reading)} phases "
            f"({', '.join(phase.name for phase in reading)}), not in one: HuscfGan and FedGan need "
            "method.fake_label_weights, so that no fake has a record's label"
        )
    (phase,) = reading
    paired = {item.name for item in phase.passes} - find_free_passes(method, phase)
    for other in phases:
        if other is not phase and paired & {item.name for item in other.passes}:
            raise HuscfError(
                f"model.privacy: {name} goes on with passes of the phase that reads records: use "
                "HuscfGan, FedGan, FlowMatching or Vae"
            )
    for item in phase.passes:
        if item.learn is not None:
            raise HuscfError(
                f"model.privacy: pass {item.name} learns from records for the next step, without "
                "noise: set method.augmentation.adaptive to false"
            )
        if item.head_loss is not None:
            raise HuscfError(
                f"model.privacy: the head's loss of pass {item.name} mixes the records of a batch: "
                "set method.head_penalty to 0"
            )
    return phase


def check_data(options: DifferentialPrivacy, sizes: Mapping[int, int]) -> None:
    """Refuse a delta with which a record could as well be published."""
    assert options.delta is not None
    largest = max(sizes.values())
    if options.delta >= 1 / largest:
        raise HuscfError(
            f"privacy.delta is {options.delta:g}, and must be far below {1 / largest:.2g}, 1 / the "
            f"{largest} records of the largest client, whose publication it would allow"
        )


def check_samplewise(
    method: Method, networks: Mapping[str, Network], shape: SampleShape, phase: Phase
) -> None:
    """Refuse what mixes the samples of a batch, by names and by a trial of a few samples.

    Raises:
        HuscfError: Naming the network and, where it is known, the layer.
    """
    for network in phase.trains:
        for index, block in enumerate(networks[network]):
            for layer in block.modules():
                _check_layer(f"model.privacy: block {index} of the {network}", layer)
    private = _prepare_trial(method, shape)
    trial = {name: copy.deepcopy(n).train(name in phase.trains) for name, n in networks.items()}
    with torch.random.fork_rng(devices=[]):
        _compare(phase, trial, private)


def _check_layer(owner: str, layer: nn.Module) -> None:
    if isinstance(layer, _NormBase) and layer.track_running_stats:
        raise HuscfError(
            f"{owner} has {type(layer).__name__}, which mixes the samples of a batch: set norm of "
            "the network to group"
        )
    if getattr(layer, "batchwise", False):
        raise HuscfError(
            f"{owner} has {type(layer).__name__}, which mixes the samples of a batch: leave it "
            "out, as huscf's networks do with minibatch_std set to false"
        )
    if is_parametrized(layer):
        raise HuscfError(
            f"{owner} has parametrised weights, such as those of spectral_norm, whose gradients "
            "are not told apart by sample: leave them out"
        )


def _prepare_trial(method: Method, shape: SampleShape) -> Carry:
    """Return what a client would prepare; refuse it where records are mixed or named free."""
    stream = torch.Generator().manual_seed(0)
    size = (_NUM_ROWS, shape.channels, shape.image_size, shape.image_size)
    samples = torch.randint(0, 256, size, generator=stream, dtype=torch.uint8)
    labels = torch.arange(_NUM_ROWS) % 3 % shape.num_classes

    def prepare(own_samples: Tensor, own_labels: Tensor) -> Carry:
        return method.prepare(own_samples, own_labels, lambda p: make_generator(0, p), 0)

    private = prepare(samples, labels)
    other_samples, other_labels = samples.clone(), labels.clone()
    other_samples[0] = 255 - samples[0]
    other_labels[0] = (labels[0] + 1) % shape.num_classes
    changed = prepare(other_samples, other_labels)
    for name, tensor in private.items():
        first = 0 if name in method.record_free else 1
        if not torch.equal(tensor[first:], changed[name][first:]):
            raise HuscfError(
                f"model.privacy: {name} of {type(method).__name__} follows from other records of "
                "the batch than its own: leave it out, as mismatched labels by "
                "method.mismatched_weight 0"
            )
    return private


def _compare(phase: Phase, networks: Mapping[str, Network], private: Carry) -> None:
    """Hold gradients of single samples in a batch against those of batches of one."""
    trained = [networks[name] for name in phase.trains]
    buffers = [b.clone() for network in trained for b in network.buffers()]
    parameters = [p for network in trained for p in network.parameters() if p.requires_grad]
    with note_layers(trained) as calls:
        loss = _measure(phase, networks, private)
    used = [call for call in calls if call.output.requires_grad]
    at_outputs = torch.autograd.grad(loss, [c.output for c in used], allow_unused=True)
    for call, gradient in zip(used, at_outputs, strict=True):
        call.gradient = gradient
    used = [call for call in used if call.gradient is not None]
    for row in range(_NUM_ROWS):
        weights = torch.zeros(_NUM_ROWS)
        weights[row] = _NUM_ROWS
        sums = sum_weighted(used, weights)
        own = {name: tensor[row : row + 1] for name, tensor in private.items()}
        alone = torch.autograd.grad(_measure(phase, networks, own), parameters, allow_unused=True)
        found = torch.cat([_flatten(sums.get(p), p) for p in parameters])
        wanted = torch.cat([_flatten(g, p) for g, p in zip(alone, parameters, strict=True)])
        if not bool((found - wanted).norm() <= _TOLERANCE * wanted.norm()):
            raise HuscfError(
                f"model.privacy: the gradient of one sample of the {' or '.join(phase.trains)} "
                "follows from others of its batch, or from random numbers, or cannot be told "
                "apart: use layers and losses that treat every sample alone, and no dropout"
            )
    after = [b for network in trained for b in network.buffers()]
    if not all(map(torch.equal, buffers, after)):
        raise HuscfError(
            f"model.privacy: a layer of the {' or '.join(phase.trains)} keeps something of its "
            "batches beside its parameters: use another"
        )


def _measure(phase: Phase, networks: Mapping[str, Network], private: Carry) -> Tensor:
    """Return the sum of a phase's losses through uncut networks."""
    total: Tensor = torch.zeros(())
    outputs: dict[str, Carry] = {}
    for item in phase.passes:
        inputs = item.change_inputs(item.read_inputs(private, outputs), private)
        blocks = dict(enumerate(networks[item.network]))
        if item.network in phase.trains:
            outputs[item.name] = run_blocks(blocks, inputs)
        else:
            with torch.no_grad():
                outputs[item.name] = run_blocks(blocks, inputs)
        if item.loss is not None:
            total = total + item.loss(outputs[item.name], private)
    return total


def _flatten(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros(parameter.numel()) if gradient is None else gradient.flatten()


def check_same_noise(
    state: Mapping[str, Any], noise_multiplier: float, batch_sizes: Mapping[int, int]
) -> None:
    """Refuse to count a checkpoint's steps by other noise or batches than they had.

    Args:
        state: Of the engine; older ones do not tell.
        noise_multiplier: The present one.
        batch_sizes: Expected records of a batch, by client, now.

    Raises:
        CheckpointError: Naming the option.
    """
    had = state.get("private_noise", noise_multiplier)
    if had != noise_multiplier:
        raise CheckpointError(
            f"model.privacy.noise_multiplier is {noise_multiplier:g}, and the checkpoint's steps "
            f"had {had:g}: keep that, or train anew"
        )
    for client_id, size in state.get("private_batches", {}).items():
        if batch_sizes.get(client_id, size) != size:
            raise CheckpointError(
                f"data.batch_size: batches of client {client_id} have {batch_sizes[client_id]} "
                f"records, and those of the checkpoint's steps, which model.privacy has counted, "
                f"had {size}: keep that, or train anew"
            )
