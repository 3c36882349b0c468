"""Cuts change while training when devices drift; networks, moments and resume survive it."""

import csv
import warnings

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.callbacks import Replanning
from huscf.errors import HuscfError
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import Replanner
from tests.conftest import REPOSITORY, make_gan

DEVICES = {
    "profiles": {
        "fast": {"speed_gflops": 50, "uplink_mbit_per_s": 100, "downlink_mbit_per_s": 100},
        "slow": {"speed_gflops": 0.05, "uplink_mbit_per_s": 100, "downlink_mbit_per_s": 100},
    },
    "server": {"speed_gflops": 5, "uplink_mbit_per_s": 1000, "downlink_mbit_per_s": 1000},
    "assignment": {"counts": {"fast": 2, "slow": 2}},
}
DRIFT = {"events": [{"round": 2, "profile": "fast", "speed_factor": 0.0005}]}


def fit(root, rounds, *options):
    devices, drift = root / "devices.yaml", root / "drift.yaml"
    devices.write_text(yaml.safe_dump(DEVICES))
    drift.write_text(yaml.safe_dump(DRIFT))
    config = root / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "data": {
                    "class_path": "huscf.datamodules.DigitsDataModule",
                    "init_args": {"clients_per_domain": 2, "batch_size": 8, "steps_per_epoch": 2},
                },
                "model": {
                    "method": {
                        "class_path": "huscf.methods.HuscfGan",
                        "init_args": {
                            "generator": small("ConditionalGenerator"),
                            "discriminator": small("ConditionalDiscriminator"),
                        },
                    },
                    "plan": {
                        "class_path": "huscf.planning.SearchedPlan",
                        "init_args": {"devices": str(devices)},
                    },
                },
                "replanning": {"every_n_rounds": 1, "drift": str(drift)},
                "evaluation": {"every_n_rounds": -1},
                "trainer": {"enable_progress_bar": False, "accelerator": "cpu"},
            }
        )
    )
    runs = [f"--trainer.default_root_dir={root / 'runs'}", f"--trainer.max_epochs={rounds}"]
    return main(["fit", "--config", str(config), *runs, *options])


def small(name):
    return {"class_path": f"huscf.models.{name}", "init_args": {"width": 4, "depth": 5}}


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def plans(folder):
    return sorted(p.name for p in folder.glob("plan-round-*.yaml"))


def test_a_drift_moves_blocks_once_and_says_why(tmp_path, capsys):
    assert fit(tmp_path, 3) == 0
    folder = tmp_path / "runs" / "run-1"
    table = rows(folder)
    assert all(float(row["plan/latency_s"]) > 0 for row in table)
    # The server goes on with the copies that the slow clients used: nothing is sent.
    assert all(float(row["plan/moved_mbytes"]) == 0 for row in table)
    assert plans(folder) == ["plan-round-0002.yaml"]
    new = yaml.safe_load((folder / "plan-round-0002.yaml").read_text())
    old = yaml.safe_load((folder / "plan.yaml").read_text())
    assert new["clients"] != old["clients"]
    assert {block["client_id"] for block in new["moved"]} <= {0, 1, 2, 3}
    assert old["latency_s"] > 0
    assert "round 2: cuts replaced: saves" in capsys.readouterr().out
    losses = [float(row["train/generator_loss"]) for row in table]
    assert max(losses) < 2 * min(losses)


def test_resuming_after_a_move_is_bit_exact(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert fit(whole, 3) == 0
    assert fit(parts, 2) == 0
    differing = parts / "runs" / "run-1"
    shared = ["--model.plan.init_args.devices", str(whole / "devices.yaml")]
    assert plans(differing) == ["plan-round-0002.yaml"]
    # The devices file's path is a hyper-parameter: resume with the very same configuration.
    last = differing / "checkpoints" / "last.ckpt"
    first_plan = (differing / "plan.yaml").read_text()
    assert fit(parts, 3, *shared, f"--ckpt_path={last}") == 2
    assert fit(parts, 3, f"--ckpt_path={last}") == 0
    assert (differing / "plan.yaml").read_text() == first_plan
    one, other = (
        torch.load(f / "runs" / "run-1" / "checkpoints" / "last.ckpt", weights_only=True)
        for f in (whole, parts)
    )
    assert one["huscf"]["engine"]["plan"] == other["huscf"]["engine"]["plan"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replanning.hysteresis=1.5"], "hysteresis is 1.5"),
        (["--model.plan.init_args.latency_model=paper"], "re-planning counts moved bytes"),
        (["--replanning.drift=unknown.yaml"], "events[0]: the run has no profile fsat; it has"),
    ],
)
def test_what_the_first_re_planning_would_trip_over_is_refused_at_once(
    tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    events = [{"round": 2, "profile": "fsat", "speed_factor": 0.5}]
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump({"events": events}))
    assert fit(tmp_path, 3, *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_moments_that_are_reset_are_not_moved(tmp_path, monkeypatch):
    monkeypatch.setitem(DRIFT, "events", [{"round": 2, "profile": "slow", "speed_factor": 1000}])
    sizes = []
    for moments in ("keep", "reset"):
        root = tmp_path / moments
        root.mkdir()
        assert fit(root, 2, f"--federation.moments={moments}") == 0
        folder = root / "runs" / "run-1"
        moved = yaml.safe_load((folder / "plan-round-0002.yaml").read_text())["moved"]
        assert {block["direction"] for block in moved} == {"downlink"}
        keys = ("client_id", "network", "block")
        sizes.append({tuple(move[k] for k in keys): move["num_bytes"] for move in moved})
        total = 1e6 * float(rows(folder)[1]["plan/moved_mbytes"])
        assert sum(sizes[-1].values()) == pytest.approx(total)
    networks = {
        "generator": ConditionalGenerator(SampleShape(1, 8, 10), 100, 4, 5),
        "discriminator": ConditionalDiscriminator(SampleShape(1, 8, 10), 4, 5),
    }
    both = sizes[0].keys() & sizes[1].keys()
    assert {network for _, network, _ in both} == networks.keys()
    for key in both:
        _, network, index = key
        block = networks[network][index]
        # Of the generator, the moving average comes along.
        copies = 2 if network == "generator" else 1
        own = sum(tensor.nbytes for tensor in block.state_dict().values())
        assert sizes[1][key] == copies * own
        # Two moments of every parameter, and its number of steps.
        moments = sum(2 * p.nbytes + 4 for p in block.parameters())
        assert sizes[0][key] - sizes[1][key] == moments


@pytest.mark.parametrize("rule", ["KMeansClusters", "OneCluster"])
def test_re_planning_looks_for_comparable_plans_where_the_rule_compares(
    tmp_path, monkeypatch, rule
):
    asked = []

    class Asked(Replanner):
        def decide(self, *args, **kwargs):
            asked.append(self.options.common_boundary)
            return super().decide(*args, **kwargs)

    monkeypatch.setattr("huscf.callbacks.replanning.Replanner", Asked)
    options = [f"--federation.rule=huscf.federation.{rule}", "--federation.observe=training"]
    assert fit(tmp_path, 1, *options, "--model.plan.init_args.common_boundary=false") == 0
    assert asked == [rule == "KMeansClusters"]


def test_devices_that_became_too_small_keep_their_cuts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DEVICES["profiles"]["fast"], "memory_mib", 1000)
    monkeypatch.setitem(DRIFT["events"][0], "memory_factor", 1e-6)
    assert fit(tmp_path, 3) == 0
    assert "round 2: cuts kept: client" in capsys.readouterr().out
    assert [row["round"] for row in rows(tmp_path / "runs" / "run-1")] == ["1", "2", "3"]


@pytest.mark.parametrize("planned", ["32-true", "bf16-mixed"])
def test_a_plan_for_another_precision_than_the_trainers_says_so(tmp_path, planned):
    options = [f"--model.plan.init_args.precision={planned}", "--trainer.precision=bf16-mixed"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit(tmp_path, 1, *options) == 0
    texts = [str(warning.message) for warning in caught]
    expected = "the plan is for precision 32-true, the trainer's is bf16-mixed"
    assert any(expected in text for text in texts) == (planned == "32-true")


def test_only_searched_plans_can_be_re_planned(tmp_path):
    module = make_gan({0: [1, 1, 1, 1]})
    Replanning().on_fit_start(None, module)
    with pytest.raises(HuscfError, match=r"huscf\.planning\.SearchedPlan"):
        Replanning(every_n_rounds=2).on_fit_start(None, module)
    drift = tmp_path / "drift.yaml"
    drift.write_text(yaml.safe_dump(DRIFT))
    with pytest.raises(HuscfError, match=r"replanning\.drift: .* huscf\.planning\.SearchedPlan"):
        Replanning(drift=str(drift)).on_fit_start(None, module)
    with pytest.raises(HuscfError, match="every_n_rounds is -1"):
        Replanning(every_n_rounds=-1)


def test_the_papers_devices_are_planned_as_one_json_object(capsys):
    import json

    config = REPOSITORY / "configs" / "paper" / "devices.yaml"
    assert main(["plan", "--config", str(config), "--latency_model", "paper", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["latency_s"] == pytest.approx(8.140490, abs=5e-7)
    assert len(values["clients"]) == 100
