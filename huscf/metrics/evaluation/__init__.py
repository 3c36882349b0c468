"""What measures a sampler: one domain's samples, its draws and clients, and all domains."""

from .domain_evaluator import DomainEvaluator, RealDomain
from .domain_scores import DomainScores, Effort, score_domain
from .draws import Draws
from .paper_protocol import PUBLISHED_BUDGET, PublishedResult, find_published
from .sample_figures import evaluate_samples
from .sampler import Sampler, draw_samples
from .score_book import EvaluatedData, ScoreBook, TestProtocol
from .settings import EvaluationSettings
from .yardsticks import OwnData, Yardsticks

__all__ = [
    "PUBLISHED_BUDGET",
    "DomainEvaluator",
    "DomainScores",
    "Draws",
    "Effort",
    "EvaluatedData",
    "EvaluationSettings",
    "OwnData",
    "PublishedResult",
    "RealDomain",
    "Sampler",
    "ScoreBook",
    "TestProtocol",
    "Yardsticks",
    "draw_samples",
    "evaluate_samples",
    "find_published",
    "score_domain",
]
