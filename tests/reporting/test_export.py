"""`huscf export`: a generator that works without this package, and who may have one."""

import subprocess
import sys

import pytest
import torch

from huscf.__main__ import main
from huscf.datamodules.shapes import make_grey
from huscf.errors import HuscfError
from huscf.models import Network, SampleShape
from huscf.sampling import SavedGAN, export_generator, load_gan, merge_cluster
from tests.conftest import make_gan

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
    script, _ = export_generator(saved, [2, 3], tmp_path / "g.pt")
    drawn = torch.jit.load(script)(torch.randn(4, 5), torch.arange(4) % 3)
    assert drawn.shape == (4, 3, 8, 8)
    is_grey = bool((drawn == drawn[:, :1]).all())
    assert is_grey == (set(channels.values()) == {1})
    torch.manual_seed(1)
    noise, labels = torch.randn(2, 5), torch.tensor([0, 1])
    plain = merge_cluster(module, [2, 3])(noise, labels).detach()
    expected = make_grey(plain) if is_grey else plain
    torch.testing.assert_close(torch.jit.load(script)(noise, labels), expected)


def test_members_that_drifted_apart_are_averaged(checkpoint):
    module = load_gan(checkpoint).module
    first, second = (module.engine.sampling_network("generator", client) for client in (2, 3))
    name = next(n for n, p in first.named_parameters() if p is not second.get_parameter(n))
    with torch.no_grad():
        second.get_parameter(name).add_(2.0)
    merged = merge_cluster(module, [2, 3]).get_parameter(name)
    torch.testing.assert_close(merged, first.get_parameter(name) + 1.0)


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
