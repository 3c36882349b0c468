"""Labels out of what crosses a cut, by a classifier that learned on the server's own samples."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

#: Of full-batch Adam; the classifier is linear.
_NUM_STEPS = 300


def infer_labels(known: Tensor, known_labels: Tensor, unknown: Tensor, num_classes: int) -> Tensor:
    """Return the classes that a linear classifier sees in what crossed, (M,) int64.

    Args:
        known: (N, ...) activations or gradients of samples whose labels are known.
        known_labels: (N,) int64.
        unknown: (M, ...) of the client's samples.
        num_classes: Labels that there are.
    """
    known, unknown = (each.float().reshape(len(each), -1) for each in (known, unknown))
    mean, std = known.mean(0), known.std(0)
    std = std.clamp(min=1e-6 * std.max().clamp(min=1e-30).item())
    known, unknown = (known - mean) / std, (unknown - mean) / std
    weight = torch.zeros(known.shape[1], num_classes).requires_grad_()
    bias = torch.zeros(num_classes).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=0.01, weight_decay=1e-4)
    for _ in range(_NUM_STEPS):
        loss = cross_entropy(known @ weight + bias, known_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (unknown @ weight + bias).detach().argmax(1)


def measure_accuracy(guessed: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the share of labels that are found."""
    return {"accuracy": (guessed == labels).float().mean().item()}


def guess_commonest(labels: Tensor) -> dict[str, float]:
    """Return the accuracy of whoever knows no more than which class is the commonest."""
    return {"accuracy": labels.bincount().max().item() / len(labels)}
