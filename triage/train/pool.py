"""Worker processes that do jobs in order; knows nothing of what the jobs are.

A worker that dies ends the pool with one error; Ctrl-C ends the workers; those whose parent was killed end themselves.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Any, TypeVar

import torch

from triage.dicom.pixels import Decoder
from triage.errors import TrainingError
from triage.train.children import end_with_parent

Job = TypeVar("Job")
Answer = TypeVar("Answer")

DECODE_TIMEOUT_S = 20.0
"""Time limit for one compressed frame."""

AHEAD = 3
"""Jobs a worker that are handed out before the oldest is done: answers wait in memory, 5 MB each."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a job works with, one for each process."""

    decoder: Decoder
    is_stopped: Callable[[], bool] = lambda: False
    """Whether nobody wants the answer any more."""


_worker: Worker | None = None


class Pool:
    """Worker processes, from entering the context to leaving it; with one worker, this process."""

    def __init__(self, workers: int) -> None:
        """Make a pool.

        Args:
            workers: Processes; 0: one a core.
        """
        self.workers = workers or os.cpu_count() or 1
        self._own = Worker(Decoder(DECODE_TIMEOUT_S))
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads without running them
        self._stop = context.Event()
        self._executor = ProcessPoolExecutor(self.workers, context, _begin, (self._stop,))

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._own.decoder.close()

    def map(self, work: Callable[[Job, Worker], Answer], jobs: Iterable[Job]) -> Iterator[Answer]:
        """Do jobs.

        Args:
            work: A function of a module.
            jobs: In order.

        Returns:
            The answers, in the order of the jobs.

        Raises:
            TrainingError: A worker process died.
        """
        if self.workers == 1:
            for job in jobs:
                yield work(job, self._own)
            return
        waiting: deque[Future[Answer]] = deque()
        try:
            for job in jobs:
                with _without_interrupts():
                    waiting.append(self._executor.submit(_do, work, job))
                if len(waiting) > AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as e:
            raise TrainingError(
                "a worker process was killed, perhaps for want of memory; run the same again, it goes on"
                " (fewer --workers need less memory)"
            ) from e


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C is the parent's to handle: processes that start now ignore it from their first instruction."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(stop: Event) -> None:
    """Begin the life of a worker process."""
    global _worker  # the only way from an initializer to the jobs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    end_with_parent()
    _worker = Worker(Decoder(DECODE_TIMEOUT_S), stop.is_set)


def _do(work: Callable[[Any, Worker], Answer], job: Any) -> Answer:
    assert _worker is not None
    return work(job, _worker)
