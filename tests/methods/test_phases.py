"""A step as data: which passes go back, in which order, and to what."""

from dataclasses import replace

import pytest
import torch

from huscf.methods import HuscfGan, Pass, Phase, trace_phases
from huscf.split import TracedPass, TracedPhase


def gan_phases(**options):
    return HuscfGan(**options).phases(0)


def test_the_discriminators_half_gives_the_generator_nothing():
    discriminator, generator = gan_phases(mismatched_weight=1.0)
    assert [phase.name for phase in (discriminator, generator)] == ["discriminator", "generator"]
    fakes, fake, real, mismatched = discriminator.passes
    kinds = [discriminator.backward_of(item) for item in discriminator.passes]
    assert kinds == ["none", "parameters", "parameters", "parameters"]
    assert discriminator.sources(fake) == ["fakes"] and discriminator.trained_sources(fake) == []
    assert discriminator.sources(real) == discriminator.sources(mismatched) == []
    again, fooled = generator.passes
    assert again == fakes
    assert generator.trained_sources(fooled) == ["fakes"]
    assert [generator.backward_of(item) for item in generator.passes] == ["parameters", "inputs"]


def test_a_client_goes_back_as_soon_as_nobody_needs_a_pass_any_more():
    discriminator, generator = gan_phases()
    order = [(direction, item.name) for direction, item in discriminator.steps()]
    assert order == [
        ("forward", "fakes"),
        ("forward", "fake"),
        ("backward", "fake"),
        ("forward", "real"),
        ("backward", "real"),
    ]
    assert [(d, item.name) for d, item in generator.steps()] == [
        ("forward", "fakes"),
        ("forward", "fooled"),
        ("backward", "fooled"),
        ("backward", "fakes"),
    ]


def test_passes_that_need_nothing_of_each_other_go_together_in_the_order_of_the_steps():
    phases = gan_phases(mismatched_weight=1.0)
    names = [[(d, [item.name for item in items]) for d, items in p.exchanges()] for p in phases]
    assert names == [
        [
            ("forward", ["fakes"]),
            ("forward", ["fake", "real", "mismatched"]),
            ("backward", ["fake", "real", "mismatched"]),
        ],
        [
            ("forward", ["fakes"]),
            ("forward", ["fooled"]),
            ("backward", ["fooled"]),
            ("backward", ["fakes"]),
        ],
    ]
    # One that reads the first of three must wait for it, and nobody overtakes it.
    items = [Pass(n, "net", {"x": x}, loss=lambda *_: None) for n, x in (("a", "n"), ("b", "a"))]
    phase = Phase(("net",), (*items, Pass("c", "net", {"x": "n"}, loss=lambda *_: None)))
    assert [(d, [item.name for item in own]) for d, own in phase.exchanges()] == [
        ("forward", ["a"]),
        ("forward", ["b", "c"]),
        ("backward", ["b"]),
        ("backward", ["a", "c"]),
    ]


def chain(trains):
    """Three passes in a row and one that reads two of them."""
    items = (
        Pass("a", "one", {"x": "noise"}),
        Pass("b", "two", {"x": "a"}),
        Pass("c", "three", {"x": "b", "side": "a.code"}, loss=lambda outputs, private: None),
    )
    return Phase(trains, items)


@pytest.mark.parametrize(
    ("trains", "kinds"),
    [
        (("one",), ["parameters", "inputs", "inputs"]),
        (("two",), ["none", "parameters", "inputs"]),
        (("three",), ["none", "none", "parameters"]),
        (("one", "three"), ["parameters", "inputs", "both"]),
    ],
)
def test_gradients_go_where_something_is_trained(trains, kinds):
    phase = chain(trains)
    assert [phase.backward_of(item) for item in phase.passes] == kinds
    trained = [name for name, kind in zip("ab", kinds, strict=False) if kind != "none"]
    assert sorted(phase.trained_sources(phase.passes[2])) == trained
    assert phase.name == "+".join(trains)


def test_inputs_are_private_tensors_or_outputs_of_passes():
    item = chain(("one",)).passes[2]
    outputs = {"b": {"x": torch.ones(1)}, "a": {"x": torch.zeros(1), "code": torch.full((1,), 2.0)}}
    found = item.read_inputs({}, outputs)
    assert {name: tensor.item() for name, tensor in found.items()} == {"x": 1.0, "side": 2.0}
    noise = torch.zeros(3)
    assert chain(("one",)).passes[0].read_inputs({"noise": noise}, {})["x"] is noise


def test_a_planner_is_told_every_pass_in_the_order_in_which_clients_run_them():
    real = TracedPass("discriminator", "forward", is_observed=True)
    judging = (
        TracedPass("generator", "forward"),
        TracedPass("discriminator", "forward"),
        TracedPass("discriminator", "backward"),
        real,
        replace(real, kind="backward"),
    )
    fooling = (
        TracedPass("discriminator", "forward"),
        TracedPass("discriminator", "input_backward"),
        TracedPass("generator", "backward"),
    )
    assert trace_phases(gan_phases()) == (
        TracedPhase(("discriminator",), judging),
        TracedPhase(("generator",), fooling),
    )
