"""README.md beside samples or an exported model: what they are, of which run, how good they are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import make_printable
from ..provenance import Entry, describe_process
from ..sampling import SavedGAN
from .audit_figures import read_findings
from .card_facts import UNKNOWN_LICENCE, CardFacts
from .markdown import escape_markdown, make_markdown_table
from .run_record import RunRecord
from .score_columns import ScoreColumns, tabulate_scores

#: Hubs sort data sets by these numbers of samples.
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MAX_AUDIT_ROWS = 60
MAX_CLASSES = 100

MEMORISATION = """\
The nearest real ratio is the mean distance of a sample to the nearest training sample, divided by
that of real samples which nobody trained on: 0 is copies, about 1 is as far away as new real data.
Blurred samples fall below 1 too."""

LIMITS = """\
- These are draws from a model, no measurements: they repeat its errors and the biases of its data.
- Not for decisions about single people, such as diagnoses.
- Nothing here is a proof of privacy. The figures above say what was checked, and no more."""

PRIVATE_LIMIT = """
- Differential privacy covers what was trained, not the figures here, which records give as well:
  take them out before this file is given away, where that matters."""

USES = {
    "samples": "Trying out methods and pipelines, teaching, and adding to real training data where "
    "a check on real test data shows that it helps.",
    "model": "Drawing synthetic samples for trying out methods, for teaching, and for adding to "
    "real training data where a check on real test data shows that it helps.",
}


def render_card(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> str:
    """Return the Markdown of a card, with a head of YAML as hubs read it.

    No path, no name of a file of real data and no name of a client is in it; names of domains and
    classes are.

    Args:
        facts: What lies beside it.
        saved: The trained GAN.
        run: The files of its run; None where they are not at hand.
    """
    sections = [
        ("", _introduce(facts, saved, run)),
        ("Files", make_markdown_table(("file", "content"), facts.files)),
        ("Use", f"```python\n{facts.use}\n```"),
        ("Trained on", _describe_data(facts, saved, run)),
        ("How good it is", _describe_scores(facts, saved, run)),
        ("Memorisation check", _describe_memorisation(facts, saved, run)),
        ("Audit", _describe_audit(run)),
        ("Intended use", USES[facts.kind]),
        ("Limits", LIMITS + (PRIVATE_LIMIT if _is_private(saved) else "")),
        ("Licence", _describe_licence(facts.licence)),
        ("How it was made", _describe_making(saved, run)),
    ]
    body = "\n\n".join(f"## {heading}\n\n{text}" if heading else text for heading, text in sections)
    head = yaml.safe_dump(_make_head(facts, saved, run), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {escape_markdown(facts.title)}\n\n{body}\n"


def _make_head(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> dict[str, Any]:
    is_sound = saved.spectrogram is not None
    head: dict[str, Any] = {"license": facts.licence, "tags": ["synthetic", "huscf"]}
    if facts.kind == "samples":
        head["pretty_name"] = make_printable(facts.title)
        head["task_categories"] = ["audio-classification" if is_sound else "image-classification"]
        size = next((name for limit, name in SIZES if facts.num_samples < limit), "1M<n<10M")
        return {**head, "size_categories": [size]}
    head["library_name"] = "pytorch"
    return head if is_sound else {**head, "pipeline_tag": "unconditional-image-generation"}


def _introduce(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> str:
    module = saved.module
    crossed = ", ".join(sorted(kind.replace("_", " ") for kind in module.method.kinds))
    named = "a run" if run is None else f"run {escape_markdown(run.name)}"
    of = f"{len(facts.members)} of the {len(module.clusters)} clients of {named}"
    subject = f"A generator of {_describe_kind(saved)} from noise and labels, that of {of}."
    if facts.kind == "samples":
        subject = f"{facts.num_samples} synthetic {_describe_kind(saved)}, drawn by {of}."
    return (
        f"{subject} Trained with huscf by the method {type(module.method).__name__} for "
        f"{module.num_rounds} rounds. Between clients and server may cross: {crossed}."
    )


def _describe_kind(saved: SavedGAN) -> str:
    shape = saved.module.sample_shape
    size = f"{shape.image_size} x {shape.image_size} pixels"
    if saved.spectrogram is not None:
        seconds, rate = saved.spectrogram.duration_s, saved.spectrogram.sample_rate
        return f"sounds of {seconds:g} s at {rate} Hz, through spectrograms of {size},"
    return f"{'colour' if shape.channels > 1 else 'grey'} pictures of {size}"


def _describe_data(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> str:
    """Data sets and counts of those clients whose generators these are, by domain."""
    clients = Counter(saved.domains.get(client, "") for client in facts.members)
    samples: Counter[str] = Counter()
    for record in run.clients if run is not None else ():
        if record["client"].isdecimal() and int(record["client"]) in set(facts.members):
            samples[saved.domains.get(int(record["client"]), "")] += _count(record)
    rows = []
    for domain, count in clients.items():
        names = saved.domain_class_names.get(domain) or saved.class_names
        shown = ", ".join(names[:MAX_CLASSES]) + (", ..." if len(names) > MAX_CLASSES else "")
        rows.append([domain or "-", str(count), str(samples[domain] or "-"), shown or "-"])
    table = make_markdown_table(("domain", "clients", "training samples", "classes"), rows)
    data = saved.config.get("data")
    path = data.get("class_path") if isinstance(data, Mapping) else data
    source = f"Data: {escape_markdown(str(path).rpartition('.')[2])}.\n\n" if path else ""
    return source + table


def _count(record: Mapping[str, str]) -> int:
    text = record.get("num_samples", "")
    return int(text) if text.isdecimal() else 0


def _tabulate(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> ScoreColumns | None:
    """Return the scores of the members' domains: others are nobody's business here."""
    domains = {saved.domains[client] for client in facts.members if client in saved.domains}
    return None if run is None else tabulate_scores(run, domains or None)


def _describe_scores(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> str:
    table = _tabulate(facts, saved, run)
    if run is None or table is None:
        return "Not measured; `huscf test` does."
    notes = " ".join(table.notes)
    last = run.scores.get("round", run.last().get("round"))
    if last is not None and last != saved.module.num_rounds:
        notes += (
            f" This is of round {saved.module.num_rounds}, so the figures are of another state."
        )
    return f"{make_markdown_table(table.headings, table.rows)}\n\n{escape_markdown(notes)}"


def _describe_memorisation(facts: CardFacts, saved: SavedGAN, run: RunRecord | None) -> str:
    table = _tabulate(facts, saved, run)
    rows = [] if table is None else [row for row in table.rows if row[0] == "nearest real ratio"]
    if table is None or not rows:
        return "Not measured; `huscf test` does."
    return f"{make_markdown_table(table.headings, rows)}\n\n{MEMORISATION}"


def _describe_audit(run: RunRecord | None) -> str:
    """The findings of audit.json, a row each."""
    found = None if run is None else read_findings(run.folder)
    if found is None:
        return "None was made."
    rows = [
        [
            *(str(finding.get(key, "")) for key in ("attack", "adversary", "place")),
            *(_brief(finding.get(key)) for key in ("trained", "untrained", "chance")),
        ]
        for finding in found[:MAX_AUDIT_ROWS]
    ]
    headings = ("attack", "adversary", "where", "this run", "an untrained run", "chance")
    return make_markdown_table(headings, rows)


def _brief(figures: Any) -> str:
    if not isinstance(figures, Mapping):
        return "-"
    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    return ", ".join(f"{str(k).replace('_', ' ')} {v:.3g}" for k, v in numbers.items()) or "-"


def _describe_licence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return "Not stated: whoever passes this on has to, in the head of this file (`license`)."
    return licence


def _describe_making(saved: SavedGAN, run: RunRecord | None) -> str:
    entries = run.provenance if run is not None else []
    rows = [] if run is None else [("run", run.name)]
    seed = str(saved.config.get("seed_everything", "-"))
    if _is_private(saved):
        seed = "kept back: the noise of differential privacy follows from it"
    rows.append(("seed", seed))
    rows += [(f"training, {key.replace('_', ' ')}", text) for key, text in _merge(entries).items()]
    now = describe_process()
    written = ", ".join(f"{key} {now[key]}" for key in ("huscf", "torch"))
    rows.append(("written by", f"{written}, commit {now['commit']}" if now["commit"] else written))
    return make_markdown_table(("", ""), rows)


def _is_private(saved: SavedGAN) -> bool:
    """Return whether records, or whole clients, were kept private."""
    sections = (saved.config["model"], saved.config.get("federation") or {})
    return any(section.get("privacy") is not None for section in sections)


def _merge(entries: Sequence[Entry]) -> Entry:
    """Return what a run's starts say; where they differ, all of it. Commands may hold paths."""
    keys = ("date", "huscf", "commit", "python", "torch", "lightning", "cpu", "cores", "gpu")
    merged = {}
    for key in keys:
        values = dict.fromkeys(entry[key] for entry in entries if entry.get(key))
        if values:
            merged[key] = ", then ".join(values)
    return merged
