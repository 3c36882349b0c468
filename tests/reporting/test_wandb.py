"""W&B offline: what was logged, and that nothing lies outside the run's folder."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from huscf.callbacks import WandbLog
from huscf.reporting.federation_history import FederationRow, by_round, read_federation
from huscf.reporting.wandb_media import make_tables
from tests.conftest import REPOSITORY
from tests.reporting.conftest import OPTIONS, fit
from tests.reporting.wandb_file import read_records, to_dict
from tests.test_cli import QUICKSTART


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Run folder, home folder, and records of a run with the overlay."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_MODE", "offline")
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        overlay = REPOSITORY / "configs" / "wandb.yaml"
        run = fit(tmp_path_factory.mktemp("runs"), "--config", str(overlay))
        assert list(Path.cwd().iterdir()) == []
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    return run, home, wait_for_records(file)


def wait_for_records(file, seconds=20):
    """W&B's own process may still be writing when finish has returned."""
    for _ in range(10 * seconds):
        records = list(read_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end: {file.stat().st_size} bytes, {len(records)} records")


def read_rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def history(records):
    return [to_dict(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]


def test_rounds_are_the_x_axis_and_every_figure_of_the_csv_is_there(logged):
    run, _, records = logged
    merged = {}
    for row in history(records):
        merged.setdefault(row.get("round"), {}).update(row)
    for row in read_rows(run):
        found = merged[int(row["round"])]
        assert {n: float(v) for n, v in row.items()} == {n: float(found[n]) for n in row}
    defined = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    steps = {m.glob_name or m.name: m.step_metric for m in defined}
    assert steps["*"] == "round"  # the last definition holds; Lightning's own came before
    assert merged[2]["trainer/global_step"] == int(read_rows(run)[1]["step"])


def test_configuration_pictures_tables_and_summary_are_there(logged):
    run, _, records = logged
    config = {}
    for record in records:
        config.update(to_dict(record.config.update))
        config.update(to_dict(record.run.config.update))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["method"] == saved["model"]["method"]
    assert saved["model"]["method"]["init_args"]["generator_lr"] == 0.001
    logged_values = {key: value for row in history(records) for key, value in row.items()}
    types = {key.removesuffix("/_type"): v for key, v in logged_values.items() if "/_type" in key}
    for name in ("samples/digits", "samples/negatives", "charts/clusters", "charts/plan"):
        assert types[name] == "image-file", name
    for name in ("charts/weights", "charts/clusters_by_round", "federation/map"):
        assert types[name] == "image-file", name
    for name in ("plan", "clients", "traffic_by_client", "federation/clients"):
        assert types[name] == "table-file", name
    maps = [row for row in history(records) if "federation/map/path" in row]
    assert [row["round"] for row in maps] == [1, 2]
    tables = [row for row in history(records) if "federation/clients/path" in row]
    assert [row["round"] for row in tables] == [1, 2]
    check_table(run, tables[1]["federation/clients/path"])
    grids = [row for row in history(records) if "samples/digits/path" in row]
    assert [row["round"] for row in grids] == [1, 2, 2]
    summary = {}
    for record in records:
        summary.update(to_dict(record.summary.update))
    for name, value in read_rows(run)[-1].items():
        assert summary[name] == pytest.approx(float(value)), name


def check_table(run, path):
    """The last round's table is what federation.csv says."""
    (file,) = run.glob(f"wandb/offline-run-*/files/{path}")
    table = json.loads(file.read_text())
    last = by_round(read_federation(run / "federation.csv"))[2]
    assert table["columns"] == list(FederationRow._fields)
    assert table["data"] == [list(row) for row in last]


def test_everything_stays_below_the_run_folder_and_configs_do_not_clash(logged):
    run, home, _ = logged
    written = [p for p in home.rglob("*") if p.is_file() and "wandb" in str(p).lower()]
    assert written == []
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["wandb"]["enabled"] is True
    assert saved["model"]["method"]["init_args"]["latent_dim"] == 100
    assert (run / "report.html").exists()


@pytest.mark.parametrize("mode", ["disabled", "online"])
def test_disabled_means_no_run_and_an_unreachable_service_is_one_line(tmp_path, mode):
    # A process of its own: W&B reads the mode once.
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    environment |= {"WANDB_MODE": mode, "HOME": str(tmp_path / "home")}
    overlay = ["--config", str(REPOSITORY / "configs" / "wandb.yaml")]
    options = [*OPTIONS, f"--trainer.default_root_dir={tmp_path / 'runs'}", *overlay]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "huscf",
            "fit",
            "--config",
            QUICKSTART,
            *options,
            "--trainer.max_epochs=1",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert not list(tmp_path.glob("runs/*/wandb/*run-*"))
    if mode == "disabled":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("huscf: error: W&B: ")
    assert "--wandb.offline true" in line


def test_offline_unless_there_is_a_key(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.api", type("Api", (), {"api_key": None}))
    assert WandbLog()._is_offline()
    monkeypatch.setattr("wandb.api", type("Api", (), {"api_key": "key"}))
    assert not WandbLog()._is_offline()
    assert WandbLog(offline=True)._is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandbLog(offline=False)._is_offline()


def test_the_plan_of_a_method_with_one_network_is_a_table_too():
    plan = {"blocks": {"denoiser": 5}, "clients": [{"client": 0, "profile": "a", "cuts": [1, 2]}]}
    (table,) = make_tables(SimpleNamespace(plan=plan, clients=[])).values()
    assert table.columns == ["client", "profile", "denoiser head", "denoiser tail"]
    assert table.data == [["0", "a", 1, 2]]
