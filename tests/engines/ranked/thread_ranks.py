"""Processes as threads: what one sends the others is packed as between processes."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist

from huscf.engines import RankedEngine, Ranks
from huscf.engines.ranked.client_state import read_blocks, read_moments, sort_moments


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


class OpenEngine(RankedEngine):
    """Shows every process all clients after each call, so that a test may look anywhere.

    What it shows is freed when clients train, like all that is shown of other processes' clients.
    """

    def run_step(self, batches, step):
        result = super().run_step(batches, step)
        self.show_all()
        return result

    def mix(self, mixture):
        super().mix(mixture)
        self.show_all()

    def apply_plan(self, plan):
        moves = super().apply_plan(plan)
        self.show_all()
        return moves

    def show_all(self):
        for client_id, source in sorted(self._owners.items()):
            client, is_own = self.client(client_id), source == self.ranks.rank
            own = read_blocks(client, False)
            _, blocks = self.ranks.broadcast(source, (None, own) if is_own else None)
            moments = self.ranks.broadcast(source, read_moments(client) if is_own else None)
            if not is_own:
                self._guests.add(client_id)
                for tensor, shown in zip(own, blocks, strict=True):
                    tensor.data = shown
                for optimizer in client.optimizers.values():
                    optimizer.state.clear()
                client.set_optimizer_state(sort_moments(client, moments))
                client.shares_memory = False


#: Of a thread that stands for a process: its number, how many there are, and where they meet.
_here = threading.local()


def spread(module):
    """Let a module's clients be shared out over the threads that run a test; one has one client."""
    rank, size, exchange = _here.place
    if len(module.plan.client_ids) < size:
        rank, size, exchange = 0, 1, Exchange(1)
    exchange.barrier.wait()  # what follows restores torch's one random stream: none draws now
    module.engine.uses_threads = False
    module.spread_over(ThreadRanks(rank, size, exchange))
    module.engine.__class__ = OpenEngine
    return module


def call_on_ranks(test, size=2):
    """Let several threads that stand for processes run a test, each all of it."""
    exchange = Exchange(size)

    def run(rank):
        _here.place = rank, size, exchange
        torch.set_grad_enabled(True)
        try:
            test()
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error


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
