"""How good synthetic samples are: scores, distances, downstream use. Plain torch."""

from .class_scores import (
    GenerationScore,
    LabelAccuracy,
    measure_generation_score,
    measure_label_accuracy,
)
from .classifier_training import ClassifierTraining
from .domain_classifier import DomainClassifier, Verdict
from .downstream_utility import ClassificationFigures, measure_downstream_utility
from .evaluation import EvaluationSettings, evaluate_samples
from .frechet_distance import FrechetDistance, Moments, measure_frechet_distance
from .held_out_distance import held_out_distance
from .inception_distances import InceptionFeatures, load_inception, measure_inception_distances
from .judge_cache import JudgeSettings, load_judge, train_judge
from .kernel_distance import KernelDistance, measure_kernel_distance
from .labelled_samples import LabelledSamples, RealData
from .nearest_real_ratio import NearestRealRatio, measure_nearest_distances
from .neighbour_scores import NeighbourScores, measure_neighbour_scores
from .real_reference import RealReference
from .spectral_distance import SpectralDistance

__all__ = [
    "ClassificationFigures",
    "ClassifierTraining",
    "DomainClassifier",
    "EvaluationSettings",
    "FrechetDistance",
    "GenerationScore",
    "InceptionFeatures",
    "JudgeSettings",
    "KernelDistance",
    "LabelAccuracy",
    "LabelledSamples",
    "Moments",
    "NearestRealRatio",
    "NeighbourScores",
    "RealData",
    "RealReference",
    "SpectralDistance",
    "Verdict",
    "evaluate_samples",
    "held_out_distance",
    "load_inception",
    "load_judge",
    "measure_downstream_utility",
    "measure_frechet_distance",
    "measure_generation_score",
    "measure_inception_distances",
    "measure_kernel_distance",
    "measure_label_accuracy",
    "measure_nearest_distances",
    "measure_neighbour_scores",
    "train_judge",
]
