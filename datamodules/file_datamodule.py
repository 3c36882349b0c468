"""The base of datamodules whose domains have one file per sample: pictures, recordings."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cache_folder import default_cache_dir
from ..errors import DataError, check_number
from ..user_paths import expand_path
from .bad_data import BadInput, settle_bad_data, summarize
from .domain import Domain
from .federated_datamodule import FederatedDataModule
from .held_out import hold_out
from .listing import FileKinds, LooksLikeData, list_source
from .sample_store import StoredSamples, store_samples
from .sources import (
    Source,
    SourceFile,
    check_numbering,
    drop_divided_patients,
    drop_lonely_keys,
    list_owners,
)


class FileDataModule(FederatedDataModule):
    """Decodes every file once, into a cache on disk that is memory-mapped.

    A subclass says which files there are and how one is decoded.

    Args:
        test_fraction: Part of each class to hold out where the source does not say which
            files are for testing; in (0, 0.5].
        cache_dir: Folder of the decoded samples; None takes the environment variable
            HUSCF_CACHE, else ~/.cache/huscf. It may be deleted at any time.
        kwargs: As in FederatedDataModule.

    Attributes:
        files: The usable files, by domain name; filled as the domains are loaded.
        bad_keys: How many files with a client key could not be used, by domain name and key.
    """

    def __init__(
        self,
        test_fraction: float = 0.2,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("data.test_fraction", test_fraction, 0, 0.5, is_open=True)
        self.test_fraction = test_fraction
        self.cache_dir = expand_path(cache_dir) if cache_dir else default_cache_dir()
        self.files: dict[str, list[SourceFile]] = {}
        self.bad_keys: dict[str, Counter[str]] = {}

    @abstractmethod
    def list_sources(self) -> list[Source]:
        """List the files of every domain."""

    @abstractmethod
    def read_sample(self, path: Path) -> torch.Tensor:
        """Decode one file to (C, S, S) uint8.

        Raises:
            BadSampleError: Where the file cannot be used.
        """

    def read_file(self, file: SourceFile) -> torch.Tensor:
        """Decode one sample; a subclass whose files hold several looks at file.frame, too."""
        return self.read_sample(file.path)

    def describe_file(self, file: SourceFile) -> str:
        """Return in a few words the size and depth of a file; "" where there is nothing to say."""
        return ""

    @abstractmethod
    def describe_reading(self) -> Mapping[str, Any]:
        """Return, as plain values, all settings that the result of read_sample depends on."""

    def load_domains(self) -> list[Domain]:
        """List, decode and check the files of every domain."""
        sources = self.list_sources()
        check_numbering(sources)
        return [self._load(source) for source in sources]

    def list_inside_root(
        self,
        sources: Mapping[str, str],
        suffixes: Sequence[str],
        classes: Sequence[str],
        looks_like_data: LooksLikeData | None = None,
        label_from: str | None = None,
    ) -> list[Source]:
        """List folders and CSV files that lie below root, by domain name; see list_source."""
        kinds = FileKinds(tuple(suffixes), looks_like_data)
        return [
            list_source(name, self.root, path, kinds, classes, label_from)
            for name, path in sources.items()
        ]

    def _load(self, source: Source) -> Domain:
        source = replace(source, files=hold_out(source.files, self.test_fraction))
        stored = store_samples(source, self.read_file, self.describe_reading(), self.cache_dir)
        usable = replace(source, files=stored.files, bad=source.bad + stored.bad)
        kept = drop_lonely_keys(drop_divided_patients(usable))
        left = {file.class_name for file in kept.files}
        lost = sorted({file.class_name for file in source.files} - left)
        kept.bad.extend(BadInput("class without usable files", name) for name in lost)
        settle_bad_data(f"{source.name} ({source.folder})", kept.bad, self.on_bad_data)
        self.bad_data[source.name] = kept.bad
        self.files[source.name] = kept.files
        self.bad_keys[source.name] = Counter(
            file.key for file in set(source.files) - set(kept.files) if file.key
        )
        if {file.is_test for file in kept.files} != {False, True}:
            left_out = f"; left out: {summarize(kept.bad)}" if kept.bad else ""
            raise DataError(
                f"{source.name} ({source.folder}): {len(kept.files)} usable files"
                f"{_count_patients(kept.files)} are too few to train on some and hold out others: "
                f"add files, or raise test_fraction{left_out}"
            )
        return _make_domain(kept, stored)


def _count_patients(files: Sequence[SourceFile]) -> str:
    patients = {file.patient for file in files if file.patient}
    return f" of {len(patients)} patients" if patients else ""


def _make_domain(source: Source, stored: StoredSamples) -> Domain:
    """Split the stored samples; those of dropped files belong to neither part."""
    kept = set(source.files)
    chosen = [row for row, file in enumerate(stored.files) if file in kept]
    train = [row for row in chosen if not stored.files[row].is_test]
    test = [row for row in chosen if stored.files[row].is_test]
    label_of = {name: label for label, name in enumerate(source.class_names)}
    labels = torch.tensor([label_of[file.class_name] for file in stored.files], dtype=torch.int64)
    owners = list_owners([stored.files[row] for row in train])
    keys = np.array([stored.files[row].key for row in train])
    return Domain(
        source.name,
        _take_rows(stored.samples, train),
        labels[train],
        _take_rows(stored.samples, test),
        labels[test],
        keys=keys if all(keys) else None,
        class_names=source.class_names,
        patients=None if owners is None else np.array(owners),
    )


def _take_rows(samples: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return samples[rows]; consecutive rows stay mapped from disk."""
    if rows and rows[-1] - rows[0] + 1 == len(rows):
        return samples[rows[0] : rows[-1] + 1]
    return samples[rows]
