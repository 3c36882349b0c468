"""`huscf export`: a generator that works without this package, and who may have one."""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.commands import COMMANDS, EXPORTED
from huscf.datamodules.shapes import make_grey
from huscf.errors import HuscfError
from huscf.methods import FlowMatching
from huscf.models import Network, SampleShape, UNet
from huscf.reporting.card_facts import FORMS
from huscf.sampling import SavedGAN, export_generator, load_gan, merge_cluster, name_files
from huscf.sampling.export_formats import FORMATS
from huscf.split import ExplicitPlan
from huscf.training import SplitModule
from tests.conftest import REPOSITORY, make_gan
from tests.reporting.conftest import fit

ALONE = """
import sys, torch
script, state = torch.jit.load(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
assert not any(name.startswith(("huscf", "lightning")) for name in sys.modules)
torch.manual_seed(5)
samples = script(torch.randn(7, 100), torch.arange(7))
torch.save((samples, sorted(state)), sys.argv[3])
"""


def export(checkpoint, output, *options):
    return main(["export", f"--ckpt_path={checkpoint}", f"--output={output}", *options])


def test_an_exported_generator_works_alone_and_draws_what_the_cluster_draws(checkpoint, tmp_path):
    script, state = tmp_path / "generator.pt", tmp_path / "generator.state_dict.pt"
    assert export(checkpoint, script, "--cluster=1") == 0
    drawn = tmp_path / "drawn.pt"
    command = [sys.executable, "-c", ALONE, str(script), str(state), str(drawn)]
    subprocess.run(command, check=True, cwd=tmp_path)
    samples, names = torch.load(drawn, weights_only=True)
    module = load_gan(checkpoint).module
    for member in (2, 3):
        network = module.engine.sampling_network("generator", member).eval()
        torch.manual_seed(5)
        with torch.no_grad():
            expected = network(torch.randn(7, 100), torch.arange(7))
        torch.testing.assert_close(samples, expected, rtol=0, atol=1e-6)
        assert names == sorted(network.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*deprecated")
@pytest.mark.parametrize("channels", [{}, {2: 1, 3: 1}, {2: 1, 3: 3}])
def test_a_grey_cluster_of_a_run_in_colour_exports_grey(tmp_path, channels):
    module = make_gan({c: [1, 1, 1, 1] for c in range(4)}, shape=SampleShape(3, 8, 3))
    saved = SavedGAN(module, {}, (), None, dict.fromkeys(range(4), 3), channels)
    script = export_generator(saved, [2, 3], tmp_path / "g.pt")["torchscript"]
    drawn = torch.jit.load(script)(torch.randn(4, 5), torch.arange(4) % 3)
    assert drawn.shape == (4, 3, 8, 8)
    is_grey = bool((drawn == drawn[:, :1]).all())
    assert is_grey == (set(channels.values()) == {1})
    torch.manual_seed(1)
    noise, labels = torch.randn(2, 5), torch.tensor([0, 1])
    plain = merge_cluster(module, [2, 3])(noise, labels).detach()
    expected = make_grey(plain) if is_grey else plain
    torch.testing.assert_close(torch.jit.load(script)(noise, labels), expected)


def test_members_that_have_drifted_apart_have_no_generator_in_common(checkpoint, tmp_path):
    saved = load_gan(checkpoint)
    first, second = (saved.module.engine.sampling_network("generator", c) for c in (2, 3))
    name = next(n for n, p in first.named_parameters() if p is not second.get_parameter(n))
    with torch.no_grad():
        second.get_parameter(name).add_(2.0)
    with pytest.raises(HuscfError, match=r"clients 2 and 3 have different .* with --client 2, or"):
        export_generator(saved, [2, 3], tmp_path / "g.pt")
    assert list(tmp_path.iterdir()) == []
    alone = merge_cluster(saved.module, [3]).get_parameter(name)
    assert torch.equal(alone, second.get_parameter(name))


def test_a_method_by_which_clients_keep_their_own_exports_no_mean_of_them(tmp_path, capsys):
    overlay = str(REPOSITORY / "configs" / "methods" / "iflgan.yaml")
    run = fit(tmp_path / "runs", "--config", overlay, "--run.share_generator=true")
    last = run / "checkpoints" / "last.ckpt"
    assert export(last, tmp_path / "g.pt", "--cluster=0") == 2
    error = capsys.readouterr().err
    assert "have different generators" in error and "export one, with --client 0" in error
    assert error.count("\n") == 1 and not (tmp_path / "g.pt").exists()
    assert export(last, tmp_path / "g.pt", "--client=0") == 0
    assert is_generator_of(tmp_path / "g.state_dict.pt", last, 0)


def is_generator_of(path, checkpoint, client):
    """Whether a file of tensors is a client's generator."""
    network = load_gan(checkpoint).module.engine.sampling_network("generator", client)
    found = torch.load(path, weights_only=True)
    return all(torch.equal(found[name], value) for name, value in network.state_dict().items())


def test_a_client_gets_a_full_generator_only_if_the_configuration_says_so(
    checkpoint, tmp_path, capsys
):
    assert export(checkpoint, tmp_path / "g.pt", "--client=1") == 2
    error = capsys.readouterr().err
    assert "client 1 may not have a full generator" in error
    assert "--run.share_generator true" in error
    assert list(tmp_path.iterdir()) == []
    content = torch.load(checkpoint, weights_only=True)
    content["huscf_config"]["run"]["share_generator"] = True
    torch.save(content, tmp_path / "shared.ckpt")
    assert export(tmp_path / "shared.ckpt", tmp_path / "g.pt", "--client=1") == 0
    assert (tmp_path / "g.pt").exists()


@pytest.mark.parametrize("existing", ["g.pt", "g.state_dict.pt"])
def test_nothing_is_overwritten(existing, checkpoint, tmp_path, capsys):
    (tmp_path / existing).write_text("mine")
    assert export(checkpoint, tmp_path / "g.pt", "--cluster=0") == 2
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [existing]


def test_an_unknown_cluster_and_a_missing_folder_are_one_line(checkpoint, tmp_path, capsys):
    assert export(checkpoint, tmp_path / "g.pt", "--cluster=9") == 2
    assert "there is no cluster 9; there are 0, 1" in capsys.readouterr().err
    assert export(checkpoint, tmp_path / "no" / "g.pt", "--cluster=0") == 2
    assert "no does not exist" in capsys.readouterr().err


class FixedBatch(torch.nn.Module):
    """A block whose output has the same size whatever comes in."""

    def forward(self, noise, labels):
        return noise.new_zeros(int(noise.shape[0]), 1, 8, 8)


def test_a_generator_that_does_not_trace_is_refused(checkpoint, tmp_path):
    saved = load_gan(checkpoint)
    saved.module.engine.sampling_network = lambda network, client: Network([FixedBatch()])
    with pytest.raises(HuscfError, match="this generator cannot be exported"):
        export_generator(saved, [0], tmp_path / "g.pt")
    assert list(tmp_path.iterdir()) == []


def read_torchscript(path):
    return torch.jit.load(path)


def read_program(path):
    return torch.export.load(path).module()


def read_onnx(path):
    runtime = pytest.importorskip("onnxruntime", reason="needs huscf[onnx]")
    session = runtime.InferenceSession(str(path))

    def draw(noise, labels):
        inputs = {"noise": noise.numpy(), "labels": labels.numpy()}
        return torch.from_numpy(session.run(None, inputs)[0])

    return draw


DRAWING = {"torchscript": read_torchscript, "pt2": read_program, "onnx": read_onnx}


def make_flow(guidance=1.5):
    method = FlowMatching(partial(UNet, width=8), num_steps=2, guidance=guidance)
    cuts = {0: [1, 1], 1: [1, 1]}
    ones = dict.fromkeys(cuts, 6)
    torch.manual_seed(0)
    return SplitModule(SampleShape(1, 8, 3), ones, ones, method, ExplicitPlan(cuts))


def as_saved(module):
    clients = module.clusters
    return SavedGAN(module, {}, ("a", "b", "c"), None, dict.fromkeys(clients, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*deprecated")
@pytest.mark.parametrize("form", DRAWING)
def test_every_form_draws_what_the_generator_draws(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="needs huscf[onnx]")
    saved = as_saved(make_gan({c: [1, 1, 1, 1] for c in range(2)}))
    files = export_generator(saved, [0, 1], tmp_path / "g.pt", [form])
    draw = DRAWING[form](files[form])
    stream = torch.Generator().manual_seed(3)
    for count in (1, 7):
        noise, labels = torch.randn(count, 5, generator=stream), torch.arange(count) % 3
        with torch.no_grad():
            wanted = merge_cluster(saved.module, [0, 1])(noise, labels)
        torch.testing.assert_close(draw(noise, labels), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*deprecated")
@pytest.mark.parametrize(
    ("form", "guidance"), [("torchscript", 1.0), ("torchscript", 1.5), ("pt2", 1.0)]
)
def test_flow_matching_is_exported_with_all_its_steps(form, guidance, tmp_path):
    module = make_flow(guidance)
    files = export_generator(as_saved(module), [1], tmp_path / "flow.pt", [form])
    labels = torch.tensor([0, 1, 2, 1])
    wanted = module.sample(1, labels, torch.Generator().manual_seed(9))
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    drawn = DRAWING[form](files[form])(noise, labels)
    torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(wanted, noise.clamp(-1, 1))


def test_safetensors_hold_the_tensors_and_what_they_are(tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="needs huscf[export]")
    saved = as_saved(make_gan({c: [1, 1, 1, 1] for c in range(2)}))
    files = export_generator(saved, [0], tmp_path / "g.safetensors")
    assert files == {"safetensors": tmp_path / "g.safetensors"}
    state = merge_cluster(saved.module, [0]).state_dict()
    with safetensors.safe_open(files["safetensors"], "pt") as file:
        assert set(file.keys()) == set(state)
        assert all(torch.equal(file.get_tensor(name), state[name]) for name in state)
        facts = json.loads(file.metadata()["huscf"])
    assert facts["noise_shape"] == [5] and facts["class_names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("output", "formats", "names"),
    [
        ("g.pt", [], ["g.pt", "g.state_dict.pt", "g.README.md"]),
        ("g.jit", [], ["g.jit", "g.state_dict.pt", "g.README.md"]),
        ("g.onnx", [], ["g.onnx", "g.README.md"]),
        ("g.pt2", [], ["g.pt2", "g.README.md"]),
        ("g.pt", ["onnx"], ["g.onnx", "g.README.md"]),
        ("g.onnx", ["torchscript"], ["g.pt", "g.state_dict.pt", "g.README.md"]),
        ("new", ["pt2"], ["new/generator.pt2", "new/README.md"]),
        ("new", [], ["new/generator.pt", "new/generator.state_dict.pt", "new/README.md"]),
    ],
)
def test_files_are_named_after_the_output(output, formats, names):
    assert [str(path) for path in name_files(Path(output), formats).values()] == names


def test_the_command_and_cards_know_all_forms():
    parser = ArgumentParser()
    COMMANDS["export"][0](parser)
    (option,) = (action for action in parser._actions if action.dest == "format")
    assert list(option.choices) == list(FORMATS)
    assert set(EXPORTED) == {*FORMATS, "state", "card"} == {*FORMS, "card"}


def test_a_new_folder_gets_all_forms_and_a_card(checkpoint, tmp_path, capsys):
    pytest.importorskip("safetensors", reason="needs huscf[export]")
    output, options = tmp_path / "model", ["--cluster=1", "--license=mit"]
    assert export(checkpoint, output, *options, "--format", "safetensors", "pt2") == 0
    names = ["README.md", "generator.pt2", "generator.safetensors"]
    assert sorted(path.name for path in output.iterdir()) == names
    said = capsys.readouterr().out
    assert all(str(output / name) in said for name in names)
    card = (output / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "mit" and head["library_name"] == "pytorch"
    assert head["pipeline_tag"] == "unconditional-image-generation"
    assert "that of 2 of the 4 clients" in card
    assert "| negatives | 2 | 24 |" in card and "| digits |" not in card
    assert export(checkpoint, output, *options) == 2
    assert "has files in it; nothing was written" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*deprecated")
def test_the_code_on_a_models_card_runs(checkpoint, tmp_path, monkeypatch):
    assert export(checkpoint, tmp_path / "model", "--cluster=1") == 0
    text = (tmp_path / "model" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "model")
    found = {}
    exec(code, found)
    assert found["samples"].shape == (8, 1, 8, 8)


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [("safetensors", "safetensors.torch", "export"), ("onnx", "onnxscript", "onnx")],
)
def test_a_missing_package_is_named_and_nothing_is_written(
    form, module, extra, checkpoint, tmp_path, monkeypatch, capsys
):
    if form == "onnx":
        pytest.importorskip("onnx", reason="needs huscf[onnx]")
    monkeypatch.setitem(sys.modules, module, None)
    options = ["--cluster=0", "--format", "torchscript", form]
    assert export(checkpoint, tmp_path / "new", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'huscf[{extra}]'" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_draws_something_else_is_not_kept(tmp_path, monkeypatch):
    saved = as_saved(make_gan({c: [1, 1, 1, 1] for c in range(2)}))
    trace = torch.jit.trace

    class Brighter(torch.nn.Module):
        def __init__(self, sampler):
            super().__init__()
            self.sampler = sampler

        def forward(self, noise, labels):
            return self.sampler(noise, labels) + 0.01

    def trace_wrongly(module, inputs, **options):
        return trace(Brighter(module), inputs, **options)

    monkeypatch.setattr("torch.jit.trace", trace_wrongly)
    with pytest.raises(HuscfError, match=r"cannot be exported as torchscript: .*not close"):
        export_generator(saved, [0], tmp_path / "g.pt", ["pt2", "torchscript"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails_at", ["save_to_buffer", "torch.save"])
def test_an_export_that_cannot_be_written_whole_leaves_nothing(
    checkpoint, tmp_path, monkeypatch, capsys, fails_at
):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    if fails_at == "torch.save":
        monkeypatch.setattr("torch.save", fail)
    else:
        monkeypatch.setattr(torch.jit.ScriptModule, "save_to_buffer", fail)
    assert export(checkpoint, tmp_path / "g.pt", "--cluster=0") == 2
    name = "g.pt" if fails_at == "save_to_buffer" else "g.state_dict.pt"
    assert f"{tmp_path / name}: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
