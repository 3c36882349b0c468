import re
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY, SHARED_DATA


@pytest.fixture
def shared_data():
    """The small real sets beside the checkout, or those of HUSCF_DATA."""
    root = SHARED_DATA
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


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder of a user's own, with the guide's stripes.py and stripes.yaml as printed."""
    guide = (REPOSITORY / "docs" / "datamodules.md").read_text()
    for language, name in (("python", "stripes.py"), ("yaml", "stripes.yaml")):
        block = re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)[-1]
        (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("stripes", None)
