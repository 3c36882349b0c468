"""Processes as threads: what one sends the others is packed as between processes."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist

from huscf.engines import RankedEngine, Ranks


class Exchange:
    """Where the threads of a run meet."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=30)
        self.given = [None] * size
        self.sent = {(a, b): queue.Queue() for a in range(size) for b in range(size)}

    def all_give(self, rank, tensor):
        self.given[rank] = tensor.clone()
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found


class ThreadRanks(Ranks):
    """One of several threads that stand for processes."""

    def __init__(self, rank, size, exchange):
        self.rank, self.size, self.exchange = rank, size, exchange

    def _call(self, collective, *arguments):
        if collective is dist.all_gather:
            every, own = arguments
            for target, arrived in zip(every, self.exchange.all_give(self.rank, own), strict=True):
                target.copy_(arrived)
        elif collective is dist.send:
            tensor, target = arguments
            self.exchange.sent[self.rank, target].put(tensor.clone())
        elif collective is dist.recv:
            tensor, source = arguments
            tensor.copy_(self.exchange.sent[source, self.rank].get(timeout=30))
        else:
            assert collective is dist.broadcast
            tensor, source = arguments
            arrived = self.exchange.all_give(self.rank, tensor)[source]
            if self.rank != source:
                tensor.copy_(arrived)


def run_on_ranks(modules, work):
    """Let every module be a process's, and call work(module) in all at once.

    Returns:
        What each returned. An error is raised once all are through.
    """
    exchange = Exchange(len(modules))

    def run(rank):
        module = modules[rank]
        torch.set_grad_enabled(True)
        if not isinstance(module.engine, RankedEngine):
            module.engine.uses_threads = False
            module.spread_over(ThreadRanks(rank, len(modules), exchange))
        else:
            module.engine.ranks.exchange = exchange
        return work(module)

    with ThreadPoolExecutor(len(modules)) as pool:
        futures = [pool.submit(run, rank) for rank in range(len(modules))]
    return [future.result() for future in futures]
