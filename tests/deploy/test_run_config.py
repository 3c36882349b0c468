"""What a run of sites cannot do is refused before any site is waited for."""

import pytest
import yaml

from huscf.deploy.nvflare_job import strip_data
from huscf.deploy.run_config import read_run_config
from huscf.errors import HuscfError
from tests.deploy.cases import write_config

AUGMENTATION = ("--model.method.augmentation", "huscf.methods.DiscriminatorAugmentation")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--model.method", "huscf.methods.MdGan"), "MdGan needs the server to draw"),
        (
            ("--federation.weighting", "huscf.federation.FeganWeights"),
            "federation.weighting: sites do not tell their label counts",
        ),
        (
            ("--federation.rule", "huscf.federation.CflClusters"),
            "federation.rule: sites neither tell what a round changes",
        ),
        (
            ("--federation.rule", "huscf.federation.IfcaClusters"),
            "federation.rule: .* nor choose clusters",
        ),
        (
            ("--model.method", "huscf.methods.PflGan"),
            "PflGan needs blocks that are swapped or kept",
        ),
        (("--model.method", "huscf.methods.HflGan"), "HflGan needs clients to tell what steps"),
        (
            ("--model.method", "huscf.methods.PooledGan"),
            "PooledGan needs clients to send samples, labels or noise, which sites do not do",
        ),
        (("--budget.max_mbytes", "5"), r"budget\.max_mbytes: sites train until trainer"),
        (("--evaluation.num_per_class", "0"), "num_per_class is 0, must be from 1 to 100000"),
        (("--trainer.max_epochs", "["), r"max_epochs is '\[', must be a whole number"),
    ],
)
def test_what_sites_cannot_do_is_refused_by_name(tmp_path, options, reason):
    config = write_config(tmp_path / "run.yaml")
    with pytest.raises(HuscfError, match=reason):
        read_run_config(["--config", str(config), *options])


def test_keys_that_mean_nothing_at_sites_are_named(tmp_path):
    config = write_config(tmp_path / "run.yaml", max_time="00:01:00", enable_progress_bar=False)
    options = ["--samples.every_n_rounds=4", "--evaluation.over_clients=true"]
    found = read_run_config(["--config", str(config), *options])
    assert sorted(found.unused) == [
        *("evaluation.over_clients", "samples.every_n_rounds", "trainer.max_time"),
    ]
    assert read_run_config(["--config", str(write_config(tmp_path / "b.yaml"))]).unused == ()


ATTENDANCE = {"participation": 0.5, "first_epochs": {1: 3}, "last_epochs": {0: 4}}


def read_data(path, data, *options):
    config = yaml.safe_load(write_config(path).read_text())
    path.write_text(yaml.safe_dump({**config, "data": data}))
    return read_run_config(["--config", str(path), *options])


@pytest.mark.parametrize("is_of_class", [False, True])
def test_who_takes_part_and_how_long_an_epoch_is_may_stand_in_data(tmp_path, is_of_class):
    data = {"steps_per_epoch": 4, **ATTENDANCE}
    found = read_data(tmp_path / "run.yaml", {"init_args": data} if is_of_class else data)
    assert found.sites.steps_per_epoch == 4 and found.unused == ()
    assert vars(found.attendance) == ATTENDANCE
    # A job's copy says the same.
    stripped = strip_data(found.values)
    assert read_data(tmp_path / "job.yaml", stripped["data"]).attendance == found.attendance


def test_the_command_line_wins_over_the_data_of_the_file(tmp_path):
    config = write_config(tmp_path / "run.yaml")  # has steps_per_epoch: 2 below init_args
    options = ("--data.steps_per_epoch", "5", "--data.participation", "0.5")
    found = read_run_config(["--config", str(config), *options])
    assert found.sites.steps_per_epoch == 5 and found.attendance.participation == 0.5


@pytest.mark.parametrize("data", [{"steps": 4}, {"init_args": {"steps": 4}}])
def test_other_keys_of_data_without_a_class_are_named(tmp_path, data):
    assert read_data(tmp_path / "run.yaml", data).unused == ("data.steps",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"steps_per_epoch": "abc"}, "data.steps_per_epoch is abc, must be a finite number >= 1"),
        ({"steps_per_epoch": -3}, "data.steps_per_epoch is -3, must be >= 1"),
        ({"steps_per_epoch": 2.5}, "data.steps_per_epoch is 2.5, must be a whole number"),
        ({"init_args": [1]}, r"data.init_args is \[1\], must be keys and values"),
        ({"participation": 2}, r"data.participation is 2.0, must be a finite number > 0 and <= 1"),
    ],
)
def test_bad_values_of_data_are_refused_before_any_site_is_waited_for(tmp_path, data, reason):
    with pytest.raises(HuscfError, match=reason):
        read_data(tmp_path / "run.yaml", data)


def test_arguments_of_data_may_be_null(tmp_path):
    assert read_data(tmp_path / "run.yaml", {"init_args": None}).sites.steps_per_epoch is None


def test_the_folder_of_runs_may_begin_at_home_and_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = write_config(tmp_path / "run.yaml", default_root_dir="~/runs")
    assert read_run_config(["--config", str(config)]).root == tmp_path / "runs"
    write_config(config, default_root_dir=5)
    with pytest.raises(HuscfError, match=r"trainer.default_root_dir is 5, must be a folder"):
        read_run_config(["--config", str(config)])


def test_changes_of_samples_at_the_client_are_allowed(tmp_path):
    config = write_config(tmp_path / "run.yaml")
    read_run_config(["--config", str(config), *AUGMENTATION])


def test_a_wire_of_another_kind_is_refused_by_name(tmp_path):
    wire = {"wire": {"class_path": "huscf.wire.MemoryWire"}}
    config = write_config(tmp_path / "run.yaml", model=wire)
    with pytest.raises(HuscfError, match=r"sites know huscf\.wire\.DefendedWire and no MemoryWire"):
        read_run_config(["--config", str(config)])


def test_blocks_that_are_masked_cannot_be_changed_by_a_wire(tmp_path):
    wire = {"wire": {"class_path": "huscf.wire.DefendedWire", "init_args": {"bits": {"blocks": 8}}}}
    config = write_config(tmp_path / "run.yaml", model=wire)
    read_run_config(["--config", str(config)])
    with pytest.raises(HuscfError, match=r"model\.wire: sites mask their blocks as they are"):
        read_run_config(["--config", str(config), "--federation.secure", "true"])


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        ({"activations": 1}, r"^wire\.bits of activations is 1, must be >= 2 and <= 16$"),
        ({"everything": 8}, r"^wire\.bits: there is no everything here; give activations or "),
    ],
)
def test_what_a_wire_refuses_is_said_in_its_own_line(tmp_path, bits, reason):
    wire = {"wire": {"class_path": "huscf.wire.DefendedWire", "init_args": {"bits": bits}}}
    config = write_config(tmp_path / "run.yaml", model=wire)
    with pytest.raises(HuscfError, match=reason):
        read_run_config(["--config", str(config)])
