"""Where judges and decoded samples are kept from one run to the next."""

import os
from pathlib import Path

from .errors import HuscfError


def default_cache_dir() -> Path:
    """Return $HUSCF_CACHE, or ~/.cache/huscf where that is not set.

    Raises:
        HuscfError: Where the user has no home directory.
    """
    try:
        return Path(os.environ.get("HUSCF_CACHE") or "~/.cache/huscf").expanduser()
    except RuntimeError as error:
        raise HuscfError("cache folder: there is no home directory; set HUSCF_CACHE") from error
