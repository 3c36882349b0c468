"""How good synthetic samples are: scores, distances, downstream use. Plain torch."""

from .class_scores import GenerationScore, LabelAccuracy, generation_score, label_accuracy
from .classifier_training import ClassifierTraining
from .domain_classifier import DomainClassifier, Verdict
from .downstream_utility import ClassificationFigures, downstream_utility
from .evaluation import EvaluationSettings, evaluate_samples
from .frechet_distance import FrechetDistance, Moments, frechet_distance
from .inception_distances import inception_distances, load_inception
from .judge_cache import JudgeSettings, load_judge, train_judge
from .kernel_distance import KernelDistance, kernel_distance
from .labelled_samples import LabelledSamples, RealData, to_float, to_uint8
from .nearest_real_ratio import NearestRealRatio, nearest_distances
from .neighbour_scores import NeighbourScores, neighbour_scores
from .spectral_distance import SpectralDistance

__all__ = [
    "ClassificationFigures",
    "ClassifierTraining",
    "DomainClassifier",
    "EvaluationSettings",
    "FrechetDistance",
    "GenerationScore",
    "JudgeSettings",
    "KernelDistance",
    "LabelAccuracy",
    "LabelledSamples",
    "Moments",
    "NearestRealRatio",
    "NeighbourScores",
    "RealData",
    "SpectralDistance",
    "Verdict",
    "downstream_utility",
    "evaluate_samples",
    "frechet_distance",
    "generation_score",
    "inception_distances",
    "kernel_distance",
    "label_accuracy",
    "load_inception",
    "load_judge",
    "nearest_distances",
    "neighbour_scores",
    "to_float",
    "to_uint8",
    "train_judge",
]
