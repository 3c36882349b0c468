"""What a run's folder shows: tables, charts, the run's page, and several runs side by side."""

from .client_records import describe_clients
from .comparison import draw_comparison, print_comparison
from .page import write_page
from .run_record import RunRecord, write_clients
from .scores import make_evaluation_table, make_score_tables, summarize_scores
from .usefulness import make_published_table, make_usefulness_table

__all__ = [
    "RunRecord",
    "describe_clients",
    "draw_comparison",
    "make_evaluation_table",
    "make_published_table",
    "make_score_tables",
    "make_usefulness_table",
    "print_comparison",
    "summarize_scores",
    "write_clients",
    "write_page",
]
