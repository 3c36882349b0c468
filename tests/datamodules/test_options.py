"""Every number that YAML can give to a class of data is refused by name, or makes sense."""

import inspect
import math
import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import huscf.datamodules
from huscf.datamodules import (
    AudioFolderDataModule,
    Augmentation,
    DirichletPartitioner,
    FederatedDataModule,
    FolderDataModule,
    LabelExclusionPartitioner,
    LogMel,
    NpzDataModule,
    Partitioner,
    QuantitySkewPartitioner,
)
from huscf.errors import HuscfError

#: What a class needs beside the option that is tried.
NEEDED = {
    AudioFolderDataModule: {"sources": {}},
    FolderDataModule: {"sources": {}},
    NpzDataModule: {"files": {}},
    DirichletPartitioner: {"alpha": 1.0},
    QuantitySkewPartitioner: {"alpha": 1.0},
    LabelExclusionPartitioner: {"missing_classes": {1: 1.0}},
}

#: How a number is put into options that are no plain number.
WRAPPED = {
    "window": [lambda x: (x, 5.0), lambda x: (-7.0, x)],
    "clients_per_domain": [lambda x: x, lambda x: [2, x]],
    "first_epochs": [lambda x: {0: x}],
    "last_epochs": [lambda x: {0: x}],
    "missing_classes": [lambda x: {x: 1.0}, lambda x: {1: x}],
    "shares": [lambda x: {x: 1.0}, lambda x: {1.0: x, 0.5: 1.0}],
    "label_from": [lambda x: {"a": x}],
}

#: Options that may be negative, as their documentation says.
SIGNED = {"window"}


def is_yaml_class(value):
    return (
        inspect.isclass(value)
        and not inspect.isabstract(value)
        and issubclass(value, (FederatedDataModule, Partitioner, Augmentation, LogMel))
    )


def find_numbers(annotation):
    """Whether an annotation has a number in it, at any depth, as a type or a literal."""
    if annotation in (int, float):
        return True
    return any(
        find_numbers(part) or (isinstance(part, int) and not isinstance(part, bool))
        for part in typing.get_args(annotation)
    )


def list_options():
    for name in huscf.datamodules.__all__:
        kind = getattr(huscf.datamodules, name)
        if not is_yaml_class(kind):
            continue
        found = {}
        for parent in kind.__mro__:
            if parent.__module__.startswith("huscf") and isinstance(
                parent.__init__, types.FunctionType
            ):
                hints = typing.get_type_hints(parent.__init__)
                found |= {n: h for n, h in hints.items() if n not in found and n != "return"}
        for option, hint in found.items():
            if option != "class_names" and find_numbers(hint):
                for wrap in WRAPPED.get(option, [lambda x: x]):
                    if option == "label_from" and "dict" not in str(hint):
                        continue
                    yield pytest.param(kind, option, wrap, id=f"{name}-{option}")


OPTIONS = list(list_options())
NUMBERS = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, -1, -0.5, 0, 1, 2.5, 1 << 62]),
    st.integers(-5, 300),
    st.floats(),
)


def build(kind, option, value):
    return kind(**NEEDED.get(kind, {}) | {option: value})


def test_the_options_are_found():
    found = {(p.values[0].__name__, p.values[1]) for p in OPTIONS}
    assert len(found) > 60
    for known in (
        ("FolderDataModule", "window"),
        ("FolderDataModule", "batch_size"),
        ("MedicalDataModule", "size"),
        ("LogMel", "range_db"),
        ("Augmentation", "shift_px"),
        ("LabelExclusionPartitioner", "shares"),
    ):
        assert known in found


@pytest.mark.parametrize(("kind", "option", "wrap"), OPTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1])
def test_what_is_no_number_or_negative_is_refused_by_name(kind, option, wrap, value):
    if value == -1 and option in SIGNED:
        build(kind, option, wrap(value))
        return
    with pytest.raises(HuscfError, match=option) as caught:
        build(kind, option, wrap(value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "option", "wrap"), OPTIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(value=NUMBERS)
def test_every_number_is_taken_or_refused_by_name(kind, option, wrap, value):
    try:
        build(kind, option, wrap(value))
    except HuscfError as error:
        assert option in str(error)
    else:
        assert math.isfinite(value) and (value >= 0 or option in SIGNED)


@pytest.mark.parametrize("option", ["batch_size", "steps_per_epoch", "seed", "clients_per_domain"])
@pytest.mark.parametrize("value", [2.5, True, "3"])
def test_counts_are_whole_numbers(option, value):
    with pytest.raises(HuscfError, match=rf"data.{option} is {value}, must be"):
        FolderDataModule({}, **{option: value})
