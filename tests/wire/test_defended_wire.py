"""Clipping, noise and rounding: what arrives, what it takes, and that it can be repeated."""

import pytest
import torch

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.nested_values import flatten
from huscf.wire import SERVER, DefendedWire, Message, TensorSpec
from huscf.wire.roundings import Levels
from tests.conftest import make_batch, make_gan, run_step
from tests.test_security import MINI


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def up(tensor, kind="activations", client=0, topic="discriminator_head"):
    return Message(client, SERVER, kind, topic, {"x": tensor})


def down(tensor, kind="activations"):
    return Message(SERVER, 0, kind, "discriminator_tail", {"x": tensor})


def rms(rows):
    return rows.flatten(1).square().mean(1).sqrt()


def test_samples_above_the_clip_are_scaled_to_it_and_others_left():
    wire = DefendedWire(clip={"activations": 2.0})
    given = draw(3, 4, 5, 5) / rms(draw(3, 4, 5, 5)).view(-1, 1, 1, 1)
    given = given * torch.tensor([1.0, 2.0, 8.0]).view(-1, 1, 1, 1)
    arrived = wire.pass_on(up(given))["x"]
    assert torch.allclose(rms(arrived), torch.tensor([1.0, 2.0, 2.0]))
    assert torch.allclose(arrived[2], given[2] / 4) and torch.allclose(arrived[:2], given[:2])


@pytest.mark.parametrize(("clip", "unit"), [(None, 3.0), ({"gradients": 0.5}, 0.5)])
def test_noise_has_its_standard_deviation_in_units_of_the_sample_or_the_clip(clip, unit):
    wire = DefendedWire(clip=clip, noise={"gradients": 0.2})
    given = 3.0 * draw(2, 200, 200).sign()
    arrived = wire.pass_on(up(given, "gradients"))["x"]
    noise = arrived - (given if clip is None else given / 6)
    assert noise.std(dim=(1, 2)).tolist() == pytest.approx([0.2 * unit] * 2, rel=0.02)
    assert noise.mean().abs() < 0.01 * unit
    assert torch.corrcoef(noise.flatten(1))[0, 1].abs() < 0.03


def test_each_kind_has_its_own_knobs_and_the_server_blurs_nothing():
    wire = DefendedWire(clip={"activations": 0.1}, noise={"activations": 1.0, "blocks": 0.5})
    given = draw(4, 30)
    for message in (up(given, "gradients"), down(given), down(given, "blocks")):
        assert wire.pass_on(message)["x"] is given
    assert not torch.equal(wire.pass_on(up(given, "blocks"))["x"], given)
    assert wire.pass_on(up(given, "moved_blocks"))["x"] is given


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_numbers_are_rounded_to_the_nearest_of_evenly_spaced_ones(bits):
    rows = draw(5, 1000).double()
    rounded = Levels(bits).round(rows)
    step = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    assert ((rounded - rows).abs().amax(1) <= step / 2 * (1 + 1e-9)).all()
    assert torch.allclose(rounded.amax(1), rows.amax(1)) and torch.equal(
        rounded.amin(1), rows.amin(1)
    )
    assert all(len(row.unique()) <= 2**bits for row in rounded)
    assert torch.equal(Levels(bits).round(torch.full((2, 3), 0.7)), torch.full((2, 3), 0.7))


def test_rounded_numbers_count_their_bits_and_each_sample_s_range():
    wire = DefendedWire(bits={"activations": 8, "gradients": 3, "blocks": 8})
    wire.pass_on(up(draw(6, 4, 5)))
    assert wire.traffic.total() == 6 * (20 + 8)
    wire.pass_on(up(draw(6, 7), "gradients"))
    assert wire.traffic.total() == 6 * (20 + 8) + 6 * (3 + 8)  # 21 bits are 3 bytes
    before = wire.traffic.total()
    block = {"weight": draw(10, 3), "step": torch.tensor(4.0), "count": torch.tensor(7)}
    arrived = wire.pass_on(Message(SERVER, 0, "blocks", "generator", block))
    assert wire.traffic.total() - before == (30 + 8) + 4 + 8
    assert arrived["step"] == 4 and arrived["count"] == 7


@pytest.mark.parametrize("bits", [2, 3, 8, 11, 16, "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["activations", "blocks"])
def test_what_a_network_carries_becomes_what_arrives(kind, dtype, bits):
    """The same numbers as in one process, in no more bytes than are counted."""
    options = {"noise": {kind: 0.1}, "bits": {kind: bits}}
    content = {
        "x": draw(6, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last),
        "same": torch.full((6, 2), 0.3, dtype=dtype),
        "labels": torch.arange(6),
        "step": torch.tensor(3.0),
    }
    message = Message(0, SERVER, kind, "generator_head", content)
    one, sender, receiver = (DefendedWire(**options) for _ in range(3))
    for _ in range(2):
        arrived = one.pass_on(message)
        carried = sender.depart(message)
        specs = {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in content.items()}
        described = receiver.describe_carried(kind, specs)
        assert described == {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in carried.items()}
        found = receiver.decode(kind, carried, specs)
        assert found.keys() == content.keys()
        for name in content:
            assert torch.equal(found[name], arrived[name]), name
            assert found[name].dtype == arrived[name].dtype
            assert found[name].stride() == arrived[name].stride(), name
    assert one.traffic.state_dict() == sender.traffic.state_dict()
    if dtype != torch.float64:  # whose ranges are float64, which is not counted
        assert sum(t.nbytes for t in carried.values()) == sender.measure(message)


def test_bf16_rounds_to_the_nearest_of_8_bits_and_halves_the_bytes():
    wire = DefendedWire(bits={"activations": "bf16", "gradients": "bf16"})
    # Between 1 and 2 the step is 2 ** -7; a tie goes to the even one, and range is float32's.
    given = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7], [3e38, -1e-38, 100.3]])
    wanted = torch.tensor([[1.0, 1 + 2**-6, 1 + 2**-7], [3e38, -1e-38, 100.5]])
    arrived = wire.pass_on(up(given))["x"]
    assert arrived.dtype == torch.float32
    torch.testing.assert_close(arrived, wanted, rtol=2**-9, atol=0)
    assert torch.equal(arrived[0], wanted[0]) and arrived[1, 2] == 100.5
    assert wire.traffic.total() == given.nbytes // 2
    carried = wire.depart(up(given, "gradients"))
    assert carried["x"].dtype == torch.bfloat16 and carried.keys() == {"x"}
    broken = torch.tensor([[torch.nan, torch.inf]])
    found = wire.pass_on(up(broken))["x"]
    assert found[0, 0].isnan() and found[0, 1].isinf()  # which the server looks for


def test_what_a_network_carries_of_no_number_is_no_number():
    wire = DefendedWire(bits={"activations": 5})
    given = draw(3, 4)
    given[1, 2], given[2, 0] = torch.nan, torch.inf
    specs = {"x": TensorSpec(torch.float32, (3, 4))}
    found = wire.decode("activations", wire.depart(up(given)), specs)["x"]
    assert found[0].isfinite().all() and not found[1].isfinite().any()
    assert not found[2].isfinite().all()
    with pytest.raises(HuscfError, match="tensor x has no range"):
        wire.decode("activations", {"x": torch.zeros(3, 3, dtype=torch.uint8)}, specs)


def test_a_step_of_8_bits_takes_about_a_quarter_of_the_bytes():
    every = {"activations": 8, "gradients": 8}
    wires = DefendedWire(), DefendedWire(bits=every)
    for wire in wires:
        run_step(make_gan({0: [1, 1, 1, 1]}, wire=wire, engine="serial"), make_batch([0]))
    ratio = wires[1].traffic.total() / wires[0].traffic.total()
    assert 0.25 < ratio < 0.3


def test_variances_stay_positive_in_blurred_blocks():
    wire = DefendedWire(noise={"blocks": 1.0})
    given = {"running_var": draw(200).square(), "weight": draw(200), "n": torch.tensor(3)}
    arrived = wire.pass_on(Message(0, SERVER, "blocks", "generator", given))
    assert (arrived["running_var"] > 0).all() and (arrived["weight"] < 0).any()
    assert not torch.equal(arrived["running_var"], given["running_var"])
    assert arrived["n"] == 3


def test_a_wire_that_goes_on_draws_as_if_it_had_never_stopped():
    messages = [up(draw(2, 9, seed=step), client=step % 2) for step in range(6)]
    one, first, second = (DefendedWire(noise={"activations": 1.0}) for _ in range(3))
    whole = [one.pass_on(message)["x"] for message in messages]
    halves = [first.pass_on(message)["x"] for message in messages[:3]]
    second.traffic.load_state_dict(first.traffic.state_dict())
    halves += [second.pass_on(message)["x"] for message in messages[3:]]
    assert all(map(torch.equal, whole, halves))
    noises = [
        arrived - message.tensors["x"] for arrived, message in zip(whole, messages, strict=False)
    ]
    assert len({noise.sum().item() for noise in noises}) == len(noises)


def test_noise_follows_the_run_s_seed_and_not_the_order_of_clients():
    def run(clients, seed=0):
        wire = DefendedWire(noise={"activations": 1.0})
        wire.run_seed = seed
        return {c: wire.pass_on(up(draw(2, 9), client=c))["x"] for c in clients}

    one, other = run([0, 1]), run([1, 0])
    assert all(torch.equal(one[c], other[c]) for c in one)
    assert not torch.equal(run([0], seed=1)[0], one[0]) and not torch.equal(one[0], one[1])
    module = make_gan({0: [1, 1, 1, 1]}, wire=DefendedWire(), seed=5)
    assert module.wire.run_seed == 5


def test_half_precision_and_integers_pass():
    wire = DefendedWire(clip={"activations": 1.0}, noise={"activations": 0.1})
    arrived = wire.pass_on(
        Message(0, SERVER, "activations", "t", {"x": draw(2, 5).bfloat16(), "n": torch.arange(2)})
    )
    assert arrived["x"].dtype == torch.bfloat16 and torch.equal(arrived["n"], torch.arange(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": {"blocks": 1.0}}, "wire.clip: there is no blocks here; give activations or gra"),
        ({"noise": {"labels": 1.0}}, "wire.noise: there is no labels here"),
        ({"noise": {"blocks": -1.0}}, "wire.noise of blocks is -1.0, must be a finite number >= 0"),
        ({"clip": {"gradients": 0}}, "wire.clip of gradients is 0, must be > 0"),
        ({"bits": {"activations": "fp16"}}, "wire.bits of activations is 'fp16', must be bf16 or"),
        ({"bits": {"activations": 1}}, "wire.bits of activations is 1, must be >= 2 and <= 16"),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises(HuscfError, match="^" + message):
        DefendedWire(**options)


def test_a_run_that_is_resumed_draws_the_noise_that_it_would_have_drawn(tmp_path):
    (tmp_path / "mini.yaml").write_text(MINI)
    wire = ["--model.wire=huscf.wire.DefendedWire"]
    wire += ["--model.wire.noise={activations: 0.3, gradients: 0.3, blocks: 0.01}"]
    wire += ["--model.wire.bits={activations: 8, gradients: 8, blocks: 8}"]
    found = {}
    for name, parts in {"whole": ["2"], "halves": ["1", "2"]}.items():
        root = f"--trainer.default_root_dir={tmp_path / name}"
        for number, epochs in enumerate(parts):
            resumed = ["--ckpt_path=last"] if number else []
            options = [*wire, root, f"--trainer.max_epochs={epochs}", *resumed]
            assert main(["fit", "--config", str(tmp_path / "mini.yaml"), *options]) == 0
        path = tmp_path / name / "run-1" / "checkpoints" / "last.ckpt"
        found[name] = torch.load(path, weights_only=True)
    one, other = (flatten(each["state_dict"]) for each in found.values())
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    traffic = [each["huscf"]["engine"]["traffic"] for each in found.values()]
    assert traffic[0] == traffic[1]
