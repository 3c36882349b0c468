"""A run of sites whose blocks the server never sees: that of one process, bit for bit."""

import pytest
import yaml

from huscf.errors import HuscfError
from tests.deploy.cases import Deployment, fit_config, write_config
from tests.deploy.test_runs import assert_bit_equal

ROSTER = {"site-a": (0, 1), "site-b": (2, 3)}


def make_secure(path):
    """The tiny configuration with four clients, of which the server is to see sums alone."""
    values = yaml.safe_load(path.read_text())
    values["data"]["init_args"]["clients_per_domain"] = 2
    values["federation"]["secure"] = True
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    found = Deployment(tmp_path, monkeypatch, ROSTER)
    make_secure(found.config)
    return found


def fit(folder):
    return fit_config(make_secure(write_config(folder / "run.yaml", enable_progress_bar=False)))


def test_a_secure_run_of_sites_equals_that_of_huscf_fit(deployment, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one")
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    assert deployment.lines.count("averages: secure sums") == 2
    assert not [line for line in deployment.lines if "nothing is averaged" in line]
    assert server.engine.notes == []

    # Nor would a site if the server asked for it.
    with pytest.raises(HuscfError, match="asks for blocks in the clear, and the run is secure"):
        sites[0]._do({"kind": "give", "blocks": [[0, "trained", "generator", 0]], "moments": False})
