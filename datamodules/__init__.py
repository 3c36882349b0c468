"""Data of federated clients: the base class, and one file per family of data."""

from .client_batches import ClientBatch, ClientBatches
from .digits import DigitsDataModule
from .domain import ClientData, Domain, scale_samples
from .federated_datamodule import FederatedDataModule
from .partitions import IidPartitioner, Partitioner

__all__ = [
    "ClientBatch",
    "ClientBatches",
    "ClientData",
    "DigitsDataModule",
    "Domain",
    "FederatedDataModule",
    "IidPartitioner",
    "Partitioner",
    "scale_samples",
]
