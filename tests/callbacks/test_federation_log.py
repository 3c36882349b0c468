"""Every round's federation as data and pictures, through the real command line."""

import csv
from types import SimpleNamespace

import pytest
from PIL import Image

from huscf.callbacks import FederationLog, RoundResult, RunFolder
from huscf.engines import Mixture
from huscf.errors import HuscfError
from huscf.federation import RoundDecision
from huscf.reporting.federation_history import by_round, embedding_of, read_federation
from tests.conftest import make_gan
from tests.test_cli import fit, rows


def pictures(folder):
    return sorted(p.name for p in (folder / "federation").iterdir())


@pytest.fixture(scope="module")
def four_rounds(tmp_path_factory):
    """A finished run of four rounds."""
    root = tmp_path_factory.mktemp("runs")
    options = ["--federation_log.first_rounds=1", "--federation_log.every_n_rounds=2"]
    assert fit(root, "--trainer.max_epochs=5", *options) == 0
    return root / "quickstart-1"


def test_rows_agree_with_the_figures_of_the_round(four_rounds):
    logged = by_round(read_federation(four_rounds / "federation.csv"))
    assert list(logged) == [1, 2, 3, 4, 5]
    for row in rows(four_rounds):
        clients = logged[int(row["round"])]
        assert [c.client for c in clients] == [0, 1, 2, 3]
        assert [c.domain for c in clients] == ["digits"] * 2 + ["negatives"] * 2
        assert [c.num_samples for c in clients] == [12] * 4
        assert max(c.cluster for c in clients) + 1 == float(row["federation/num_clusters"])
        assert min(c.weight for c in clients) == float(row["federation/min_weight"])
        assert max(c.weight for c in clients) == float(row["federation/max_weight"])
        mean = sum(c.divergence for c in clients) / 4
        assert mean == pytest.approx(float(row["federation/mean_kld"]))
        for cluster in {c.cluster for c in clients}:
            assert sum(c.weight for c in clients if c.cluster == cluster) == pytest.approx(1)
        assert len(set(embedding_of(clients).values())) == 4


def test_the_first_every_nth_and_the_last_round_have_a_picture(four_rounds):
    assert pictures(four_rounds) == [f"round-000{n}.png" for n in (1, 2, 4, 5)]
    with Image.open(four_rounds / "federation" / "round-0005.png") as picture:
        assert picture.size == (1755, 624)


def test_clients_csv_tells_of_the_last_round(tmp_path):
    assert fit(tmp_path, "--trainer.max_epochs=2", "--report.enabled=true") == 0
    folder = tmp_path / "quickstart-1"
    last = by_round(read_federation(folder / "federation.csv"))[2]
    with (folder / "clients.csv").open() as file:
        clients = list(csv.DictReader(file))
    for row, client in zip(last, clients, strict=True):
        for name in ("client", "domain", "cluster", "weight", "divergence", "map_x", "map_y"):
            assert client[name] == str(getattr(row, name)), name


def test_resuming_goes_on_with_the_rounds_before_the_checkpoint(four_rounds, tmp_path):
    assert fit(tmp_path, "--trainer.max_epochs=4") == 0
    folder = tmp_path / "quickstart-1"
    earlier = folder / "checkpoints" / "round-0003.ckpt"
    options = ["--federation_log.first_rounds=0", f"--ckpt_path={earlier}"]
    assert fit(tmp_path, "--trainer.max_epochs=5", *options) == 0
    resumed, whole = (read_federation(f / "federation.csv") for f in (folder, four_rounds))
    assert [row.round for row in resumed] == [row.round for row in whole]
    for got, expected in zip(resumed, whole, strict=True):
        assert got._replace(map_x=0, map_y=0) == expected._replace(map_x=0, map_y=0)
        assert got.map_x == pytest.approx(expected.map_x)
        assert got.map_y == pytest.approx(expected.map_y)


def test_a_run_resumed_elsewhere_has_the_rounds_before_the_checkpoint_too(four_rounds, tmp_path):
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes((four_rounds / "checkpoints" / "round-0004.ckpt").read_bytes())
    options = ["--federation_log.first_rounds=0", f"--ckpt_path={moved}"]
    assert fit(tmp_path, "--trainer.max_epochs=5", *options) == 0
    resumed, whole = (
        read_federation(folder / "federation.csv")
        for folder in (tmp_path / "quickstart-1", four_rounds)
    )
    assert resumed == whole


def test_maps_are_turned_to_lie_as_the_last_one(tmp_path):
    module = make_gan({c: [1, 1, 1, 1] for c in range(3)})
    folder, log = RunFolder(), FederationLog(0, 0)
    folder.path = tmp_path
    trainer = SimpleNamespace(callbacks=[folder, log], datamodule=None, loggers=[])
    log.on_fit_start(trainer, module)
    places = {0: (1.0, 0.5), 1: (-2.0, 0.0), 2: (1.0, -0.5)}
    weights = {0: 0.75, 1: 1.0, 2: 0.25}
    for number, sign in ((1, 1), (2, -1)):
        turned = {c: (sign * y, sign * x) for c, (x, y) in places.items()}
        shown = places if number == 1 else turned
        clusters = {0: 0, 1: 1, 2: 0}
        decision = RoundDecision(clusters, weights, {0: 0.5}, shown)
        module.num_rounds = number
        log.on_round_end(trainer, module, RoundResult(number, decision, Mixture(clusters, weights)))
    log.on_train_epoch_end(trainer, module)  # an epoch that ends no round
    logged = by_round(log.rows)
    assert list(logged) == [1, 2]
    for client, place in places.items():
        assert embedding_of(logged[2])[client] == pytest.approx(place)
    assert [row.divergence for row in logged[2]] == [0.5, None, None]
    assert [row.domain for row in logged[2]] == [""] * 3
    assert not (tmp_path / "federation").exists()
    log.on_fit_end(trainer, module)
    assert pictures(tmp_path) == ["round-0002.png"]


def test_the_pace_of_pictures():
    assert [n for n in range(1, 13) if FederationLog().should_draw(n)] == [1, 2, 3, 5, 10]
    assert not any(FederationLog(0, 0).should_draw(n) for n in range(1, 13))
    with pytest.raises(HuscfError, match="must be >= 0"):
        FederationLog(every_n_rounds=-1)
