"""The sweep of latency against traffic and energy."""

import importlib
import json

import numpy as np
import pytest
import yaml

from huscf.errors import PlanError
from huscf.planning import PlanOptions, SearchSettings, build_problem
from tests.conftest import REPOSITORY
from tests.planning.planning_cases import (
    build,
    draw_choices,
    draw_fleet,
    find_boundary,
    make_apart,
    make_subject,
    read_devices,
)


@pytest.fixture
def trade_off(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("trade_off")


def test_trade_off_falls_from_end_to_end(trade_off):
    problem = build(make_subject(width=8), draw_fleet(4, 15, has_power=True))
    for against in ("bytes", "energy"):
        points = trade_off.sweep_trade_off(problem, against, SearchSettings(), num_points=5)
        assert len(points) >= 2
        assert np.all(np.diff([point.latency_s for point in points]) > 0)
        assert np.all(np.diff([point.rival for point in points]) < 0)
    everything = problem.traffic_bytes(draw_choices(problem, 2000, 0))
    points = trade_off.sweep_trade_off(problem, "bytes", SearchSettings())
    assert points[-1].rival <= everything.min()
    with pytest.raises(PlanError, match="points is 1, must be >= 2"):
        trade_off.sweep_trade_off(problem, "bytes", SearchSettings(), num_points=1)


def test_trade_offs_have_a_common_boundary(trade_off):
    subject, fleet = make_apart()
    problem = build_problem(subject, fleet, PlanOptions())
    points = trade_off.sweep_trade_off(problem, "bytes", SearchSettings(), num_points=4)
    assert all(find_boundary(point.plan) is not None for point in points)


def test_leakage_is_swept_at_every_share_that_cuts_have(trade_off, tmp_path, capsys):
    path, leakage = tmp_path / "devices.yaml", tmp_path / "leakage.json"
    path.write_text(yaml.safe_dump(read_devices()))
    flags = ["--config", str(path), "--against", "leakage"]
    assert trade_off.main(flags) == 2
    assert "--against leakage: give --leakage" in capsys.readouterr().err
    blocks = make_subject(width=8).costs.blocks["discriminator"]
    params = [block.num_params for block in blocks]
    heads = {"1": 0.9, "2": 0.5, "3": 0.25, "4": 0.1}
    values = {"network": "discriminator", "block_params": params, "heads": heads}
    leakage.write_text(json.dumps({"leakage": values}))
    assert trade_off.main([*flags, "--leakage", str(leakage), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    # The fastest plan of all has no head of one block, and nobody may hold one of four.
    assert [point["rival"] for point in points] == [0.5, 0.25]
    assert np.all(np.diff([point["latency_s"] for point in points]) > 0)


@pytest.mark.parametrize("without_power", ["device1", "device7"])
def test_failed_trade_off_writes_nothing(trade_off, tmp_path, capsys, without_power):
    path, picture = tmp_path / "devices.yaml", tmp_path / "trade_off.png"
    values = read_devices()
    for name, profile in values["profiles"].items():
        if name != without_power:
            profile["power_w"] = 5
    path.write_text(yaml.safe_dump(values))
    flags = ["--config", str(path), "--against", "energy", "--picture", str(picture)]
    assert trade_off.main(flags) == 2
    assert f"profile {without_power} has no power_w" in capsys.readouterr().err
    assert not picture.exists()


def test_the_script_prints_points_and_draws_them(trade_off, tmp_path, capsys):
    path, picture = tmp_path / "devices.yaml", tmp_path / "trade_off.png"
    path.write_text(yaml.safe_dump(read_devices()))
    flags = ["--config", str(path), "--points", "3", "--picture", str(picture)]
    assert trade_off.main([*flags, "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert 2 <= len(points) <= 3 and len(points[0]["plan"]["clients"]) == 100
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert trade_off.main(flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert trade_off.main([*flags, "--overwrite"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2:] == [
        f"| {point['latency_s']:.4f} | {point['rival'] / 1e6:.2f} |" for point in points
    ]
