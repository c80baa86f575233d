"""Phantoms that a run never sees twice: those of the next epochs are made while this one trains; knows no network.

    processes of their own: seeds of epoch e + 1 -> a cache folder --> fit trains epoch e + 1 on it, then it is deleted

Seed of the run and epoch alone decide an epoch's phantoms, so a resumed run trains on what it would have trained on.
"""

import itertools
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from triage.errors import TrainingError
from triage.phantom import VERSION, WIDE, PhantomSpec
from triage.records import ANY, LABELS
from triage.train.cache import MANIFEST, Cache, CachedSlice, CacheWriter, Frame, Index, Rows, open_cache
from triage.train.children import end_with_parent
from triage.train.data import frame_of
from triage.train.phantoms import (
    Job,
    Made,
    PhantomData,
    give_way,
    inputs_of,
    manifest_of,
    spec_of,
    studies,
    study_slices,
)
from triage.train.recipe import MOST_FRESH
from triage.train.recipes import Recipe

RUN_SEEDS = 10_000 * MOST_FRESH
"""Seeds of a run, apart from those of other runs and, as a run's seed is added to 1, from those of every cache."""

AHEAD = 2
"""Epochs whose phantoms lie on the disk at once: the one that trains and the next."""

POLL_S = 0.2

END_S = 10.0
"""Processes told to stop end after the phantoms in hand, or are ended after so long."""


@dataclass(frozen=True, slots=True)
class Order:
    """Which phantoms a run's epochs train on."""

    folder: Path
    """Of the epochs' caches; emptied at the beginning and at the end."""
    frame: Frame
    studies: int
    """An epoch."""
    seed: int
    """Of the run."""
    spec: PhantomSpec

    def data(self, epoch: int) -> PhantomData:
        """Phantoms of an epoch, from 0."""
        first = (1 + self.seed) * RUN_SEEDS + epoch * MOST_FRESH
        return PhantomData(range(first, first + self.studies), self.frame, self.spec)

    def facts(self, epochs: int) -> dict[str, Any]:
        """What run.json says of them: for a person, and by what a resumed run knows them."""
        first, last = self.data(0).seeds, self.data(max(epochs, 1) - 1).seeds
        told = (
            f"{self.studies} phantoms an epoch, made while it trained (triage.phantom {VERSION}, profile "
            f"{self.spec.profile.name}): seeds from {first.start}, the last epoch's to {last.stop - 1}"
        )
        return {"fresh": inputs_of(self.data(0)), "fresh_source": told}


def order_of(recipe: Recipe, folder: Path, spec: PhantomSpec | None = None) -> Order:
    """The phantoms that a recipe trains on.

    Args:
        recipe: With `fresh`.
        folder: For the epochs' caches.
        spec: What to make; None: heads of the profile WIDE.

    Returns:
        The order.
    """
    return Order(folder, frame_of(recipe.preprocessing), recipe.fresh, recipe.seed, spec or spec_of(WIDE))


def asked_rows(recipe: Recipe, index: Index) -> Rows:
    """Slices that a recipe's heads are asked about: all, or for the subtypes those that bleed."""
    asked = index.labels[:, LABELS.index(ANY)] if recipe.kind == "subtype" else np.ones(len(index), bool)
    rows: Rows = np.flatnonzero(asked)
    return rows


class Fresh:
    """The processes that make a run's phantoms, from entering the context to leaving it."""

    def __init__(self, order: Order, workers: int = 0, background: bool = True) -> None:
        """Keep the order; starts nothing.

        Args:
            order: What to make.
            workers: Processes; 0: one a core but one.
            background: False: this process makes an epoch's phantoms when they are asked for.
        """
        self.order = order
        self.workers = workers or max((os.cpu_count() or 1) - 1, 1)
        self._background = background
        self._process: BaseProcess | None = None
        self._room: Semaphore | None = None
        self._stop: Event | None = None
        self._next = -1

    def __enter__(self) -> "Fresh":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def start(self, epoch: int) -> None:
        """Begin to make the phantoms of an epoch and of those after it; `chunk` does it where it was not done."""
        self._end()
        self._next = epoch
        if self._background:
            context = get_context("spawn")
            self._room, self._stop = context.Semaphore(AHEAD), context.Event()
            job = (self.order, self.workers, epoch, (self._room, self._stop))
            self._process = context.Process(target=_make, args=job, name="phantoms")
            self._process.start()

    def chunk(self, epoch: int, look: Callable[[], None] = lambda: None) -> Cache:
        """Phantoms of an epoch, waited for where they are not there yet.

        Args:
            epoch: From 0; after the last one, or another to begin anew with.
            look: Called while waiting; what it raises goes through.

        Returns:
            Their cache.

        Raises:
            TrainingError: The processes that make them have ended.
        """
        if epoch != self._next:
            self.start(epoch)
        folder = _folder(self.order, epoch)
        while not (folder / MANIFEST).exists():
            look()
            if self._process is None:
                with studies(self.order.data(epoch), 1, spared) as made:
                    _make_epoch(self.order, epoch, made(self.order.data(epoch).seeds), lambda: False)
            elif not self._process.is_alive():
                raise TrainingError(
                    f"the processes that make phantoms ended (code {self._process.exitcode}, their own words are "
                    "above): memory or disk may be full; go on with --resume"
                )
            else:
                self._process.join(POLL_S)
        return open_cache(folder)

    def used(self, epoch: int) -> None:
        """Delete the phantoms of an epoch, for which there is no more need."""
        shutil.rmtree(_folder(self.order, epoch), ignore_errors=True)
        self._next = epoch + 1
        if self._room is not None:
            self._room.release()

    def _end(self) -> None:
        if self._process is not None and self._stop is not None:
            self._stop.set()
            self._process.join(END_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None
        shutil.rmtree(self.order.folder, ignore_errors=True)


def spared(job: Job) -> tuple[int, list[CachedSlice]]:
    """One phantom; where its seed fails, none, and a line that says so: one of a million must not end a run.

    Args:
        job: As for `study_slices`.

    Returns:
        Likewise.
    """
    try:
        return study_slices(job)
    except (ArithmeticError, LookupError, ValueError) as e:
        print(f"phantom of seed {job[0]} left out: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return job[0], []


def fresh_for(recipe: Recipe, folder: Path, workers: int = 0) -> AbstractContextManager[Fresh | None]:
    """What makes the phantoms of a recipe; nothing where it trains on the cache alone.

    Args:
        recipe: Any.
        folder: Gets a folder "fresh" for the epochs' caches.
        workers: Processes; 0: one a core but one.

    Returns:
        To be entered.
    """
    return Fresh(order_of(recipe, folder / "fresh"), workers) if recipe.fresh else nullcontext()


def _folder(order: Order, epoch: int) -> Path:
    return order.folder / f"epoch-{epoch:05d}"


def _make(order: Order, workers: int, epoch: int, signs: tuple[Semaphore, Event]) -> None:
    """Make epoch after epoch, as far ahead as there is room, until told to stop.

    An epoch's phantoms are handed out before the last of the one before are done, so that no process idles meanwhile.
    """
    room, stop = signs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if workers == 1:  # no others are started
        give_way()
    coming, handed_out = itertools.count(epoch), deque[Made]()
    with studies(order.data(epoch), workers, spared) as made:

        def look() -> bool:
            if room.acquire(block=False):
                handed_out.append(made(order.data(next(coming)).seeds))
            return stop.is_set()

        for one in itertools.count(epoch):
            while not handed_out:
                if look():
                    return
                stop.wait(POLL_S)
            _make_epoch(order, one, handed_out.popleft(), look)
            if stop.is_set():
                return


def _make_epoch(order: Order, epoch: int, made: Made, is_stopped: Callable[[], bool]) -> None:
    """Make the cache of an epoch; nothing that could be opened is left where it was stopped."""
    data = order.data(epoch)
    writer = CacheWriter(_folder(order, epoch), inputs_of(data), data.frame, durable=False)
    for seed, slices in made:
        if is_stopped():
            return
        writer.append(str(seed), slices)
    writer.finish(manifest_of(data))
