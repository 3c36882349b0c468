"""Data of federated clients: the base classes, and one file per family of data."""

from .audio import AudioDataModule, AudioFolderDataModule, SpokenDigitsDataModule
from .augmentation import Augmentation
from .bad_data import BadInput, BadSampleError
from .client_batches import ClientBatch, ClientBatches, LabelSampling
from .digits import DigitsDataModule
from .domain import ClientData, Domain, scale_samples
from .federated_datamodule import FederatedDataModule
from .file_datamodule import FileDataModule
from .folder import FolderDataModule
from .image import ImageDataModule
from .log_mel import LogMel
from .npz import MedicalDataModule, NpzDataModule
from .partitions import (
    DirichletPartitioner,
    IidPartitioner,
    LabelExclusionPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    QuantitySkewPartitioner,
)
from .recordings import write_recording
from .shapes import fit_samples
from .sources import Source, SourceFile

__all__ = [
    "AudioDataModule",
    "AudioFolderDataModule",
    "Augmentation",
    "BadInput",
    "BadSampleError",
    "ClientBatch",
    "ClientBatches",
    "ClientData",
    "DigitsDataModule",
    "DirichletPartitioner",
    "Domain",
    "FederatedDataModule",
    "FileDataModule",
    "FolderDataModule",
    "IidPartitioner",
    "ImageDataModule",
    "LabelExclusionPartitioner",
    "LabelSampling",
    "LogMel",
    "MedicalDataModule",
    "NaturalIdPartitioner",
    "NpzDataModule",
    "Partitioner",
    "QuantitySkewPartitioner",
    "Source",
    "SourceFile",
    "SpokenDigitsDataModule",
    "fit_samples",
    "scale_samples",
    "write_recording",
]
