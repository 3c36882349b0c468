"""What samples of a domain are measured against, worked out once for however many sets of them."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .class_scores import measure_generation_score
from .domain_classifier import DomainClassifier
from .frechet_distance import compare_features
from .inception_distances import InceptionFeatures
from .kernel_distance import mean_kernel_of_others
from .labelled_samples import LabelledSamples, RealData
from .nearest_real_ratio import NearestRealRatio
from .neighbour_scores import kth_distances

Found = TypeVar("Found")


class RealReference:
    """One domain's real data and judge, with every figure that no synthetic sample changes.

    A figure is worked out when it is first asked for, and then kept: of several sets of samples
    measured against the same reference only the first pays for it.

    Args:
        real: The domain's data; distances are to its test split.
        judge: The domain's classifier, from `load_judge`.
        seed: Of the choice of real samples where only some are used: the same for all sets.
    """

    def __init__(self, real: RealData, judge: DomainClassifier, seed: int = 0) -> None:
        self.real = real
        self.judge = judge
        self.seed = seed
        self._known: dict[Hashable, Any] = {}

    def test(self, max_samples: int) -> LabelledSamples:
        """Return at most so many test samples."""
        return self.real.test.at_most(max_samples, self.seed)

    def test_features(self, max_samples: int) -> Tensor:
        """Return the judge's features of at most so many test samples, (N, D)."""
        count = min(max_samples, len(self.real.test))
        return self._once(("features", count), lambda: self._inspect(self.test(count)))

    def frechet_distance(self, max_samples: int, count: int) -> float:
        """Return the Frechet distance of training samples to the test samples.

        Of at most `count` training samples, with the classes as frequent as among the test samples.
        """
        test = self.test_features(max_samples)
        return self._once(
            ("frechet", len(test), count),
            lambda: compare_features(test, self._inspect(self._train_like(max_samples, count))),
        )

    def generation_score(self, max_samples: int) -> float:
        """Return the generation score of at most so many test samples."""
        test = self.test_features(max_samples)
        return self._once(
            ("score", len(test)),
            lambda: measure_generation_score(self.judge.head(test).softmax(1)),
        )

    def kernel(self, max_samples: int) -> Tensor:
        """Return the mean kernel between different test samples; see `measure_kernel_distance`."""
        test = self.test_features(max_samples)
        return self._once(("kernel", len(test)), lambda: mean_kernel_of_others(test))

    def radii(self, max_samples: int, k: int) -> Tensor:
        """Return each test sample's distance to its k-th neighbour, (N,)."""
        test = self.test_features(max_samples)
        # Centred as measure_neighbour_scores does it, so that rounding is the same too.
        return self._once(("radii", len(test), k), lambda: kth_distances(test - test.mean(0), k))

    def nearest_real_ratio(self, max_samples: int) -> NearestRealRatio:
        """Return the metric, empty, with the distances of at most so many test samples in it."""
        count = min(max_samples, len(self.real.test))
        metric = self._once(("nearest", count), lambda: self._make_ratio(count))
        metric.reset()
        return metric

    def inception_features(self, inception: InceptionFeatures) -> Tensor:
        """Return Inception's features of at most inception.max_samples test samples, (N, 2048)."""
        return self._once(
            inception,
            lambda: inception.extract(self.test(inception.max_samples).to(self.judge.device)),
        )

    def _inspect(self, data: LabelledSamples) -> Tensor:
        return self.judge.inspect(data).features

    def _train_like(self, max_samples: int, count: int) -> LabelledSamples:
        train = self.real.train
        return train.select(train.rows_like(self.test(max_samples).labels, count, self.seed))

    def _make_ratio(self, count: int) -> NearestRealRatio:
        test = self.test(count)
        samples = test.samples.to(self.judge.device)
        return NearestRealRatio(self.real.train.samples, samples).to(samples.device)

    @torch.no_grad()
    def _once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]
