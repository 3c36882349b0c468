"""Random changes in front of a discriminator: what they are, who decides, where they stay."""

import pytest
import torch

from huscf.__main__ import main
from huscf.callbacks.split_training import check_method
from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.methods import DiscriminatorAugmentation, FedGan
from huscf.models import LeastSquaresLoss
from huscf.wire import SERVER
from tests.conftest import ENGINES, REPOSITORY, make_batch, make_gan, run_step
from tests.engines.cases import Recorder, load, restore, save

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 1]}
ALL = ("translation", "cutout", "colour", "flip")


def picture(size=16, channels=1, count=1):
    """Every pixel tells where it is."""
    values = torch.arange(count * channels * size * size, dtype=torch.float64)
    return values.view(count, channels, size, size) / values.numel() - 0.5


def draws_of(*values, count=1):
    """The same draws for every sample; the first is whether it is changed (0) or not (1)."""
    return torch.tensor(values, dtype=torch.float64).expand(count, 1, 4)


def change(policy, samples, *draws, strength=0.5):
    augmentation = DiscriminatorAugmentation((policy,), strength)
    return augmentation.apply(samples, draws_of(*draws), torch.full((len(samples),), strength))


def test_translation_moves_by_up_to_an_eighth_and_repeats_the_edge():
    given = picture()
    lowest, middle, highest = 0.0, 0.5, 0.999
    assert torch.equal(change("translation", given, 0, middle, middle, 0), given)
    moved = change("translation", given, 0, highest, lowest, 0)  # two down, two to the left
    assert torch.equal(moved[..., 2:, :-2], given[..., :-2, 2:])
    assert torch.equal(moved[..., :2, :-2], given[..., :1, 2:].expand(1, 1, 2, 14))
    assert torch.equal(moved[..., :, 14:], moved[..., :, 13:14].expand(1, 1, 16, 2))


def test_a_time_shift_keeps_every_band_where_it_is():
    given = picture()
    moved = change("time_shift", given, 0, 0.999, 0, 0)
    assert torch.equal(moved[..., 2:], given[..., :-2])
    assert torch.equal(moved[..., :2], given[..., :1].expand(1, 1, 16, 2))


def test_a_cutout_greys_half_the_side_around_a_point():
    changed = change("cutout", picture() + 2, 0, 0.5, 0.25, 0)
    expected = picture() + 2
    expected[..., 4:12, 0:8] = 0
    assert torch.equal(changed, expected)


def test_colour_changes_brightness_saturation_and_contrast():
    given = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert torch.allclose(change("colour", given, 0, 0.5, 0.5, 0.5), given)
    assert torch.allclose(change("colour", given, 0, 1.0, 0.5, 0.5), given + 0.5)
    grey = given.mean(1, keepdim=True).expand_as(given)
    assert torch.allclose(change("colour", given, 0, 0.5, 0, 0.5), grey)
    halved = change("colour", given, 0, 0.5, 0.5, 0)
    assert torch.allclose(halved, given.mean() + (given - given.mean()) / 2)


def test_flip_mirrors_half_of_what_is_changed_and_level_moves_a_tenth_of_the_range():
    given = picture()
    assert torch.equal(change("flip", given, 0, 0.4, 0, 0), given.flip(3))
    assert torch.equal(change("flip", given, 0, 0.6, 0, 0), given)
    assert torch.allclose(change("level", given, 0, 1.0, 0, 0), given + 0.2)


@pytest.mark.parametrize("policy", [*ALL, "time_shift", "level"])
def test_what_is_not_drawn_stays_as_it_is_and_gradients_go_through_what_is(policy):
    given = picture(8, 3).requires_grad_()
    assert torch.equal(change(policy, given, 0.5, 0.9, 0.1, 0.8, strength=0.5), given)
    assert torch.autograd.gradcheck(lambda x: change(policy, x, 0, 0.3, 0.1, 0.8), (given,))


def test_the_strength_is_the_part_of_samples_that_is_changed():
    augmentation = DiscriminatorAugmentation(("level",), 0.3)
    drawn = augmentation.draw(4000, torch.Generator().manual_seed(0))
    changed = augmentation.apply(torch.zeros(4000, 1, 2, 2), *drawn.values())
    assert (changed != 0).any((1, 2, 3)).float().mean() == pytest.approx(0.3, abs=0.03)


def test_draws_depend_on_seed_client_and_step_alone():
    def draws(seed, step):
        module = make_gan(CUTS, augmentation=DiscriminatorAugmentation(), seed=seed)
        return {
            c: private["augmentation_draws"]
            for c, private in load(module, make_batch(CUTS), step).items()
        }

    first = draws(0, 0)
    assert not torch.equal(first[0], first[1])
    for client, own in draws(0, 0).items():
        assert torch.equal(own, first[client])
    for other in (draws(1, 0), draws(0, 1)):
        assert not any(torch.equal(other[c], first[c]) for c in CUTS)


def test_reals_and_fakes_are_changed_alike_in_front_of_the_head():
    seen = []

    class Watched(DiscriminatorAugmentation):
        def apply(self, samples, draws, strength):
            seen.append((samples.detach(), draws))
            return super().apply(samples, draws, strength)

    module = make_gan({0: CUTS[0]}, augmentation=Watched(), engine="serial")
    private = load(module, make_batch([0]))[0]
    run_step(module, make_batch([0]))
    assert len(seen) == 3  # fakes, reals, and the fakes that shall fool
    assert torch.equal(seen[1][0], private["samples"])
    assert torch.equal(seen[0][0], seen[2][0])
    assert all(torch.equal(draws, private["augmentation_draws"]) for _, draws in seen)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_of_it_crosses(engine):
    wires = []
    for augmentation in (None, DiscriminatorAugmentation(ALL, 1.0, adaptive=True)):
        wires.append(Recorder())
        module = make_gan(CUTS, wire=wires[-1], augmentation=augmentation, engine=engine)
        private = load(module, make_batch(CUTS))
        run_step(module, make_batch(CUTS))
    described = [
        [(m.kind, m.topic, {n: t.shape for n, t in m.tensors.items()}) for m in wire.messages]
        for wire in wires
    ]
    assert described[0] == described[1]
    secret = {t.data_ptr() for own in private.values() for t in own.values()}
    for message in wires[1].messages:
        assert message.sender == SERVER or message.receiver == SERVER
        assert not secret & {tensor.data_ptr() for tensor in message.tensors.values()}


@pytest.mark.parametrize(("logits", "expected"), [([3, 1, 2, 1], 0.6), ([3, 1, 2, -1], 0.4)])
def test_the_strength_rises_where_reals_are_told_too_surely_and_falls_otherwise(logits, expected):
    # Means of signs: 1 and 0.5; the target is 0.6, four samples of a ramp of 40 are a tenth.
    augmentation = DiscriminatorAugmentation(adaptive=True, ramp_samples=40)
    signs = torch.sign(torch.tensor(logits).float())
    assert augmentation.adapt(signs, torch.tensor(0.5)).item() == pytest.approx(expected)
    assert augmentation.adapt(signs, torch.tensor(0.0)).item() >= 0
    assert augmentation.adapt(signs, torch.tensor(1.0)).item() <= 1


class Sure(LeastSquaresLoss):
    """Takes every real sample of some clients for real, as it is told."""

    boundary = -1e9


def test_every_client_adapts_for_itself_and_goes_on_from_a_checkpoint():
    augmentation = DiscriminatorAugmentation(strength=0.3, adaptive=True, ramp_samples=60)
    options = {"loss": Sure(), "augmentation": augmentation}
    module = make_gan(CUTS, **options)
    run_step(module, make_batch(CUTS))
    run_step(module, make_batch([0]), 1)  # six samples of sixty: a tenth each step
    known = {c: module.client(c).remembered["augmentation_strength"] for c in CUTS}
    assert known == pytest.approx({0: 0.5, 1: 0.4})
    other = restore(make_gan(CUTS, **options), save(module))
    for each in (module, other):
        private = load(each, make_batch(CUTS), 2)
        for client, strength in known.items():
            assert private[client]["augmentation_strength"].tolist() == pytest.approx(
                [strength] * 6
            )
    losses = [run_step(each, make_batch(CUTS), 2) for each in (module, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_is_dropped_learns_nothing(engine):
    augmentation = DiscriminatorAugmentation(strength=0.3, adaptive=True, ramp_samples=60)
    module = make_gan(
        CUTS, loss=Sure(), augmentation=augmentation, on_nonfinite="drop", engine=engine
    )
    with torch.no_grad():
        module.client(1).blocks("generator")[0].linear.weight.fill_(float("nan"))
    run_step(module, make_batch(CUTS))
    assert module.client(0).remembered["augmentation_strength"] == pytest.approx(0.4)
    assert module.client(1).remembered == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_fedgan_has_it_too(engine):
    cuts = {c: [2, 2, 2, 2] for c in (0, 1)}
    losses = []
    for strength in (0.0, 1.0):
        module = make_gan(
            cuts,
            method_class=FedGan,
            augmentation=DiscriminatorAugmentation(("cutout",), strength),
            weight_std=0.5,
            engine=engine,
        )
        losses.append(run_step(module, make_batch(cuts)))
    assert losses[0]["discriminator"] != pytest.approx(losses[1]["discriminator"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policies": ("pitch",)}, "policies: there is no pitch; there are translation"),
        ({"policies": ()}, "policies needs one or more"),
        ({"policies": ("flip", "flip")}, "policies needs one or more different ones"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"target": float("nan")}, "target is nan"),
        ({"ramp_samples": 0}, "ramp_samples is 0"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(HuscfError, match=message) as caught:
        DiscriminatorAugmentation(**options)
    assert "\n" not in str(caught.value)


def test_policies_that_the_kind_of_data_forbids_are_refused_or_warned_of():
    mirrored = DiscriminatorAugmentation(("translation", "flip"))
    assert mirrored.check_data(False, ["clothes"]) == []
    (warning,) = mirrored.check_data(False, ["fashion_mnist", "mnist"])
    assert "flip mirrors mnist" in warning
    with pytest.raises(HuscfError, match=r"translation is not for spectrograms: .* pitch"):
        mirrored.check_data(True, ["spoken"])
    assert DiscriminatorAugmentation(("time_shift", "level")).check_data(True, ["spoken"]) == []
    with pytest.raises(HuscfError, match="level is not for pictures"):
        DiscriminatorAugmentation(("level",)).check_data(False, ["mnist"])


def test_a_run_is_refused_or_warned_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", str(REPOSITORY / "configs/quickstart.yaml")]
    command += ["--trainer.max_steps", "1", "--trainer.enable_progress_bar", "false"]
    command += ["--evaluation.every_n_rounds", "-1", "--samples.every_n_rounds", "0"]
    policies = "--model.method.augmentation.policies"
    assert main([*command, policies, "[time_shift]"]) == 2
    assert "time_shift is not for pictures; take translation" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))
    module = make_gan(CUTS, augmentation=DiscriminatorAugmentation(("flip",)))
    with pytest.warns(UserWarning, match="flip mirrors digits"):
        check_method(module, DigitsDataModule())
