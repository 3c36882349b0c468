"""How much samples of a label differ for noise that differs: a generator's variety."""

from torch import Tensor


def mode_seeking_loss(samples: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
    """Return the inverse of how far samples of a label are apart for their noise, a scalar >= 0.

    The ratio of mean absolute differences, of samples to noise, over pairs of one label within the
    batch; 0 where no label is there twice.

    Source: Mao et al. 2019, arXiv:1903.05628, equation 4 as a loss; there two samples are drawn for
        every label.

    Args:
        samples: (B, ...) floating point, of a generator.
        noise: (B, Z), from which they were drawn.
        labels: (B,) int64.
    """
    order = labels.argsort(stable=True)
    is_pair = labels[order[1:]] == labels[order[:-1]]
    one, other = order[1:][is_pair], order[:-1][is_pair]
    if not len(one):
        return 0.0 * samples.sum()
    samples, noise = samples.flatten(1).float(), noise.float()
    apart = (samples[one] - samples[other]).abs().mean()
    return (noise[one] - noise[other]).abs().mean() / (apart + 1e-5)
