"""What dependencies say of themselves, which tells a user of this tool nothing."""

import logging
import warnings


class _NoAdvertisement(logging.Filter):
    """Drops what advises to install another product."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        return "Tip: " not in str(record.msg)


_NO_ADVERTISEMENT = _NoAdvertisement()


def silence_dependencies() -> None:
    """Leave out Lightning's advertisements, and a deprecation that is a matter of its own."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_NO_ADVERTISEMENT)  # once, however often it is called
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
