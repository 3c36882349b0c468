"""What a run gives away, measured: attacks by the server, by cluster members and by anybody."""

from .attacked_run import AttackedRun, Seen
from .audit import audit_run
from .audit_report import draw_pictures, make_tables, write_json
from .findings import Audit, AuditSettings, Finding
from .run_data import load_data

__all__ = [
    "AttackedRun",
    "Audit",
    "AuditSettings",
    "Finding",
    "Seen",
    "audit_run",
    "draw_pictures",
    "load_data",
    "make_tables",
    "write_json",
]
