import os
from pathlib import Path

import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def shared_data():
    """The small real sets beside the checkout, or those of HUSCF_DATA."""
    root = Path(os.environ.get("HUSCF_DATA") or CHECKOUT.parent / "shared" / "data")
    if not (root / "MNIST").is_dir():
        pytest.skip(f"no real data in {root}")
    return root


@pytest.fixture(autouse=True)
def no_private_folders(monkeypatch, tmp_path_factory):
    """Nothing is read from or written to the user's own folders."""
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("HUSCF_DATA", raising=False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
