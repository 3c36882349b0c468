"""Lightning callbacks: thin adapters that decide, compute, and apply."""

from ..training import RoundResult
from .activity_lines import ActivityLines
from .base import RoundCallback, end_round, is_last_epoch
from .best_round import BestRound
from .budget import Budget
from .closing_summary import ClosingSummary
from .clustered_federation import ClusteredFederation
from .evaluation import Evaluation
from .federation_log import FederationLog
from .media_log import MediaLog
from .replanning import Replanning
from .round_progress_bar import RoundProgressBar
from .rounds import RoundCheckpoint, RoundEarlyStopping
from .run_folder import RunFolder
from .run_report import RunReport
from .sample_grid import SampleGrid
from .score_table import ScoreTable
from .split_training import SplitTraining
from .wandb_log import WandbLog

__all__ = [
    "ActivityLines",
    "BestRound",
    "Budget",
    "ClosingSummary",
    "ClusteredFederation",
    "Evaluation",
    "FederationLog",
    "MediaLog",
    "Replanning",
    "RoundCallback",
    "RoundCheckpoint",
    "RoundEarlyStopping",
    "RoundProgressBar",
    "RoundResult",
    "RunFolder",
    "RunReport",
    "SampleGrid",
    "ScoreTable",
    "SplitTraining",
    "WandbLog",
    "end_round",
    "is_last_epoch",
]
