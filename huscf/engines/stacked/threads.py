"""Several groups of clients at once: threads over groups instead of threads inside operators."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

GroupT = TypeVar("GroupT")
ResultT = TypeVar("ResultT")

#: More threads than this wait for Python's lock more than they compute.
MAX_THREADS = 8

#: Groups get threads of their own where these are busy for at least this part of the time.
MIN_BUSY = 0.85


class GroupThreads:
    """Decides between both kinds of threads and runs groups accordingly.

    Which thread runs which group depends on the numbers of groups and threads alone, so that
    sums taken per thread are the same every time.
    """

    def __init__(self) -> None:
        self.total = torch.get_num_threads()

    def count(self, num_groups: int, device: torch.device) -> int:
        """Return how many groups to run at once; 1 leaves the threads to the operators."""
        limit = min(self.total, num_groups, MAX_THREADS)
        if device.type != "cpu" or limit < 2:
            return 1
        busy = num_groups / (limit * -(-num_groups // limit))
        return limit if busy >= MIN_BUSY else 1

    @contextmanager
    def shared_out(self, count: int) -> Iterator[None]:
        """Leave one thread to the caller's operators while `count` threads run groups.

        Work between groups passes over memory once, which two threads do no faster. On a busy
        machine they would wait for each other at each of thousands of small tensors.
        """
        if count > 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self.total)

    def run(
        self, work: Callable[[Sequence[GroupT]], ResultT], groups: Sequence[GroupT], count: int
    ) -> list[ResultT]:
        """Call work once per thread with that thread's groups, in fixed order.

        Args:
            work: Gets every count-th group.
            groups: In fixed order.
            count: From `count`; 1 calls work in this thread.
        """
        mixed = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run_part(part: Sequence[GroupT]) -> ResultT:
            # Weights that autocast had cached would miss an optimiser's step inside the context.
            with torch.autocast("cpu", mixed[1], enabled=mixed[0], cache_enabled=False):
                return work(part)

        if count == 1:
            return [run_part(groups)]
        pool = _make_pool(count, max(1, self.total // count))
        futures = [pool.submit(run_part, groups[which::count]) for which in range(count)]
        return [future.result() for future in futures]


@cache
def _make_pool(count: int, inner_threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads have so many threads inside operators; kept for the process."""
    before = torch.get_num_threads()
    all_have_begun = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(inner_threads)
        # PyTorch gives a thread the number set last, by whichever thread, when it first asks.
        torch.get_num_threads()
        all_have_begun.wait()

    pool = ThreadPoolExecutor(count, "huscf", initializer=begin)
    for _ in range(count):
        pool.submit(int)
    all_have_begun.wait()
    torch.set_num_threads(before)
    return pool
