"""The quick inversion of every cut, against references; and the command that writes it."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from huscf.__main__ import main
from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.methods import FedGan, HuscfGan, PooledGan, build_networks
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, Network
from huscf.planning.costs.leakage import Leakage
from huscf.privacy.cut_leakage import find_network, join_domains, measure_cuts, recover
from tests.planning.planning_cases import read_devices, run_command


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_pair(width=8):
    return HuscfGan(
        partial(ConditionalGenerator, width=width, depth=5),
        partial(ConditionalDiscriminator, width=width, depth=5),
    )


@pytest.fixture(scope="module")
def digits():
    data = DigitsDataModule(clients_per_domain=1)
    return data.sample_shape, next(iter(data.domains.values())).train_samples[:256]


def test_what_is_given_back_equals_a_ridge_regression_of_another_library():
    wanted = draw(0, 120, 30)
    sent = wanted @ draw(1, 30, 20) + 0.1 * draw(2, 120, 20)
    shares = []
    for ridge in (1e-4, 1e-3, 1e-2, 1e-1):
        known = (sent[:60] - sent[:60].mean(0)).numpy()
        scale = (known**2).sum(axis=1).mean()
        fitted = Ridge(alpha=ridge * scale).fit(sent[:60].numpy(), wanted[:60].numpy())
        error = ((fitted.predict(sent[60:].numpy()) - wanted[60:].numpy()) ** 2).mean()
        shares.append(1 - error / ((wanted[60:] - wanted[:60].mean(0)) ** 2).mean().item())
    assert recover(sent, wanted) == pytest.approx(max(shares), rel=1e-9)
    assert 0.3 < max(shares) < 0.9  # 20 numbers of 30


def test_all_and_nothing_are_told():
    wanted = draw(0, 400, 10)
    assert recover(2 * wanted + 1, wanted) > 0.9999
    assert recover(wanted[:, :5], wanted) == pytest.approx(0.5, abs=0.06)  # half of the variance
    assert recover(draw(1, 400, 10), wanted) < 0.01
    assert recover(torch.zeros(400, 3).double(), wanted) == 0.0


def test_deeper_heads_give_away_less_and_nothing_is_changed(digits):
    shape, samples = digits
    method = make_pair(16)
    networks = build_networks(method, shape, 0)
    before = {
        name: tensor.clone() for name, tensor in networks["discriminator"].state_dict().items()
    }
    figures = measure_cuts(method, networks, samples)
    assert [each.head for each in figures] == [1, 2, 3]
    shares = [each.recovered for each in figures]
    assert 0.98 < shares[0] <= 1 and shares[0] > shares[1] + 0.03 > shares[2] + 0.05
    assert all(0 < each.correlation < 1 for each in figures)
    after = networks["discriminator"].state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert figures == measure_cuts(method, networks, samples)


class Sent(nn.Module):
    """A block that adds a second tensor, which a later block reads."""

    writes = ("x", "skip")

    def forward(self, x):
        return 0 * x, x


class Read(nn.Module):
    reads = ("x", "skip")

    def forward(self, x, skip):
        return x + skip


def test_what_a_skip_lets_cross_counts(digits):
    _, samples = digits
    method = make_pair()
    plain = [nn.Identity() for _ in range(2)]
    networks = {"discriminator": Network([Sent(), *plain, Read(), nn.Identity()])}
    figures = measure_cuts(method, networks, samples)
    assert [each.recovered for each in figures] == pytest.approx([1.0] * 3, abs=0.01)
    # The reader lies at the client too: of the skip nothing crosses, and the rest is 0.
    figures = measure_cuts(method, networks, samples, tail=2)
    assert [each.recovered for each in figures] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (FedGan, "no client sends what it makes of samples"),
        (PooledGan, "samples cross as they are"),
    ],
)
def test_methods_without_such_cuts_are_named(method, reason):
    with pytest.raises(HuscfError, match=f"leakage: in {method.__name__} {reason}"):
        find_network(method(), {})


def test_the_worst_domain_counts(digits):
    shape, samples = digits
    method = make_pair()
    networks = build_networks(method, shape, 0)
    noise = torch.randint(0, 256, samples.shape, dtype=torch.uint8)
    both = [measure_cuts(method, networks, each) for each in (noise, samples)]
    assert join_domains(both) == both[1] != both[0]


SIZES = ["--model.method.init_args.latent_dim", "16", "--num_samples", "128"]


def write(path, *options):
    arguments = ["leakage", "--config", "quickstart", "--output", str(path), *SIZES, *options]
    return main(arguments)


def test_the_command_writes_what_a_plan_reads(tmp_path, capsys):
    path = tmp_path / "leakage.json"
    assert write(path) == 0
    shown = capsys.readouterr().out
    first = path.read_bytes()
    assert write(path) == 0 and path.read_bytes() == first
    leakage = Leakage.load(str(path))
    assert leakage.network == "discriminator" and list(leakage.heads) == [1, 2, 3]
    for head, share in leakage.heads.items():
        assert f"{head} block" in shown and f"{share:.3f}" in shown
    assert write(path, "--seed_everything", "1") == 0 and path.read_bytes() != first

    form = {"conditioning": "both", "minibatch_std": True}  # as in the quickstart
    networks = {"image_size": 8, "width": 16, "depth": 5, **form}
    values = {**read_devices(), "networks": networks, "leakage": str(path)}
    leakage = Leakage.load(str(path))
    limit = (leakage.heads[1] + leakage.heads[2]) / 2
    capsys.readouterr()
    assert run_command(tmp_path, values, "--json", "--max_leakage", str(limit)) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["largest_leakage"] == leakage.heads[2]
    assert {client["cuts"][2] for client in planned["clients"]} <= {2, 3}
    assert run_command(tmp_path, values, "--max_leakage", "0") == 2
    least = np.ceil(leakage.heads[3] * 1e4) / 1e4
    assert f"all clients is {least:g}\n" in capsys.readouterr().err
    assert run_command(tmp_path, {**values, "networks": {}}) == 2
    assert "measured on a discriminator with blocks of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--num_samples", "8"], "--num_samples is 8, must be >= 64"),
        (["--data.init_args.nonsense", "8"], "nonsense"),
        (["--model.method=huscf.methods.FedGan"], "no client sends what it makes of samples"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, options, reason):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        try:
            code = main(["leakage", "--config", "quickstart", *options])
        except SystemExit as stopped:
            code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and reason in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--output", "no/such/folder/a.json"], "output no/such/folder/a.json: the folder does"),
        (["--output", "there"], "output there: cannot be written (Is a directory)"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path, monkeypatch, capsys, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(["leakage", "--config", "quickstart", *SIZES, *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["leakage", "check-data"])
def test_without_data_it_says_how_to_give_them(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command])
    assert stopped.value.code == 2
    assert "the data are missing: give --config FILE, for instance --config quickstart" in (
        capsys.readouterr().err
    )
