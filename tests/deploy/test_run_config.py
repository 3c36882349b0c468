"""What a run of sites cannot do is refused before any site is waited for."""

import pytest

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
            ("--federation.privacy.delta", "1e-3"),
            r"federation\.privacy: .*not have it yet",
        ),
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
