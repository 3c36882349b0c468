"""Runs that end at equal cost, through the command line."""

import csv
from types import SimpleNamespace

import pytest
import yaml

from huscf.__main__ import main
from huscf.callbacks import Budget, ClusteredFederation
from huscf.errors import HuscfError
from huscf.methods import request_plan
from huscf.planning import DevicesFile, PlanOptions, PlanSubject, measure_latency
from tests.conftest import REPOSITORY, SHAPE, make_gan

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.yaml")
MDGAN = str(REPOSITORY / "configs" / "methods" / "mdgan.yaml")
NETWORKS = ("generator", "discriminator")


@pytest.fixture
def devices(tmp_path):
    values = {
        "profiles": {"a": {"speed_gflops": 1, "uplink_mbit_per_s": 8, "downlink_mbit_per_s": 8}},
        "server": {"speed_gflops": 9, "uplink_mbit_per_s": 80, "downlink_mbit_per_s": 80},
        "assignment": {"counts": {"a": 8}},
    }
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_a_run_ends_with_the_step_that_spends_its_bytes(tmp_path, capsys):
    """A step of a client: two batches of 4 samples of 64 floats down with labels, one up."""
    step = 8 * (3 * 4 * 64 * 4 + 2 * 4 * 8)
    tiny = ["--trainer.max_epochs=3", "--data.init_args.batch_size=4", "--samples.every_n_rounds=0"]
    tiny += ["--trainer.accelerator=cpu", "--evaluation.every_n_rounds=-1"]
    tiny += ["--trainer.enable_progress_bar=false"]
    tiny += [f"--model.method.init_args.{n}.init_args.width=4" for n in NETWORKS]
    tiny += [f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    budget = f"--budget.max_mbytes={2.5 * step / 1e6}"
    fit = ["fit", "--config", QUICKSTART, "--config", MDGAN, *tiny]
    assert main([*fit, budget]) == 0
    (path,) = tmp_path.glob("runs/*/metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert row["step"] == "3"
    assert float(row["traffic/mbytes"]) > 3 * step / 1e6, "its round was closed"
    again = [*fit, f"--ckpt_path={path.parent}"]
    before = path.read_text()
    capsys.readouterr()
    assert main([*again, budget]) == 0
    spent = f"was ended by budget.max_mbytes {2.5 * step / 1e6:g}: {3 * step / 1e6:.4g} are spent"
    assert f"{spent}; raise that to go on" in " ".join(capsys.readouterr().out.split())
    assert path.read_text() == before
    more = f"--budget.max_mbytes={2 * float(row['traffic/mbytes'])}"
    assert main([*again, more, "--trainer.max_steps=5"]) == 0
    assert [row["step"] for row in csv.DictReader(path.read_text().splitlines())] == ["3", "5"]
    # What was sent without a budget counts in one that is set later.
    assert main([*again, "--trainer.max_steps=6"]) == 0
    before = path.read_text()
    assert main([*again, budget, "--trainer.max_steps=7"]) == 0
    assert path.read_text() == before


class PretendTrainer:
    """What a budget asks of a trainer."""

    def __init__(self, module, batch_size):
        self.datamodule = SimpleNamespace(batch_sizes=dict.fromkeys(module.clusters, batch_size))
        self.callbacks = [ClusteredFederation(every_n_epochs=5)]
        self.num_training_batches = 2
        self.global_step, self.should_stop = 0, False


def test_a_run_ends_where_another_step_would_take_the_devices_too_long(devices):
    module = make_gan({c: [1, 1, 1, 1] for c in range(8)}, depth=5)
    trainer = PretendTrainer(module, 6)
    fleet = DevicesFile.load(devices).make_fleet(trainer.datamodule.batch_sizes, 0)
    request = request_plan(
        module.method, module.engine.networks, SHAPE, trainer.datamodule.batch_sizes
    )
    subject = PlanSubject.measure(request)
    step_s = measure_latency(module.plan, subject, fleet, PlanOptions(steps_per_round=10))
    budget = Budget(max_simulated_s=3.5 * step_s, devices=devices)
    budget.on_train_start(trainer, module)
    ends = []
    for trainer.global_step in range(1, 5):
        trainer.should_stop = False
        budget.on_train_batch_end(trainer, module)
        ends.append(trainer.should_stop)
    assert ends == [False, False, True, True], "three steps fit"
    reason = budget.explain_stop(budget.state_dict())
    assert reason.endswith(f"another step would lead to {5 * step_s:.4g} s")
    assert not Budget(max_simulated_s=6 * step_s, devices=devices).explain_stop(budget.state_dict())
    with pytest.raises(HuscfError, match="a single step takes"):
        Budget(max_simulated_s=step_s / 2, devices=devices).on_train_start(trainer, module)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_mbytes": 0.0}, "budget.max_mbytes is 0"),
        ({"max_simulated_s": -1.0}, "budget.max_simulated_s is -1"),
        ({"max_simulated_s": 5.0}, "needs budget.devices"),
        ({"max_simulated_s": 5.0, "devices": "none.yaml"}, "budget.devices: .*none.yaml: there is"),
        ({"devices": "paper/devices"}, "budget.devices: limits nothing by itself; set budget.max"),
        ({"devices": "paper/devices", "max_mbytes": 1.0}, "budget.devices: limits nothing"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(options, words):
    with pytest.raises(HuscfError, match=words):
        Budget(**options)
