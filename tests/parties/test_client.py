"""A client's labels are looked at before anything is trained on them."""

import pytest
import torch

from huscf.errors import HuscfError
from tests.conftest import make_gan


@pytest.mark.parametrize("label", [3, 100, -1])
def test_a_label_that_is_no_class_is_refused_and_named(label):
    client = make_gan({7: [1, 1, 1, 1]}).client(7)
    message = f"client 7: label {label}, but the run's classes are 0 to 2"
    with pytest.raises(HuscfError, match=message):
        client.load_batch({"labels": torch.tensor([0, label, 2])}, num_classes=3)
    assert client.private == {}
    client.load_batch({"labels": torch.tensor([0, 2])}, num_classes=3)
    client.load_batch({"labels": torch.tensor([], dtype=torch.int64)}, num_classes=3)
    client.load_batch({"samples": torch.zeros(2)}, num_classes=3)
