"""Real data for the metrics' tests, and a judge of the digits that is trained once."""

import pytest
import torch
from sklearn.datasets import load_digits

from huscf.metrics import LabelledSamples, RealData, load_judge
from tests.conftest import SHARED_DATA


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's 8x8 digits: 1437 to train on, 360 to test on."""
    pictures, labels = load_digits(return_X_y=True)
    samples = torch.as_tensor(pictures / 8 - 1).float().view(-1, 1, 8, 8)
    labels = torch.as_tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    everything = LabelledSamples(samples, labels, 10)
    return RealData(everything.select(train), everything.select(test))


@pytest.fixture(scope="session")
def judge(digits, tmp_path_factory):
    return load_judge(digits, cache_dir=tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="session")
def mnist():
    if not (SHARED_DATA / "MNIST").is_dir():
        pytest.skip(f"no MNIST in {SHARED_DATA}")
    from torchvision.datasets import MNIST

    splits = [MNIST(SHARED_DATA, train=train) for train in (True, False)]
    return RealData(*[LabelledSamples(s.data[:, None], s.targets, 10) for s in splits])


@pytest.fixture(scope="session")
def blood_cells():
    """Colour, 28x28, three classes of unequal size."""
    import numpy

    path = SHARED_DATA / "bccd28.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    arrays = numpy.load(path)
    splits = [
        LabelledSamples(
            torch.from_numpy(arrays[f"{split}_images"]).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(arrays[f"{split}_labels"]).flatten().long(),
            3,
        )
        for split in ("train", "test")
    ]
    return RealData(*splits)
