import json
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from huscf.datamodules import (
    Augmentation,
    DigitsDataModule,
    DirichletPartitioner,
    Domain,
    FederatedDataModule,
    ImageDataModule,
    LabelExclusionPartitioner,
    MedicalDataModule,
    Partitioner,
    SpokenDigitsDataModule,
    scale_samples,
)
from huscf.errors import CheckpointError, DataError, HuscfError


class TwoDomains(FederatedDataModule):
    """12 grey samples of 2 classes with keys, and 9 colour ones of 3 classes."""

    def load_domains(self):
        grey = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, 4, 4)
        colour = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 8, 8)
        keys = np.array(list("aaabbbcccddd"))
        grey_labels, colour_labels = torch.arange(12) % 2, torch.arange(9) % 3
        return [
            Domain("grey", grey, grey_labels, grey, grey_labels, keys, ("no", "yes")),
            Domain("colour", colour, colour_labels, colour, colour_labels),
        ]


def take(batches, steps):
    iterator = iter(batches)
    return [next(iterator) for _ in range(steps)]


def test_shape_is_the_largest_and_each_domain_knows_its_classes():
    data = TwoDomains(clients_per_domain=2)
    shape = data.sample_shape
    assert (shape.channels, shape.image_size, shape.num_classes) == (3, 8, 3)
    assert [domain.num_classes for domain in data.domains.values()] == [2, 3]
    assert data.client_domains == {0: "grey", 1: "grey", 2: "colour", 3: "colour"}


def test_every_pass_holds_each_own_sample_once():
    data = TwoDomains(clients_per_domain=[3, 1], batch_size=2)
    batches = take(data.train_dataloader(), 5)
    for client in data.clients:
        steps = len(client) // 2
        seen = torch.cat([b[client.client_id].samples[:, 0, 0, 0] for b in batches[:steps]])
        assert len(seen.unique()) == len(seen)
        assert set(seen.tolist()) <= set(client.indices.tolist())


def test_poisson_batches_draw_every_sample_for_itself_and_go_on_as_they_were():
    arguments = {"batch_size": 16, "seed": 3, "steps_per_epoch": 400, "sampling": "poisson"}
    data = DigitsDataModule(**arguments)
    batches = take(data.train_dataloader(), 300)
    for client in data.clients:
        sizes = torch.tensor([float(len(batch[client.client_id].labels)) for batch in batches])
        rate = 16 / len(client)
        spread = (16 * (1 - rate)) ** 0.5
        assert float(sizes.mean()) == pytest.approx(16, abs=5 * spread / 300**0.5)
        assert float(sizes.std()) == pytest.approx(spread, rel=0.2)
    first, second = (batches[0][c].samples.float().mean() for c in (0, 1))
    assert first != second
    again = DigitsDataModule(**arguments).train_dataloader()
    again.load_state_dict({"step": 200})
    for expected, batch in zip(batches[200:205], take(again, 5), strict=True):
        assert all(torch.equal(batch[c].samples, expected[c].samples) for c in expected)


def test_poisson_batches_may_be_empty_and_hold_no_sample_twice():
    loader = TwoDomains(clients_per_domain=1, batch_size=1, sampling="poisson").train_dataloader()
    client = loader.clients[0]
    drawn = [loader._draw(client, 1, step) for step in range(200)]
    assert any(len(each) == 0 for each in drawn) and any(len(each) > 1 for each in drawn)
    assert all(len(set(each.tolist())) == len(each) for each in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=len(client))
    assert counts.sum() == pytest.approx(200, abs=60)
    assert (counts > 0).all()


@pytest.mark.parametrize("augmentation", [None, Augmentation(horizontal_flip=True, shift_px=1)])
def test_resumed_batches_equal_uninterrupted_ones(augmentation):
    arguments = {"batch_size": 5, "steps_per_epoch": 50, "seed": 3, "augmentation": augmentation}
    whole = take(DigitsDataModule(**arguments).train_dataloader(), 40)
    first = DigitsDataModule(**arguments).train_dataloader()
    take(first, 25)
    second = DigitsDataModule(**arguments).train_dataloader()
    second.load_state_dict({"step": 25})
    for expected, batch in zip(whole[25:], take(second, 15), strict=True):
        for client, (samples, labels) in batch.items():
            assert torch.equal(samples, expected[client].samples)
            assert torch.equal(labels, expected[client].labels)


class BatchRecorder(LightningModule):
    """Writes down the labels of every batch; saves a checkpoint after so many."""

    def __init__(self, saves_after=None, path=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.saves_after, self.path = saves_after, path
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append([labels.tolist() for _, labels in batch.values()])
        self.optimizers().step()  # counts as a global step

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if len(self.seen) == self.saves_after:
            self.trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self):
        if len(self.seen) == self.saves_after:
            self.trainer.save_checkpoint(self.path)

    def validation_step(self, name, batch_idx):
        """Nothing to do."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_share_of_the_clients_takes_part_in_every_epoch():
    options = {"clients_per_domain": 3, "batch_size": 2, "steps_per_epoch": 2}
    every = take_epochs(TwoDomains(**options), 8)
    some = take_epochs(TwoDomains(**options, participation=0.5), 8)
    present = [[sorted(batches) for batches in epoch] for epoch in some]
    assert all(first == second and len(first) == 3 for first, second in present)
    assert {client for first, _ in present for client in first} == set(range(6))
    assert len({tuple(first) for first, _ in present}) > 3
    for whole, part in zip(chain(*every), chain(*some), strict=True):
        for client, batch in part.items():
            assert torch.equal(batch.samples, whole[client].samples)
    assert take_epochs(TwoDomains(**options, participation=0.01), 1)[0][0].keys() < set(range(6))
    with pytest.raises(HuscfError, match=r"data.participation is 0, must be > 0 and <= 1"):
        TwoDomains(participation=0)


def test_clients_join_later_and_leave_for_good():
    options = {"clients_per_domain": 3, "batch_size": 2, "steps_per_epoch": 2}
    data = TwoDomains(**options, first_epochs={4: 2}, last_epochs={0: 0, 4: 2})
    every = take_epochs(TwoDomains(**options), 4)
    some = take_epochs(data, 4)
    present = [sorted(epoch[0]) for epoch in some]
    assert present == [[0, 1, 2, 3, 5], [1, 2, 3, 5], [1, 2, 3, 4, 5], [1, 2, 3, 5]]
    for whole, part in zip(chain(*every), chain(*some), strict=True):
        for client, batch in part.items():
            assert torch.equal(batch.samples, whole[client].samples)
    half = TwoDomains(**options, first_epochs={4: 2}, participation=0.6)
    assert [len(epoch[0]) for epoch in take_epochs(half, 3)] == [3, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_epochs": {6: 1}}, "data.first_epochs: there is no client 6, 0 to 5 are"),
        ({"last_epochs": {1: -1}}, "data.last_epochs: epoch of client 1 is -1, must be"),
        ({"first_epochs": {1: 3}, "last_epochs": {1: 2}}, "client 1 leaves after epoch 2, before"),
        ({"last_epochs": dict.fromkeys(range(6), 0)}, "no client is left in epoch 1"),
    ],
)
def test_epochs_that_cannot_be_are_refused(options, message):
    with pytest.raises(HuscfError, match=message):
        take_epochs(TwoDomains(clients_per_domain=3, batch_size=2, steps_per_epoch=1, **options), 2)


def take_epochs(data, count):
    batches = data.train_dataloader()
    return [list(batches) for _ in range(count)]


def record(data, ckpt_path=None, saves_after=None, save_path=None, **options):
    """Return the labels of the batches of three epochs, in order."""
    module = BatchRecorder(saves_after, save_path)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module.seen


def make_digits():
    return DigitsDataModule(batch_size=5, steps_per_epoch=4)


def test_loaders_that_are_made_anew_go_on_where_the_last_one_stopped():
    usual = record(make_digits())
    assert len({str(labels) for labels in usual}) == 12
    assert record(make_digits(), reload_dataloaders_every_n_epochs=1) == usual


@pytest.mark.parametrize(("limit", "count"), [(3, 3), (0.5, 2), (9, 4)])
def test_overfitting_repeats_the_first_batches_in_every_epoch(limit, count):
    usual = record(make_digits())
    assert record(make_digits(), overfit_batches=limit) == 3 * usual[:count]


@pytest.mark.parametrize(
    "options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"overfit_batches": 4}]
)
@pytest.mark.parametrize("count", [3, 4, 6])
def test_training_goes_on_at_the_batch_where_it_was_saved(tmp_path, options, count):
    path = tmp_path / "saved.ckpt"
    whole = record(make_digits(), saves_after=count, save_path=path, **options)
    assert len(whole) == 12
    assert record(make_digits(), ckpt_path=path, **options) == whole[count:]
    # So it does with a datamodule that has been trained on.
    used = make_digits()
    record(used)
    assert record(used, ckpt_path=path, **options) == whole[count:]


def test_a_new_trainer_begins_at_the_first_batches():
    data = make_digits()
    assert record(data) == record(data)


def test_balanced_sampling_draws_a_clients_own_classes_equally_often():
    partitioner = LabelExclusionPartitioner({3: 1.0})
    data = DigitsDataModule(
        partitioner=partitioner, batch_size=21, steps_per_epoch=40, label_sampling="balanced"
    )
    labels = data.domains["digits"].train_labels
    # Three quarters of one class are taken away.
    held = labels[data.clients[0].indices].numpy()
    gone = (held == held[0]) & (np.arange(len(held)) % 4 != 0)
    first = data.clients[0] = replace(data.clients[0], indices=data.clients[0].indices[~gone])
    counts = torch.zeros(10)
    for batch in take(data.train_dataloader(), 40):
        assert batch[0].labels.bincount(minlength=10).max() <= 4
        counts += batch[0].labels.bincount(minlength=10)
    own = labels[first.indices].unique()
    assert len(own) == 7
    assert counts[own] == pytest.approx(torch.full((7,), 40 * 21 / 7), rel=0.05)
    assert counts.sum() == 40 * 21


def test_augmentation_leaves_the_stored_samples_alone():
    data = DigitsDataModule(augmentation=Augmentation(shift_px=3))
    before = data.domains["digits"].train_samples.clone()
    take(data.train_dataloader(), 3)
    assert torch.equal(data.domains["digits"].train_samples, before)


def test_manifest_is_plain_and_reproducible():
    arguments = {"partitioner": DirichletPartitioner(0.5), "clients_per_domain": 3, "seed": 1}
    manifest = TwoDomains(**arguments).make_manifest()
    assert json.loads(json.dumps(manifest)) == TwoDomains(**arguments).make_manifest()
    assert manifest["left_out"] == {}
    owned = [index for entry in manifest["clients"][:3] for index in entry["indices"]]
    assert sorted(owned) == list(range(12))
    assert set(manifest["clients"][0]["keys"]) <= set("abcd")


def test_few_samples_are_a_clear_error():
    with pytest.raises(DataError, match="lower clients_per_domain"):
        _ = TwoDomains(clients_per_domain=20).clients
    with pytest.raises(DataError, match="needs at least 2"):
        _ = TwoDomains(clients_per_domain=9).clients
    skewed = LabelExclusionPartitioner({1: 1.0})
    assert min(len(c) for c in TwoDomains(clients_per_domain=2, partitioner=skewed).clients) >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_samples": torch.zeros(4, 1, 8, 9, dtype=torch.uint8)}, "square"),
        ({"train_samples": torch.zeros(4, 1, 8, 8)}, "uint8"),
        ({"train_labels": torch.zeros(3, dtype=torch.int64)}, r"int64 \(4,\)"),
        ({"test_labels": torch.tensor([0, 1, 2, 1])}, "label 2 is outside the 2 classes"),
        ({"train_labels": torch.tensor([0, -1, 0, 1])}, "label -1 is negative"),
        ({"keys": np.array(["a"])}, "1 keys for 4 samples"),
        ({"keys": ["a"]}, "1 keys for 4 samples"),
        ({"train_samples": np.zeros((4, 1, 8, 8))}, r"uint8 \(N, C, H, W\), got torch.float64"),
        ({"train_labels": np.zeros(4)}, r"int64 \(4,\), got torch.float64"),
        ({"train_labels": list("abab")}, "domain x: train_labels make no tensor"),
        ({"train_samples": [[1], [1, 2]]}, "domain x: train_samples make no tensor"),
    ],
)
def test_a_domain_that_does_not_fit_is_refused(change, message):
    samples = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    good = {"train_samples": samples, "train_labels": labels}
    good |= {"test_samples": samples, "test_labels": labels, "class_names": ("a", "b")}
    with pytest.raises(DataError, match=message):
        Domain("x", **(good | change))


def test_numpy_arrays_and_lists_make_the_same_domain_as_tensors():
    samples = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    samples.setflags(write=False)
    labels = np.array([0, 1, 0, 1], dtype=np.int32)
    domain = Domain(
        "x", samples, labels, list(samples[:, ::-1]), [1, 0, 1, 1], list("abab"), ["no", "yes"]
    )
    for given in (domain.train_samples, domain.test_samples):
        assert torch.equal(given, torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8))
    assert domain.train_labels.dtype == torch.int64
    assert domain.train_labels.tolist() == [0, 1, 0, 1]
    assert domain.test_labels.tolist() == [1, 0, 1, 1]
    assert domain.keys.tolist() == list("abab")
    assert domain.class_names == ("no", "yes") and domain.num_classes == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a domain's name is '', must be text"),
        (3, "a domain's name is 3, must be text"),
        (None, "a domain's name is None, must be text"),
        ("north/ward", "'north/ward': a name must have no slash"),
        ("north\\ward", "a name must have no slash"),
    ],
)
def test_a_domain_that_no_file_can_be_named_by_is_refused(name, message):
    samples, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match=message):
        Domain(name, samples, labels, samples, labels)


@pytest.mark.parametrize(
    "option", ["batch_size", "steps_per_epoch", "samples_per_client", "image_size"]
)
def test_counts_below_one_are_refused(option):
    with pytest.raises(HuscfError, match=f"data.{option} is 0, must be >= 1"):
        TwoDomains(**{option: 0})


def test_a_partitioner_that_gives_a_sample_twice_is_refused():
    class Careless(Partitioner):
        def partition(self, labels, keys, num_clients, rng):
            return [np.arange(4)] * num_clients

    with pytest.raises(DataError, match=r"Careless: needs 2 parts .* without a sample in two"):
        _ = TwoDomains(clients_per_domain=2, partitioner=Careless()).clients


@pytest.mark.parametrize("parts", [[[0, 1], [2, 12]], [[0, 1], [2, -1]], []])
def test_a_partitioner_that_names_no_sample_is_refused(parts):
    refuse_parts(parts, "")


@pytest.mark.parametrize(
    ("parts", "told"), [(None, "None"), (3, "3"), ([0, 1], r"\[0, 1\]"), (["ab", "c"], "'ab'")]
)
def test_a_partitioner_that_gives_no_parts_is_refused(parts, told):
    refuse_parts(parts, f".* gave .*{told}")


def refuse_parts(parts, told):
    class Wrong(Partitioner):
        def partition(self, labels, keys, num_clients, rng):
            return parts

    with pytest.raises(DataError, match=f"Wrong: needs 2 parts of positions below 12{told}"):
        _ = TwoDomains(clients_per_domain=2, partitioner=Wrong()).clients


def test_a_partitioner_may_return_lists():
    class Halves(Partitioner):
        def partition(self, labels, keys, num_clients, rng):
            return [list(range(k, len(labels), num_clients)) for k in range(num_clients)]

    data = TwoDomains(clients_per_domain=2, partitioner=Halves())
    assert data.clients[1].indices.tolist() == [1, 3, 5, 7, 9, 11]
    assert data.make_manifest()["clients"][0]["num_samples"] == 6


def test_scaling_reaches_both_ends():
    assert scale_samples(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_root_is_argument_then_variable_then_default(monkeypatch):
    assert str(DigitsDataModule().root) == "data"
    monkeypatch.setenv("HUSCF_DATA", "elsewhere")
    assert str(DigitsDataModule().root) == "elsewhere"
    assert str(DigitsDataModule(root="here").root) == "here"


class Streaming(TwoDomains):
    def load_domains(self):
        yield from super().load_domains()


class Forgetful(FederatedDataModule):
    def load_domains(self):
        TwoDomains.load_domains(self)


class Unpacked(FederatedDataModule):
    def load_domains(self):
        return [("grey", torch.zeros(4, 1, 8, 8))]


def test_domains_may_come_from_a_generator():
    assert list(Streaming(clients_per_domain=2).domains) == ["grey", "colour"]


@pytest.mark.parametrize(("kind", "given"), [(Forgetful, "NoneType"), (Unpacked, "tuple")])
def test_what_is_no_list_of_domains_is_refused_by_the_classs_name(kind, given):
    message = f"{kind.__name__}: needs a method load_domains that returns .*, got {given}"
    with pytest.raises(DataError, match=message):
        _ = kind().domains


@pytest.mark.parametrize(("limit", "length"), [(2, 2), (0.75, 3), (9, 4), (1.0, 4)])
def test_participants_change_between_shortened_epochs_only(limit, length):
    data = TwoDomains(clients_per_domain=3, batch_size=2, steps_per_epoch=4, participation=0.5)
    data.trainer = SimpleNamespace(overfit_batches=0, limit_train_batches=limit)
    batches, present = data.train_dataloader(), []
    assert len(batches) == 4
    for _ in range(6):
        # Lightning leaves an epoch early in the same way.
        epoch = [set(batch) for _, batch in zip(range(length), batches, strict=False)]
        assert len(epoch) == length and all(each == epoch[0] for each in epoch)
        present.append(frozenset(epoch[0]))
    assert len(set(present)) > 1


@pytest.mark.parametrize("length", [0, -1, True, 2.0, "many", None])
def test_a_saved_length_of_an_epoch_that_is_none_is_refused(length):
    data = TwoDomains()
    with pytest.raises(CheckpointError, match="steps_per_epoch of the data is"):
        data.load_state_dict({"step": 3, "steps_per_epoch": length})


@pytest.mark.parametrize(
    "module_class", [ImageDataModule, SpokenDigitsDataModule, MedicalDataModule]
)
def test_an_empty_list_of_sets_is_no_wish_for_the_default(module_class, tmp_path):
    with pytest.raises(DataError, match=r"DataModule: there is no domain: name one at least, in"):
        _ = module_class(datasets=[], root=str(tmp_path)).domains
