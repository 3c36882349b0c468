"""A method written in a file of its own trains, resumes and draws through the command line."""

import ast
import copy
import csv

import pytest
import torch

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.methods import FedGan, HuscfGan
from huscf.models import SampleShape
from huscf.split import UniformPlan
from huscf.training import SplitModule
from huscf.training.federation_checks import read_mixing
from tests.conftest import ENGINES, REPOSITORY, make_batch, make_gan
from tests.methods.autoencoder import Autoencoder
from tests.test_security import MINI, refuse
from tests.training.test_checkpoints import differences

QUICK = [
    "--config",
    str(REPOSITORY / "configs" / "quickstart.yaml"),
    "--model.method=tests.methods.autoencoder.Autoencoder",
    "--model.method.width=6",
    "--model.plan=huscf.split.UniformPlan",
    "--data.init_args.clients_per_domain=2",
    "--data.init_args.samples_per_client=12",
    "--data.init_args.batch_size=6",
    "--federation.every_n_epochs=1",
    "--samples.every_n_rounds=0",
    "--evaluation.every_n_rounds=-1",
    "--report.enabled=false",
    "--training.num_threads=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]


def fit(root, engine, *options):
    arguments = [*QUICK, f"--model.engine={engine}", f"--trainer.default_root_dir={root}"]
    return main(["fit", *arguments, *options])


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/autoencoder_loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("engine", ENGINES)
def test_two_rounds_equal_one_round_and_a_resumed_one_bit_for_bit(engine, tmp_path):
    assert fit(tmp_path / "a", engine, "--trainer.max_epochs=2") == 0
    assert fit(tmp_path / "b", engine, "--trainer.max_epochs=1") == 0
    assert fit(tmp_path / "b", engine, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    folders = [tmp_path / name / "quickstart-1" for name in "ab"]
    one, other = map(checkpoint, folders)
    for part in ("state_dict", "huscf", "global_step", "epoch"):
        assert differences(one[part], other[part], part) == []
    assert one["huscf"]["method"] == "Autoencoder"
    assert losses(folders[0]) == losses(folders[1])
    assert losses(folders[0])[1] < losses(folders[0])[0]
    assert (folders[0] / "samples" / "digits-final.png").stat().st_size > 0


def test_it_draws_through_the_command_line_from_what_it_was_trained_to(tmp_path, capsys):
    assert fit(tmp_path, "stacked", "--trainer.max_epochs=1") == 0
    run = tmp_path / "quickstart-1"
    last = str(run / "checkpoints" / "last.ckpt")
    arguments = ["--config", str(run / "config.yaml"), f"--ckpt_path={last}"]
    assert main(["predict", *arguments]) == 0
    capsys.readouterr()


class Misspelled(FedGan):
    """Says of its discriminator something else than keep."""

    def mixing(self, network, number):
        return "stay" if network == "discriminator" and number == 3 else "average"


class Narrow(HuscfGan):
    """Draws samples of half the width."""

    def sample(self, run, labels, stream):
        return super().sample(run, labels, stream)[..., ::2]


class Nothing(HuscfGan):
    """Forgets to return what it has drawn."""

    def sample(self, run, labels, stream):
        super().sample(run, labels, stream)


ONE = ("--federation.rule", "huscf.federation.OneCluster")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "tests.methods.test_own_method.Misspelled",
            ONE,
            "Misspelled.mixing says 'stay' of the discriminator in round 3, must be one of "
            "average, swap, keep, share",
        ),
        (
            "tests.methods.test_own_method.Misspelled",
            (),
            "must be one of average, swap, keep, share",
        ),
        (
            "huscf.methods.FedGan",
            (),
            "federation.rule compares clients by activations, and FedGan lets none cross: set "
            "federation.rule to huscf.federation.OneCluster",
        ),
        (
            "huscf.methods.FedGan",
            ("--federation.observe", "training"),
            "federation.rule compares clients by activations, and FedGan lets none cross",
        ),
        (
            "huscf.methods.MdGan",
            ("--federation.observe", "statistics"),
            "federation.rule compares clients by statistics, and MdGan lets none cross",
        ),
        (
            "tests.methods.test_own_method.Narrow",
            (),
            "Narrow.sample returns (2, 1, 8, 4) for two labels, must be (2, 1, 8, 8): a sample",
        ),
        (
            "tests.methods.test_own_method.Nothing",
            (),
            "Nothing.sample returns NoneType for two labels, must be (2, 1, 8, 8)",
        ),
    ],
)
def test_what_would_fail_later_or_do_something_else_is_refused_before_training(
    name, options, message, tmp_path, capsys
):
    (tmp_path / "mini.yaml").write_text(MINI)
    root = ("--trainer.default_root_dir", str(tmp_path / "runs"))
    given = ["fit", "--config", str(tmp_path / "mini.yaml"), *root, "--model.method", name]
    assert message in refuse([*given, *options], capsys)
    assert not list(tmp_path.glob("runs/*"))


def test_a_word_of_later_rounds_that_is_unknown_is_refused_when_it_comes():
    class Late(HuscfGan):
        def mixing(self, network, number):
            return "stay" if number else "average"

    with pytest.raises(HuscfError, match=r"Late\.mixing says 'stay' of the generator in round 7"):
        read_mixing(Late(), "generator", 7)


def test_samples_are_tried_without_moving_any_stream():
    class Drawing(HuscfGan):
        def sample(self, run, labels, stream):
            torch.rand(3)  # of the one stream that others share
            return super().sample(run, labels, stream)

    found = []
    for method_class in (HuscfGan, Drawing):
        torch.manual_seed(5)
        module = make_gan({0: [1, 1, 1, 1]}, method_class=method_class)
        found.append((module.state_dict(), torch.get_rng_state()))
    assert torch.equal(found[0][1], found[1][1])
    assert differences(found[0][0], found[1][0], "state") == []
    torch.manual_seed(5)
    assert torch.equal(found[0][1], torch.get_rng_state())
    assert all(part.training for part in module.modules())


def make(engine):
    sizes = dict.fromkeys(range(3), 6)
    plan = UniformPlan([1, 1])
    module = SplitModule(SampleShape(1, 8, 3), sizes, sizes, Autoencoder(), plan, engine=engine)
    module.configure_optimizers()
    return module


def test_engines_agree_and_samples_are_pictures():
    states = []
    for engine in ENGINES:
        module = make(engine)
        found = [
            module.engine.run_step(make_batch(range(3), seed=step), step).losses["autoencoder"]
            for step in range(5)
        ]
        assert found[-1] < found[0]
        drawn = module.sample(1, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
        assert drawn.shape == (2, 1, 8, 8) and drawn.abs().max() <= 1
        drawn = module.predict_step(0, 0)
        assert drawn["samples"].shape == (30, 1, 8, 8)
        states.append((found, module.wire.traffic.num_bytes, drawn["samples"]))
    assert states[0][0] == pytest.approx(states[1][0], rel=1e-3)
    assert states[0][1] == states[1][1]
    torch.testing.assert_close(states[0][2], states[1][2], rtol=0, atol=0.05)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_is_that_of_the_uncut_network(engine):
    module, batch = make(engine), {1: make_batch([1])[1]}
    whole = copy.deepcopy(module.engine.whole_network("autoencoder", 1))
    optimizer = module.method.make_optimizer("autoencoder", whole.parameters())
    samples = batch[1][0].float() / 127.5 - 1
    loss = torch.nn.functional.mse_loss(whole(samples), samples)
    loss.backward()
    optimizer.step()
    found = module.engine.run_step(batch, 0).losses
    assert found == {"autoencoder": pytest.approx(loss.item(), abs=1e-6)}
    for key, value in module.engine.whole_network("autoencoder", 1).state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-5, atol=1e-5)


def test_it_takes_less_than_60_lines():
    source = (REPOSITORY / "tests" / "methods" / "autoencoder.py").read_text()
    assert len(source.splitlines()) < 60


@pytest.mark.parametrize("room", ["engines", "parties", "wire", "training"])
def test_the_core_has_no_network_s_name(room):
    files = sorted((REPOSITORY / "huscf" / room).rglob("*.py"))
    assert files
    for path in files:
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in docstrings:
                for word in ("generator", "discriminator"):
                    assert word not in node.value.lower(), path
