"""How samples are drawn can be chosen afterwards, and what drawing through the server sends."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from huscf.__main__ import main
from huscf.methods import FedGan, FlowMatching, MdGan
from huscf.models import LABELS, MAIN, UNet, run_blocks
from huscf.sampling import measure_drawing
from huscf.split import ExplicitPlan
from huscf.training import SplitModule
from tests.conftest import SHAPE


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    options = ["--data.clients_per_domain=1", "--trainer.max_epochs=1", "--data.steps_per_epoch=1"]
    options += ["--model.method.init_args.denoiser.init_args.width=8"]
    options += ["--evaluation.every_n_rounds=-1"]
    options += ["--model.method.init_args.num_steps=2", f"--trainer.default_root_dir={root}"]
    assert main(["fit", "--config", "flow", *options]) == 0
    return root / "flow-1" / "checkpoints" / "last.ckpt"


def generate(checkpoint, output, *options):
    command = ["generate", f"--ckpt_path={checkpoint}", f"--output={output}", "--num_samples=6"]
    return main([*command, *options])


def samples_of(folder):
    with np.load(folder / "samples.npz") as archive:
        return archive["samples"]


def test_the_number_of_steps_is_chosen_when_drawing(flow_run, tmp_path, capsys):
    sizes, drawn = [], []
    for name, options in {"as trained": [], "2": ["num_steps=2"], "4": ["num_steps=4"]}.items():
        assert generate(flow_run, tmp_path / name, *(["--draw", *options] if options else [])) == 0
        line = re.search(r"take ([\d.]+) MB up, ([\d.]+) MB down", capsys.readouterr().out)
        sizes.append([float(size) for size in line.groups()])
        drawn.append(samples_of(tmp_path / name))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert sizes[0] == sizes[1]
    np.testing.assert_allclose(sizes[2], np.multiply(sizes[0], 2), atol=0.1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "lr=1",
            "--draw lr: FlowMatching draws by guidance, guidance_from, guidance_until, num_steps",
        ),
        ("num_steps=0", "--draw num_steps=0: method.num_steps is 0, must be >= 1"),
        ("num_steps=many", "--draw num_steps=many: num_steps is many, must be a whole number$"),
        ("num_steps", "--draw num_steps: needs NAME=VALUE"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(option, words, flow_run, tmp_path, capsys):
    assert generate(flow_run, tmp_path / "out", "--draw", option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert not (tmp_path / "out").exists()


def make_module(method, cuts):
    ones = dict.fromkeys(cuts, 4)
    plan = None if cuts[0] is None else ExplicitPlan(cuts)
    return SplitModule(SHAPE, ones, ones, method, plan)


def test_bytes_are_those_of_the_tensors_at_the_cuts():
    method = FlowMatching(partial(UNet, width=8), num_steps=3, guidance=1.5)
    module = make_module(method, {0: [1, 1], 1: [2, 2]})
    up = down = 0
    for client, head in ((0, 1), (1, 2)):
        blocks = list(module.engine.whole_network("denoiser", client))
        inputs = {MAIN: torch.zeros(1, SHAPE.channels, SHAPE.image_size, SHAPE.image_size)}
        inputs |= {LABELS: torch.zeros(1, dtype=torch.int64), "time": torch.zeros(1)}
        at_head = run_blocks(dict(enumerate(blocks[:head])), inputs)
        at_tail = run_blocks(dict(enumerate(blocks[: len(blocks) - head])), inputs)
        # Three steps, each with and without the label. Skips stay; the time crosses.
        up += 6 * 4 * (at_head[MAIN].numel() + 1)
        down += 6 * 4 * at_tail[MAIN].numel()
    assert measure_drawing(module, [0, 1]) == (up, down)
    assert measure_drawing(module, [0, 1, 1, 0]) == (2 * up, 2 * down)


def test_nothing_crosses_where_one_party_has_the_whole_network():
    for method in (FedGan(), MdGan()):
        assert measure_drawing(make_module(method, {0: None, 1: None}), [0, 1]) == (0, 0)
