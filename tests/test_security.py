"""What comes from elsewhere is data: no checkpoint, run folder, plan or device file runs code."""

import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import _common as jsonargparse_settings

from huscf.__main__ import main
from huscf.errors import CheckpointError, HuscfError
from huscf.sampling import load_gan
from huscf.trust import MAX_DEPTH, OWN_PACKAGES, Trust

MINI = """
data:
  class_path: huscf.datamodules.DigitsDataModule
  init_args: {clients_per_domain: 1, batch_size: 4, steps_per_epoch: 1, samples_per_client: 8}
model:
  method:
    class_path: huscf.methods.HuscfGan
    init_args:
      generator: {class_path: huscf.models.ConditionalGenerator, init_args: {width: 2, depth: 4}}
      discriminator:
        class_path: huscf.models.ConditionalDiscriminator
        init_args: {width: 2, depth: 4}
      latent_dim: 2
evaluation: {every_n_rounds: -1}
samples: {every_n_rounds: 0}
report: {enabled: false}
trainer: {max_epochs: 1, enable_progress_bar: false, accelerator: cpu}
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The checkpoint of a small run that huscf made itself."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "mini.yaml").write_text(MINI)
    config = ["--config", str(folder / "mini.yaml"), f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *config]) == 0
    return folder / "run-1" / "checkpoints" / "last.ckpt"


def read(path):
    return torch.load(path, weights_only=True)


def set_key(values, key, value):
    """Set a dotted key of nested mappings."""
    *steps, last = key.split(".")
    for step in steps:
        values = values.setdefault(step, {})
    values[last] = value


def make_stranger(good, folder, key, value):
    """A checkpoint like the good one, but for one key of its configuration."""
    checkpoint = read(good)
    set_key(checkpoint["huscf_config"], key, value)
    torch.save(checkpoint, folder / "stranger.ckpt")
    return folder / "stranger.ckpt"


def refuse(arguments, capsys):
    """Return the one line with which a command is refused."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("huscf: error: ")
    return line


def popen(marker):
    arguments = {"args": f"touch {marker}", "shell": True}
    return {"class_path": "subprocess.Popen", "init_args": arguments}


def system(marker):
    return {"class_path": "os.system", "init_args": {"command": f"touch {marker}"}}


def linear(marker, spec=system):
    """torch.nn.Linear does not annotate `device`: any class was made there."""
    arguments = {"in_features": 1, "out_features": 1, "device": spec(marker)}
    return {"class_path": "torch.nn.Linear", "init_args": arguments}


def own_class(marker):
    return {
        "class_path": "huscf.federation.KMeansClusters",
        "init_args": {"num_clusters": popen(marker)},
    }


SHAPES = {
    "a class": popen,
    "a function": system,
    "inside a class that takes anything": linear,
    "a class inside it": lambda m: linear(m, popen),
    "inside a class of huscf": own_class,
    "inside keyword arguments": lambda m: {**own_class(m), "dict_kwargs": {"other": popen(m)}},
    "in a list": lambda m: [popen(m)],
    "as YAML in text": lambda m: yaml.safe_dump(linear(m)),
    "as JSON in text": lambda m: f'{{"class\\u005fpath": "subprocess.Popen", "args": "{m}"}}',
    "by a dotted key": lambda m: {"init_args.device.class_path": "subprocess.Popen"},
    "through a module of huscf": lambda m: {"class_path": "huscf.cli.sys.exit"},
    "through what huscf imports": lambda m: {"class_path": "huscf.metrics.judge_cache.torch.load"},
    "inside what huscf imports": lambda m: {"class_path": "huscf.commands.Path.home"},
    "the command line itself": lambda m: {
        "class_path": "huscf.cli.HuscfCLI",
        "init_args": {"args": ["fit", "--config", "evil.yaml"]},
    },
    "a private function": lambda m: {
        "class_path": "huscf.callbacks.run_folder._as_figure",
        "init_args": {"value": str(m)},
    },
    "a name without a module": lambda m: {"class_path": "Popen"},
    "no name at all": lambda m: {"class_path": 3},
}
GENERATOR_KEY = "model.method.init_args.generator"
LOSS = "model.method.init_args.loss"
PLACES = (
    *("federation.rule", "federation.weighting", LOSS, "model.plan", "model.wire"),
    *(GENERATOR_KEY, "model.method", "data", "evaluation.level", "run.name", "samples"),
)


def test_what_is_planted_runs_where_nothing_is_refused(tmp_path):
    """Guards the tests below: each would fail to find a marker that nothing could make."""
    marker = tmp_path / "marker"
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(torch.nn.Module, "module")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jsonargparse 5 will do neither
        config = parser.parse_object({"module": linear(marker)})
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            parser.instantiate(config)
    time.sleep(0.3)
    assert marker.exists()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("command", ["test", "predict"])
def test_no_command_runs_what_a_checkpoint_names(
    good, tmp_path, monkeypatch, capsys, shape, command
):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    for place in PLACES[:1] if command == "predict" else PLACES[:3]:
        make_stranger(good, tmp_path, place, SHAPES[shape](marker))
        line = refuse([command, "--ckpt_path", "stranger.ckpt"], capsys)
        assert "stranger.ckpt" in line
    time.sleep(0.05)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stranger.ckpt"]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_run_wherever_it_is_named(good, tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    make_stranger(good, tmp_path, place, linear(tmp_path / "marker"))
    line = refuse(["test", "--ckpt_path", "stranger.ckpt"], capsys)
    assert "code outside huscf, which would run" in line and place in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stranger.ckpt"]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("federation.rule", "os.system"),
        ("federation.weighting", "torch.hub.load"),
        (GENERATOR_KEY, "huscf.cli.run"),
        (LOSS, "torch.nn.Linear"),
        ("model.method", "huscf.cli.run"),
    ],
)
def test_a_function_named_in_text_is_refused(good, tmp_path, capsys, command, key, name):
    stranger = make_stranger(good, tmp_path, key, name)
    line = refuse([command, "--ckpt_path", str(stranger)], capsys)
    assert f"names {name}" in line and "checkpoint" in line


@pytest.mark.parametrize("key", [GENERATOR_KEY, "model.method", "federation.rule", "model.plan"])
def test_a_file_that_a_checkpoint_refers_to_is_no_way_round(
    good, tmp_path, monkeypatch, capsys, key
):
    monkeypatch.chdir(tmp_path)
    Path("sub.yaml").write_text(yaml.safe_dump(linear(tmp_path / "marker")))
    make_stranger(good, tmp_path, key, "sub.yaml")
    refuse(["test", "--ckpt_path", "stranger.ckpt"], capsys)
    time.sleep(0.05)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_generate_and_export_make_nothing_that_a_checkpoint_names(good, tmp_path, capsys, shape):
    marker = tmp_path / "marker"
    stranger = make_stranger(good, tmp_path, GENERATOR_KEY, SHAPES[shape](marker))
    for command in (["generate"], ["export", "--cluster", "0"]):
        options = ["--ckpt_path", str(stranger), "--output", str(tmp_path / "out")]
        assert "stranger.ckpt" in refuse([*command, *options], capsys)
    time.sleep(0.05)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stranger.ckpt"]


def test_parsing_leaves_the_settings_of_the_process_alone(good, tmp_path, capsys):
    before = dict(jsonargparse_settings.parsing_settings)
    load_gan(good)
    assert (
        main(["predict", "--ckpt_path", str(good), f"--trainer.default_root_dir={tmp_path}"]) == 0
    )
    refuse(["test", "--ckpt_path", str(make_stranger(good, tmp_path, "data", linear("m")))], capsys)
    assert jsonargparse_settings.parsing_settings == before


NETWORKS = """
    from pathlib import Path

    from huscf.models import ConditionalGenerator, Network, SampleShape

    Path("mine-was-imported").touch()


    def make_generator(shape: SampleShape, latent_dim: int) -> Network:
        return ConditionalGenerator(shape, latent_dim, width=2, depth=4)


    class Generator(ConditionalGenerator):
        pass
"""


GENERATOR = {
    "class_path": "mine.networks.Generator",
    "init_args": {"width": 2, "depth": 4, "embedding_dim": 0, "norm": "batch"},
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An installed package of one's own, and a run's folder to work in."""
    (tmp_path / "lib" / "mine").mkdir(parents=True)
    (tmp_path / "lib" / "mine" / "__init__.py").touch()
    (tmp_path / "lib" / "mine" / "networks.py").write_text(textwrap.dedent(NETWORKS))
    (tmp_path / "work").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "generator",
    [
        "mine.networks.make_generator",
        GENERATOR,
    ],
)
def test_ones_own_package_is_run_where_it_is_trusted_only(good, mine, capsys, generator):
    make_stranger(good, mine, GENERATOR_KEY, generator)
    checkpoint = ["--ckpt_path", "stranger.ckpt"]
    draw = ["generate", *checkpoint, "--num_samples", "4", "--output"]
    for command in (["predict", *checkpoint], [*draw, "refused"]):
        assert "add --trust mine" in refuse(command, capsys)
        assert "add --trust mine" in refuse([*command, "--trust", "min", "mine.net"], capsys)
        assert not Path("mine-was-imported").exists() and not Path("refused").exists()
    assert main(["predict", *checkpoint, "--trust", "other", "mine.networks"]) == 0
    assert main([*draw, "one", "--trust=mine"]) == 0
    assert main([*draw, "two", "--trust", "other", "--trust", "mine.networks"]) == 0
    export = ["export", *checkpoint, "--cluster", "0", "--output", "g.pt"]
    assert main([*export, "--trust", "mine"]) == 0
    assert Path("g.pt").exists() and Path("mine-was-imported").exists()


def test_naming_a_class_oneself_is_trusting_it(good, mine):
    make_stranger(good, mine, GENERATOR_KEY, GENERATOR)
    method = {"class_path": "huscf.methods.HuscfGan", "init_args": {"generator": GENERATOR}}
    Path("own.yaml").write_text(yaml.safe_dump({"model": {"method": method}}))
    command = ["predict", "--ckpt_path", "stranger.ckpt"]
    assert main([*command, "--config", "own.yaml"]) == 0
    assert main([*command, f"--{GENERATOR_KEY}", "mine.networks.Generator"]) == 0
    assert main([*command, "--trust=mine", "--trainer.callbacks=DeviceStatsMonitor"]) == 0


def test_fit_takes_trust_too_and_makes_nothing_of_the_checkpoint(good, tmp_path, capsys):
    stranger = make_stranger(good, tmp_path, "federation.rule", linear(tmp_path / "marker"))
    config = tmp_path / "mini.yaml"
    config.write_text(MINI)
    line = refuse(["fit", "--config", str(config), "--ckpt_path", str(stranger)], capsys)
    assert "other hyper-parameters" in line and not (tmp_path / "marker").exists()
    options = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=2"]
    command = ["fit", "--trust", "mine", "--config", str(config), *options]
    assert main([*command, "--ckpt_path", str(good)]) == 0


@pytest.mark.parametrize("name", ["", "mine/networks", "huscf", "huscf.cli", "jsonargparse", "a.*"])
def test_trust_is_the_name_of_a_package(good, capsys, name):
    assert "--trust" in refuse(["test", "--ckpt_path", str(good), "--trust", name], capsys)


def test_a_spec_where_anything_is_accepted_is_not_made_in_ones_own_configuration(tmp_path, capsys):
    """So that what `fit` accepts is what `test` can load."""
    (tmp_path / "mini.yaml").write_text(MINI)
    config = ["--config", str(tmp_path / "mini.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    rule = yaml.safe_dump(linear(tmp_path / "marker"), default_flow_style=True, width=1000)
    with pytest.raises((HuscfError, TypeError, ValueError, AttributeError, SystemExit)):
        raise SystemExit(main(["fit", *config, f"--federation.rule={rule.strip()}"]))
    time.sleep(0.05)
    assert not (tmp_path / "marker").exists()


def test_every_class_that_a_configuration_of_huscf_names_is_its_own(repository_classes):
    trust = Trust()
    assert len(repository_classes) > 10
    assert [path for path in sorted(repository_classes) if not trust.accepts(path)] == []


@pytest.fixture
def repository_classes():
    from tests.conftest import REPOSITORY

    texts = [p.read_text() for p in (REPOSITORY / "configs").rglob("*.yaml")]
    loaded = [yaml.safe_load(text) for text in texts]
    found = set()

    def collect(value):
        for key, nested in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "class_path":
                found.add(nested)
            elif isinstance(nested, dict | list):
                collect(nested)

    for values in loaded:
        collect(values)
    return found


@pytest.mark.parametrize("package", OWN_PACKAGES)
def test_what_modules_import_is_not_their_own(package):
    import importlib
    import inspect

    trust = Trust()
    module = importlib.import_module(f"huscf.{package}")
    for name, value in vars(module).items():
        path = f"huscf.{package}.{name}"
        if inspect.ismodule(value) or name.startswith("_"):
            assert not trust.accepts(path)
    assert any(trust.accepts(f"huscf.{package}.{name}") for name in module.__all__)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"data": {"root": torch.zeros(2)}}, "data.root is a Tensor, no plain value"),
        ({"model": {"betas": {1, 2}}}, "model.betas is a set"),
        ({"model": {"__path__": "x.yaml"}}, "model.__path__: no key"),
        ({"model": {b"a": 1, "generator": b"x"}}, "is a bytes"),
    ],
)
def test_values_that_no_configuration_holds_are_refused(values, reason):
    with pytest.raises(CheckpointError, match=reason):
        Trust().check(values, "checkpoint x")


def test_deep_endless_and_multiplying_values_are_refused_soon():
    deep = {}
    for _ in range(MAX_DEPTH + 5):
        deep = {"a": deep}
    endless = {"a": []}
    endless["a"].append(endless)
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefghij", "bcdefghijk", strict=True):
        laughs += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    start = time.monotonic()
    for values in (deep, endless, {"a": laughs}):
        with pytest.raises(CheckpointError, match="so large or so deep"):
            Trust().check(values, "checkpoint x")
    assert time.monotonic() - start < 20


MALFORMED = [
    ("huscf_config", torch.zeros(3), "huscf_config must be a mapping, got a Tensor"),
    ("huscf_config", 3, "huscf_config must be a mapping, got 3"),
    ("huscf_config", ["a"], "huscf_config must be a mapping, got a list of 1"),
    ("huscf_config.model", None, "huscf_config/model must be a mapping, got nothing"),
    ("huscf_config.data", torch.zeros(1), "huscf_config/data must be a mapping"),
    ("huscf", [], "huscf must be a mapping, got a list of 0"),
    ("huscf.engine.clusters", {}, "huscf/engine/clusters must be a cluster"),
    ("huscf.engine.clusters", {0: -1, 1: 0}, "huscf/engine/clusters must be a cluster"),
    ("huscf.engine.clusters", {"0": 0, "1": 0}, "huscf/engine/clusters must be a cluster"),
    ("huscf.torch_rng", None, "huscf/torch_rng must be the state"),
    ("huscf.torch_rng", torch.zeros(5, dtype=torch.uint8), "huscf/torch_rng must be the state"),
    ("huscf.num_rounds", -1, "huscf/num_rounds must be a whole number >= 0, got -1"),
    ("huscf.num_rounds", 1.5, "huscf/num_rounds must be a whole number >= 0, got 1.5"),
    (
        "huscf.engine.num_dropped",
        {0: -3},
        "huscf/engine/num_dropped must be whole numbers >= 0 by client",
    ),
    (
        "huscf.engine.traffic.num_bytes",
        [[0, "a", "uplink", -1]],
        "traffic/num_bytes must be a list of rows",
    ),
    (
        "huscf.engine.traffic.num_bytes",
        None,
        "huscf/engine/traffic/num_bytes must be a list of rows",
    ),
    ("huscf.engine.statistics", None, "huscf/engine/statistics must be a mapping"),
    ("huscf.engine.plan", "uniform", "huscf/engine/plan must be a mapping, got 'uniform'"),
    ("global_step", -4, "global_step must be a whole number >= 0, got -4"),
    ("epoch", "two", "epoch must be a whole number >= 0, got 'two'"),
    ("state_dict", {"a": "text"}, "state_dict must be tensors by name"),
    ("state_dict", None, "state_dict must be tensors by name, got nothing"),
    ("loops", None, "loops must be a mapping"),
    ("callbacks", [1], "callbacks must be a mapping"),
    ("callbacks.ClusteredFederation", None, "callbacks must be a mapping"),
    ("optimizer_states", None, "optimizer_states must be a list"),
    ("huscf.engine", None, "huscf/engine must be a mapping, got nothing"),
    ("huscf.engine.optimizers", [], "huscf/engine/optimizers must be a mapping of the parties"),
    ("huscf.engine.optimizers.server", 3, "huscf/engine/optimizers must be a mapping of the"),
    ("huscf.engine.guard.usual", {"a": "b"}, "huscf/engine/guard/usual must be numbers by name"),
    ("huscf_data", "x", "huscf_data must be a mapping"),
    ("huscf_data.sample_shape", 3, "huscf_data/sample_shape must be a mapping"),
    ("huscf_data.class_names", [1, 2], "huscf_data/class_names must be a list of names"),
    ("huscf_data.num_classes", {0: -1}, "huscf_data/num_classes must be whole numbers"),
    ("huscf_data.domains", {"0": "a"}, "huscf_data/domains must be a name for each of"),
    ("huscf_data.domains", {0: 3}, "huscf_data/domains must be a name for each of"),
    ("huscf_data.domain_class_names", {"a": "b"}, "domain_class_names must be lists of names"),
    ("huscf_data.client_digests", 3, "huscf_data/client_digests must be a mapping"),
]


@pytest.mark.parametrize(("key", "value", "message"), MALFORMED)
def test_malformed_parts_of_a_checkpoint_are_one_line(good, tmp_path, capsys, key, value, message):
    checkpoint = read(good)
    set_key(checkpoint, key, value)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    (tmp_path / "mini.yaml").write_text(MINI)
    given = ["--ckpt_path", str(tmp_path / "bad.ckpt")]
    fit = ["fit", "--config", str(tmp_path / "mini.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    for command in (fit, ["test"], ["generate", "--output", str(tmp_path / "out")]):
        line = refuse([*command, *given], capsys)
        assert message in line and "bad.ckpt" in line
    assert {p.name for p in tmp_path.iterdir()} == {"bad.ckpt", "mini.yaml"}


@pytest.mark.parametrize(
    ("number", "age"), [(None, "an earlier"), (1, "an earlier"), (3, "a later")]
)
def test_checkpoints_of_other_versions_are_one_line(good, tmp_path, capsys, number, age):
    checkpoint = read(good)
    checkpoint["huscf_config"]["model"]["generator"] = checkpoint["huscf_config"]["model"].pop(
        "method"
    )
    del checkpoint["huscf"]["engine"]
    checkpoint["huscf"]["format"] = number
    if number is None:
        del checkpoint["huscf"]["format"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    (tmp_path / "mini.yaml").write_text(MINI)
    generate = ["generate", "--output", str(tmp_path / "out")]
    for command in (["fit", "--config", str(tmp_path / "mini.yaml")], ["test"], generate):
        line = refuse([*command, "--ckpt_path", str(tmp_path / "old.ckpt")], capsys)
        assert f"old.ckpt was made by {age} version" in line
        assert f"(format {number or 1}, here 2)" in line
    assert {p.name for p in tmp_path.iterdir()} == {"old.ckpt", "mini.yaml"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("huscf.engine.plan", {"blocks": {"generator": 4}}),
        ("huscf.engine.plan.clients", []),
        ("huscf.engine.clusters", {5: 0}),
        ("huscf.engine.route", None),
        ("huscf.engine.per_cluster", "x"),
        ("huscf.engine.statistics", {}),
        ("huscf_data.sample_shape", {"channels": -1, "image_size": 8, "num_classes": 10}),
        ("huscf_config.model.method.init_args.latent_dim", "many"),
        (f"huscf_config.{GENERATOR_KEY}", {"class_path": "huscf.split.UniformPlan"}),
        (f"huscf_config.{GENERATOR_KEY}", {"class_path": "huscf.models.NoSuchGenerator"}),
    ],
)
def test_values_that_do_not_fit_together_are_one_line(good, tmp_path, capsys, key, value):
    checkpoint = read(good)
    set_key(checkpoint, key, value)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    given = ["--ckpt_path", str(tmp_path / "bad.ckpt")]
    generate = ["generate", "--output", str(tmp_path / "out")]
    # The shape that predict takes is that of the data.
    for command in [generate] if "sample_shape" in key else [["predict"], generate]:
        refuse([*command, *given], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ckpt"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loops", {"fit_loop": None}),
        ("loops", {"fit_loop": {"epoch_progress": 3}}),
        ("huscf.engine.optimizers", {"0": {"generator": 3}}),
        ("huscf.engine.optimizers", {"server": {"generator": {"state": 3}}}),
        ("callbacks.RunFolder", {"rows": "x"}),
        ("callbacks.RunFolder.rows", [{"round": "=HYPERLINK(1)"}]),
        ("callbacks.RunFolder.sums", 3),
        ("huscf.engine.statistics", {"clients": 3, "second_moments": None}),
    ],
)
def test_what_lightning_cannot_restore_is_one_line(good, tmp_path, capsys, key, value):
    checkpoint = read(good)
    set_key(checkpoint, key, value)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    (tmp_path / "mini.yaml").write_text(MINI)
    fit = ["fit", "--config", str(tmp_path / "mini.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    # More epochs than other tests go on with this run for.
    options = ["--trainer.max_epochs=9", "--ckpt_path", str(tmp_path / "bad.ckpt")]
    assert "checkpoint" in refuse([*fit, *options], capsys)


@pytest.mark.parametrize("party", ["0", "server"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exp_avg", torch.zeros(3, 1, 7)),
        ("exp_avg", torch.zeros(1)),
        ("exp_avg_sq", torch.zeros(())),
        ("exp_avg_sq", None),
        ("step", torch.zeros(4)),
        ("step", "many"),
        ("other", torch.zeros(2)),
    ],
)
def test_optimiser_state_that_does_not_fit_is_one_line(
    good, tmp_path, monkeypatch, capsys, party, key, value
):
    checkpoint = read(good)
    state = checkpoint["huscf"]["engine"]["optimizers"][party]["generator"]
    next(iter(state.values()))[key] = value
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    (tmp_path / "mini.yaml").write_text(MINI)
    monkeypatch.chdir(tmp_path)
    given = ["--config=mini.yaml", "--trainer.max_epochs=9"]  # another test may have trained on
    line = refuse(["fit", *given, "--ckpt_path=bad.ckpt"], capsys)
    assert "optimiser state" in line and f"{key} of {party} generator" in line


@pytest.mark.parametrize("way", ["elsewhere", "by parent", "by address"])
def test_resuming_a_strangers_run_deletes_nothing(good, tmp_path, capsys, way):
    """Lightning deletes checkpoints that are replaced, by the paths that the checkpoint gives."""
    import shutil

    shutil.copytree(good.parents[1], tmp_path / "run-1")
    folder = tmp_path / "run-1" / "checkpoints"
    victim = tmp_path / "victim.ckpt"
    victim.touch()
    names = {
        "elsewhere": str(victim),
        "by parent": f"{folder}/../../victim.ckpt",
        "by address": f"file://{victim}",
    }
    checkpoint = read(good)
    (state,) = (s for k, s in checkpoint["callbacks"].items() if k.startswith("RoundCheckpoint"))
    kept = {names[way]: torch.tensor(-1.0), f"{folder}/round-0001.ckpt": torch.tensor(1.0)}
    state.update(best_k_models=kept, kth_best_model_path=names[way], dirpath=str(folder))
    torch.save(checkpoint, folder / "last.ckpt")
    (tmp_path / "mini.yaml").write_text(MINI)
    fit = ["fit", "--config", str(tmp_path / "mini.yaml"), "--trainer.max_epochs=2"]
    line = refuse([*fit, "--ckpt_path", str(folder / "last.ckpt")], capsys)
    assert "resuming could delete it" in line and victim.exists()


def test_plans_and_device_files_make_no_class(tmp_path):
    from huscf.errors import PlanError
    from huscf.planning import DevicesFile
    from huscf.split import CutPlan

    text = f"!!python/object/apply:os.system ['touch {tmp_path / 'marker'}']\n"
    for name, read_file in (("plan.yaml", CutPlan.load), ("devices.yaml", DevicesFile.load)):
        (tmp_path / name).write_text(text)
        with pytest.raises(PlanError, match=name):
            read_file(tmp_path / name)
    assert not (tmp_path / "marker").exists()
