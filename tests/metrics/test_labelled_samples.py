import pytest
import torch

from huscf.errors import HuscfError
from huscf.metrics import LabelledSamples, RealData
from huscf.models import to_float, to_uint8

PICTURES = torch.zeros(4, 1, 8, 8)
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("samples", "labels", "message"),
    [
        (PICTURES[:0], LABELS[:0], "at least one sample"),
        (PICTURES[0], LABELS[:1], r"need \(N, C, H, W\)"),
        (PICTURES, LABELS[:3], r"labels have shape \(3,\) for 4 samples"),
        (PICTURES, LABELS[:, None], r"labels have shape \(4, 1\)"),
        (PICTURES, LABELS + 1, r"labels lie in \[1, 3\]: need \[0, 2\]"),
        (PICTURES, LABELS - 1, r"labels lie in \[-1, 1\]"),
        (PICTURES, LABELS.float(), "need integers"),
        (PICTURES + 2, LABELS, r"samples lie in \[2, 2\]"),
        (PICTURES + torch.nan, LABELS, "need finite values"),
        (PICTURES.long(), LABELS, "need uint8, or float"),
    ],
)
def test_bad_input_is_one_clear_line(samples, labels, message):
    with pytest.raises(HuscfError, match=message) as caught:
        LabelledSamples(samples, labels, 3)
    assert "\n" not in str(caught.value)


def test_bytes_survive_the_way_there_and_back():
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_float(every_byte)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert to_uint8(floats).equal(every_byte)


def test_balanced_takes_equally_many_of_every_class():
    labels = torch.tensor([0] * 30 + [1] * 7 + [2] * 50)
    samples = torch.linspace(-1, 1, 87).view(-1, 1, 1, 1)
    data = LabelledSamples(samples, labels, 3)
    everything = data.balanced(1000, seed=0)
    assert everything.labels.bincount().tolist() == [7, 7, 7]
    assert data.balanced(10, seed=0).labels.bincount().tolist() == [3, 3, 3]
    assert everything.samples.equal(data.balanced(1000, seed=0).samples)
    assert not everything.samples.equal(data.balanced(1000, seed=1).samples)
    # Each label still belongs to its sample.
    place = ((everything.samples.flatten() + 1) / 2 * 86).round().long()
    assert labels[place].equal(everything.labels)
    with pytest.raises(HuscfError, match=r"no sample of classes \[3\]"):
        LabelledSamples(samples, labels, 4).balanced(100, seed=0)


@pytest.mark.parametrize(
    ("own", "other", "max_count", "expected"),
    [
        ([40, 40, 40], [4, 2, 2], 1000, [40, 20, 20]),
        ([40, 40, 40], [4, 2, 2], 40, [20, 10, 10]),
        ([40, 40, 40], [1, 0, 3], 1000, [13, 0, 40]),
        ([40, 0, 40], [2, 5, 2], 1000, [40, 0, 40]),
        ([40, 40, 40], [999, 1, 0], 1000, [40, 1, 0]),
    ],
)
def test_rows_have_the_classes_of_other_labels_as_often(own, other, max_count, expected):
    labels = torch.arange(3).repeat_interleave(torch.tensor(own))
    data = LabelledSamples(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, 3)
    wanted = torch.arange(3).repeat_interleave(torch.tensor(other))
    rows = data.rows_like(wanted, max_count, seed=1)
    assert torch.bincount(labels[rows], minlength=3).tolist() == expected
    assert len(rows.unique()) == len(rows)
    assert torch.equal(rows, data.rows_like(wanted, max_count, seed=1))


def test_samples_without_a_common_class_cannot_be_compared():
    data = LabelledSamples(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(HuscfError, match="no class in common"):
        data.rows_like(torch.ones(3, dtype=torch.int64), 10, seed=0)


def test_at_most_draws_without_replacement():
    data = LabelledSamples(torch.linspace(-1, 1, 50).view(-1, 1, 1, 1), torch.zeros(50).long(), 1)
    assert data.at_most(50, seed=0) is data
    drawn = data.at_most(20, seed=0).samples.flatten()
    assert len(drawn.unique()) == 20
    assert not drawn.equal(data.samples[:20].flatten())


def test_splits_of_different_domains_are_refused():
    train = LabelledSamples(PICTURES, LABELS, 3)
    with pytest.raises(HuscfError, match=r"shape \(1, 8, 8\), test samples \(3, 8, 8\)"):
        RealData(train, LabelledSamples(PICTURES.expand(4, 3, 8, 8), LABELS, 3))
    with pytest.raises(HuscfError, match="of 3 classes, test of 5"):
        RealData(train, LabelledSamples(PICTURES, LABELS, 5))
