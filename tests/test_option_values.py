"""Numbers that YAML can hold and no option can be: refused by name, for every numeric option."""

import inspect
import math
import typing

import pytest

from huscf import callbacks, datamodules, federation
from huscf.errors import HuscfError, check_number

NAN, INF = math.nan, math.inf
#: Classes that a configuration names, with what they need beside.
CLASSES = {
    federation.KMeansClusters: {},
    federation.AgglomerativeClusters: {},
    callbacks.ClusteredFederation: {},
    callbacks.Evaluation: {},
    callbacks.FederationLog: {},
    callbacks.Replanning: {},
    callbacks.SampleGrid: {},
    callbacks.SplitTraining: {},
    callbacks.RoundEarlyStopping: {"monitor": "eval/x/y"},
    datamodules.DirichletPartitioner: {"alpha": 1.0},
    datamodules.QuantitySkewPartitioner: {"alpha": 1.0},
    datamodules.DigitsDataModule: {},
    datamodules.FolderDataModule: {"sources": {"a": "b"}},
    datamodules.AudioFolderDataModule: {"sources": {"a": "b"}},
    datamodules.Augmentation: {},
    datamodules.LogMel: {},
}
#: Options for which a negative number means something, and what.
NEGATIVE = {
    ("ClusteredFederation", "beta"): "who differs counts more",
    ("ClusteredFederation", "size_exponent"): "who has few samples counts more",
    ("Evaluation", "every_n_rounds"): "never",
    ("KMeansClusters", "min_silhouette"): "silhouettes lie from -1 to 1",
    ("AgglomerativeClusters", "min_silhouette"): "silhouettes lie from -1 to 1",
}
#: Options that are checked once the data are read, or by the command line.
LATER = ("seed", "clients_per_domain")


def list_options():
    """Class, name and whether fractions are taken, of every numeric option."""
    for cls in CLASSES:
        found = {}
        for base in reversed(cls.__mro__):
            # Lightning's own arguments are not ours.
            if "__init__" in vars(base) and base.__module__.startswith("huscf"):
                found |= inspect.signature(base.__init__).parameters
        for name, parameter in found.items():
            kinds = {parameter.annotation, *typing.get_args(parameter.annotation)}
            if name not in LATER and kinds & {int, float}:
                yield pytest.param(cls, name, float in kinds, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("cls", "name", "is_float"), list(list_options()))
def test_no_number_is_taken_that_the_option_cannot_be(cls, name, is_float):
    wrong = [NAN, INF, -INF] if is_float else []
    wrong += [] if (cls.__name__, name) in NEGATIVE else [-1]
    wrong += [-2] if not is_float else []
    for value in wrong:
        with pytest.raises(HuscfError) as caught:
            cls(**{**CLASSES[cls], name: value})
        assert name in str(caught.value) and str(value) in str(caught.value)


def test_the_options_are_found():
    names = [str(option.id) for option in list_options()]
    assert len(names) > 40
    assert {"LogMel.duration_s", "FolderDataModule.participation"} <= set(names)


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
