"""Which files are held out for testing where a source does not say so."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from .sources import SourceFile, list_owners


def hold_out(files: Sequence[SourceFile], test_fraction: float) -> list[SourceFile]:
    """Hold out this part of each class, evenly spread over its files, and at least one of two.

    Patients, and files with several pictures, are held out as a whole, each counted in the class
    that most of its samples have. Returns the files as they are where some are held out already;
    training files come first.
    """
    if not any(file.is_test for file in files):
        owners = list_owners(files)
        if owners is None:
            files = _hold_out_files(files, test_fraction)
        else:
            files = _hold_out_whole(files, owners, test_fraction)
    return sorted(files, key=lambda file: file.is_test)


def _hold_out_files(files: Sequence[SourceFile], test_fraction: float) -> list[SourceFile]:
    counts = Counter(file.class_name for file in files)
    rank: Counter[str] = Counter()
    marked = []
    for file in files:
        name = file.class_name
        rank[name] += 1
        before, now = (int(round(n * test_fraction, 9)) for n in (rank[name] - 1, rank[name]))
        is_only = rank[name] == counts[name] > 1 and now == 0
        marked.append(file._replace(is_test=now > before or is_only))
    return marked


def _hold_out_whole(
    files: Sequence[SourceFile], owners: Sequence[str], test_fraction: float
) -> list[SourceFile]:
    """Hold out all files of an owner, or none."""
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for file, owner in zip(files, owners, strict=True):
        classes[owner][file.class_name] += 1
    of_class: dict[str, dict[str, int]] = defaultdict(dict)
    for owner, counts in classes.items():
        of_class[counts.most_common(1)[0][0]][owner] = counts.total()
    held_out = {o for sizes in of_class.values() for o in _choose(sizes, test_fraction)}
    return [
        file._replace(is_test=owner in held_out) for file, owner in zip(files, owners, strict=True)
    ]


def _choose(sizes: dict[str, int], fraction: float) -> set[str]:
    """Choose owners whose sizes together come near the fraction, and at least one of two."""
    chosen: set[str] = set()
    seen = taken = 0
    for owner, size in sizes.items():
        seen += size
        if seen * fraction - taken >= size / 2 and len(chosen) < len(sizes) - 1:
            chosen.add(owner)
            taken += size
    if not chosen and len(sizes) > 1:
        chosen.add(min(sizes, key=lambda owner: sizes[owner]))
    return chosen
