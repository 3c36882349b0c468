"""Numbers that YAML can hold and no option can be: refused by name, for every numeric option."""

import inspect
import math
import typing

import pytest
from lightning.pytorch import Callback

from huscf import (
    callbacks,
    datamodules,
    federation,
    methods,
    metrics,
    models,
    planning,
    split,
    training,
    wire,
)
from huscf.errors import HuscfError, check_number
from huscf.methods import HuscfGan, request_plan
from huscf.models import SampleShape
from tests.test_security import MINI, refuse

NAN, INF = math.nan, math.inf
SHAPE = SampleShape(1, 8, 3)
PACKAGES = (
    *(models, methods, split, wire, metrics, federation, datamodules, callbacks),
    *(planning, training),
)
#: What YAML can name a class of, since an argument is annotated with it.
BASES = (
    *(models.Network, models.AdversarialLoss, methods.Method, split.PlanSource, wire.Wire),
    *(datamodules.Partitioner, datamodules.FederatedDataModule, datamodules.Augmentation),
    *(datamodules.LogMel, metrics.InceptionFeatures, Callback, training.SplitModule),
    *(federation.KMeansClusters, federation.AgglomerativeClusters),
)
#: Not to be named: what a configuration describes by other means.
NOT_NAMED = (models.Network,)
PC = {"speed_gflops": 1, "uplink_mbit_per_s": 9, "downlink_mbit_per_s": 9}
#: What classes need beside the option that is tried.
NEEDED = {
    "alpha": 1.0,
    "batch_sizes": {0: 4},
    "client_sizes": {0: 8},
    "clients": {0: [1, 1, 1, 1]},
    "devices": {
        **{
            "profiles": {"pc": {**PC, "power_w": 5}},
            "server": PC,
            "assignment": {"counts": {"pc": 1}},
        },
        "strategy": "uniform",
    },
    "files": {"a": "b"},
    "latent_dim": 2,
    "missing_classes": {1: 1.0},
    "monitor": "eval/x/y",
    "profiles": {"a": [1, 1, 1, 1]},
    "sample_shape": SHAPE,
    "shape": SHAPE,
    "sources": {"a": "b"},
    "weights": "inception.pth",
}
#: How a number is put into options that are no plain number.
WRAPPED = {
    "betas": lambda x: (x, 0.9),
    "bits": lambda x: {"activations": x},
    "clip": lambda x: {"activations": x},
    "clients": lambda x: {0: [x, 1, 1, 1]},
    "clients_per_domain": lambda x: [x],
    "cuts": lambda x: [1, x, 1, 1],
    "fake_label_weights": lambda x: [x, 1.0, 1.0],
    "first_epochs": lambda x: {0: x},
    "forbidden_cuts": lambda x: {"generator_head": [x]},
    "label_from": lambda x: {"a": x},
    "last_epochs": lambda x: {0: x},
    "missing_classes": lambda x: {x: 1.0},
    "noise": lambda x: {"activations": x},
    "profiles": lambda x: {"a": [1, 1, x, 1]},
    "shares": lambda x: {x: 1.0},
    "window": lambda x: (x, 5.0),
}
#: Values that mean something for an option, and what.
MEANT = {
    ("ClusteredFederation", "beta"): ({-1, -2}, "who differs counts more"),
    ("ClusteredFederation", "size_exponent"): ({-1, -2}, "who has few samples counts more"),
    ("Evaluation", "every_n_rounds"): ({-1}, "never"),
    ("KMeansClusters", "min_silhouette"): ({-1}, "silhouettes lie from -1 to 1"),
    ("AgglomerativeClusters", "min_silhouette"): ({-1}, "silhouettes lie from -1 to 1"),
    ("FolderDataModule", "window"): ({-1, -2}, "pixels can be negative"),
    **{
        ("SearchedPlan", name): ({INF}, "no limit")
        for name in ("max_latency_s", "max_bytes_per_step", "max_energy_j", "time_limit_s")
    },
    ("RoundProgressBar", "refresh_rate"): ({-1, -2}, "Lightning's: no bar"),
}
#: Names by number, not numbers; and what the run's data says, which nobody sets.
NO_NUMBERS = ("class_names", "assignment", "batch_sizes", "client_sizes", "server")
LINKED = ("SplitModule.seed",)


def find_numbers(annotation):
    """int and float where they stand in an annotation, at any depth."""
    if annotation in (int, float):
        return {annotation}
    return set().union(*map(find_numbers, typing.get_args(annotation)))


def list_classes():
    for package in PACKAGES:
        for name in package.__all__:
            found = getattr(package, name)
            is_named = inspect.isclass(found) and issubclass(found, BASES)
            if is_named and not inspect.isabstract(found) and found not in NOT_NAMED:
                yield found


def list_options():
    """Class, name and whether fractions are taken, of every numeric option."""
    for cls in list_classes():
        found = {}
        for base in reversed(cls.__mro__):
            # Lightning's own arguments are not ours.
            if "__init__" in vars(base) and base.__module__.startswith("huscf"):
                found |= typing.get_type_hints(base.__init__)
        for name, annotation in found.items():
            kinds = find_numbers(annotation) if name not in (*NO_NUMBERS, "return") else set()
            if kinds and f"{cls.__name__}.{name}" not in LINKED:
                yield pytest.param(cls, name, float in kinds, id=f"{cls.__name__}.{name}")


OPTIONS = list(list_options())


def build(cls, name, value):
    """Make an object as a configuration does; a plan's numbers are looked at with the networks."""
    takes = inspect.signature(cls.__init__).parameters
    needed = {
        key: NEEDED[key]
        for key, parameter in takes.items()
        # Sites alone do without the devices' file.
        if key in NEEDED and (parameter.default is parameter.empty or key == "devices")
    }
    made = cls(**{**needed, name: WRAPPED.get(name, lambda x: x)(value)})
    if isinstance(made, split.PlanSource):
        networks = {
            "generator": models.ConditionalGenerator(SHAPE, 2, 2, 4),
            "discriminator": models.ConditionalDiscriminator(SHAPE, 2, 4),
        }
        made.make_plan(request_plan(HuscfGan(latent_dim=2), networks, SHAPE, {0: 4}))
    return made


@pytest.mark.parametrize(("cls", "name", "is_float"), OPTIONS)
def test_no_number_is_taken_that_the_option_cannot_be(cls, name, is_float):
    meant, _ = MEANT.get((cls.__name__, name), (set(), ""))
    for value in (NAN, INF, -INF, -1, -2) if is_float else (-1, -2):
        if value in meant:
            build(cls, name, value)
            continue
        with pytest.raises(HuscfError) as caught:
            build(cls, name, value)
        message = str(caught.value)
        assert "\n" not in message and str(value) in message
        assert name in message or name in ("clients", "cuts", "profiles")


def test_the_options_are_found():
    names = {str(option.id) for option in OPTIONS}
    assert len(names) > 150
    assert names >= {
        *("LogMel.duration_s", "FolderDataModule.participation", "HuscfGan.ema_decay"),
        *("FedGan.latent_dim", "Vae.kl_weight", "FlowMatching.guidance", "UNet.width"),
        *("SearchedPlan.time_limit_s", "SplitModule.num_evaluated_seeds", "ExplicitPlan.clients"),
        *(
            "NonSaturatingLoss.real_target",
            "InceptionFeatures.max_samples",
            "Augmentation.shift_px",
        ),
    }


@pytest.mark.parametrize("server", [{"generator": [-1]}, {"generator": [99]}, {"nobody": [1]}])
def test_the_servers_blocks_are_checked_with_the_networks(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.yaml").write_text(MINI)
    line = refuse(["fit", "--config=mini.yaml", f"--federation.server={server}"], capsys)
    assert "federation.server" in line


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [(0, 0, INF), (-1, -1, 1), (1, -1, 1), (1e300, 0, INF), (-5, -INF, INF)],
)
def test_numbers_within_the_range_are_taken(value, least, most):
    check_number("x", value, least, most)


@pytest.mark.parametrize(
    ("value", "least", "most", "message"),
    [
        (NAN, 0, INF, "x is nan, must be a finite number >= 0"),
        (INF, 0, INF, "x is inf, must be a finite number >= 0"),
        (-0.5, 0, INF, "x is -0.5, must be a finite number >= 0"),
        (2, -1, 1, "x is 2, must be >= -1 and <= 1"),
        (NAN, -INF, INF, "x is nan, must be a finite number$"),
        (10**400, 0, INF, "0, must be a finite number >= 0"),
    ],
)
def test_numbers_beyond_it_are_named(value, least, most, message):
    with pytest.raises(HuscfError, match=message):
        check_number("x", value, least, most)


def test_sounds_are_no_longer_and_no_finer_than_any_recording():
    for options, limits in (
        ({"sample_rate": 2**63}, r">= 1000 and <= 1e\+06"),
        ({"duration_s": 1e18}, "> 0 and <= 600"),
    ):
        with pytest.raises(HuscfError, match=f"must be .*{limits}"):
            datamodules.LogMel(**options)
