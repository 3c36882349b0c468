"""Labels of fakes from a public distribution instead of the client's own."""

import pytest
import torch

from huscf.errors import HuscfError
from huscf.methods import HuscfGan, MdGan
from huscf.randomness import make_generator
from tests.conftest import ENGINES, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1]}


def prepare(method, labels):
    samples = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    return method.prepare(samples, labels, lambda purpose: make_generator(0, purpose), 0)


def test_they_follow_the_distribution_whatever_the_client_has():
    labels = torch.full((8000,), 2)
    private = prepare(HuscfGan(fake_label_weights=[3.0, 1.0, 0.0, 4.0]), labels)
    shares = private["fake_labels"].bincount(minlength=4) / 8000
    # Standard errors are below 0.006.
    assert shares.tolist() == pytest.approx([3 / 8, 1 / 8, 0, 4 / 8], abs=0.02)
    assert torch.equal(private["labels"], labels)
    assert "fake_labels" not in prepare(HuscfGan(), labels)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_the_generator_s_embedding_move_alike_for_all_classes(engine):
    batch = make_batch(CUTS, size=24)
    batch[0][1].fill_(1)  # the client has one class only
    moved = {}
    for weights in (None, [1, 1, 1]):
        module = make_gan(CUTS, engine=engine, fake_label_weights=weights)
        blocks = {n: module.client(0).blocks(n)[0] for n in ("generator", "discriminator")}
        before = {name: b.embedding.weight.detach().clone() for name, b in blocks.items()}
        run_step(module, batch)
        moved[weights is None] = {
            name: (block.embedding.weight != before[name]).any(1).tolist()
            for name, block in blocks.items()
        }
    only_its_own = [False, True, False]
    assert moved[True] == {"generator": only_its_own, "discriminator": only_its_own}
    # Fakes move all of the discriminator's rows too, and hide that real samples move one.
    assert moved[False] == {"generator": [True] * 3, "discriminator": [True] * 3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HuscfGan(fake_label_weights=[0, 0]), "fake_label_weights: at least one must be"),
        (lambda: HuscfGan(fake_label_weights=[1, -1]), "fake_label_weights: one is -1, must be"),
        (lambda: MdGan(fake_label_weights=[1, 1]), "fake_label_weights: here the server draws"),
        (lambda: make_gan(CUTS, fake_label_weights=[1.0]), "has 1 numbers, needs one for each of"),
    ],
)
def test_what_is_no_distribution_is_one_line(make, message):
    with pytest.raises(HuscfError, match=message):
        make()
