"""The training loop, to be read from top to bottom: fit, one epoch, the watched part, what is kept.

Nothing here depends on how often a run was interrupted: draws and augmentation of a step are decided by seed, epoch and
step alone, everything else is in the checkpoint.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from triage.errors import DataError, StudyError, TrainingError
from triage.train import sampler
from triage.train.cache import Cache, Rows
from triage.train.calibrate import CALIBRATION
from triage.train.checkpoint import load_checkpoint, save_checkpoint
from triage.train.data import check_suits, read_ahead
from triage.train.distributed import World, barrier, joined, shared, summed
from triage.train.fresh import Fresh, asked_rows
from triage.train.interrupts import Interrupts
from triage.train.journal import Journal, facts_of
from triage.train.learner import Learner, Start, build_learner, training_mode
from triage.train.memory import is_shortage
from triage.train.recipes import Recipe
from triage.train.runs import BEST, CHECKPOINT, RECIPE, Run, open_run, write_run, write_weights
from triage.train.scores import score
from triage.train.splits import parts_of, require_positives
from triage.train.step import one_step, quickened, set_algorithms
from triage.train.watched import watched

LOG_STEPS, LOG_S = 20, 10.0
"""A line of metrics and a look at the loss every so many steps, or seconds where steps are slow."""

SAVE_S = 300.0
"""Within an epoch a checkpoint is written so often."""


CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Event:
    """How far a run is, for whoever watches."""

    step: int
    total_steps: int
    epoch: int
    """From 1."""
    loss: float
    """Mean of the epoch so far."""
    images_per_s: float
    epoch_line: dict[str, Any] | None = None
    """At an epoch's end, what is logged of it."""


@dataclass(frozen=True)
class FitOptions:
    """What is not part of the recipe."""

    device: torch.device = CPU
    resume: bool = False
    start: Start = field(default_factory=Start)
    stop_after: int = 0
    """End after so many epochs, to be resumed; 0: do all."""
    until: float = math.inf
    """End after the step in hand when `time.monotonic()` says so, to be resumed."""
    fresh: Fresh | None = None
    """Makes the phantoms that a recipe with `fresh` trains on."""
    command: str = ""
    """As typed, for the record."""
    on_event: Callable[[Event], None] = lambda _: None


def fit(recipe: Recipe, cache: Cache, folder: Path, options: FitOptions) -> Run:
    """Train.

    Args:
        recipe: What to do.
        cache: What to train on.
        folder: Of the run; new, or with `options.resume` one to go on with.
        options: The rest.

    Returns:
        The run. Ctrl-C (KeyboardInterrupt) goes through after the step in hand and a checkpoint; a second one at once.

    Raises:
        DataError: Recipe, cache and run do not go together, or a part is empty or without positives.
        TrainingError: Out of memory, the disk, or a loss that is not a number; the last good checkpoint stands.
    """
    check_suits(recipe.preprocessing, cache)
    if recipe.place_weight and not cache.has_bleeds:
        raise DataError(f"{cache.folder}: does not know where bleeds lie; train with --set place_weight=0")
    if recipe.fresh != (options.fresh.order.studies if options.fresh else 0):
        raise DataError(f"recipe {recipe.name}: fresh is {recipe.fresh}; phantoms must be made for it, as many")
    parts = parts_of(recipe, cache.index)
    require_positives(parts["train"], cache.index, recipe.labels)
    with joined(options.device) as world, Interrupts() as interrupts:
        work = _Work(recipe, cache, folder, options, world, parts, interrupts)
        try:
            _train(work)
        except OSError as e:
            raise TrainingError(f"{folder}: the disk said: {e.strerror}; make room and go on with --resume") from e
        except (MemoryError, RuntimeError) as e:
            if is_shortage(e):
                raise TrainingError(_memory(recipe)) from e
            raise
    return open_run(folder)


def watched_part(recipe: Recipe) -> str:
    """The part that schedule and selection look at: validation; or, as the source did, the test part."""
    return "validation" if recipe.split == "patient" else "test"


def _memory(recipe: Recipe) -> str:
    return f"out of memory with a batch of {recipe.batch}; start again with --set batch={max(1, recipe.batch // 2)}"


class _Late(Exception):
    """The time for this session is over before an epoch has begun; all is saved."""


@dataclass(frozen=True)
class _Work:
    """What stays the same during a run."""

    recipe: Recipe
    cache: Cache
    folder: Path
    options: FitOptions
    world: World
    parts: dict[str, Rows]
    interrupts: Interrupts

    @property
    def device(self) -> torch.device:
        """Of this process."""
        kind = self.options.device.type
        several = kind == "cuda" and self.world.size > 1
        return torch.device("cuda", self.world.local_rank) if several else self.options.device

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches of all processes together; a last one of a single slice is left out, as it has no variance."""
        n = self.recipe.draws or len(self.parts["train"])
        whole, rest = divmod(n, self.recipe.batch)
        return max(1, whole + (rest > self.world.size))

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        steps = self.steps_an_epoch * self.recipe.epochs
        return min(steps, self.recipe.max_steps) if self.recipe.max_steps else steps

    def trained_on(self, epoch: int) -> tuple[Cache, Rows]:
        """The slices of an epoch, from 0: always the same part, or phantoms that no other epoch sees."""
        if self.options.fresh is None:
            return self.cache, self.parts["train"]
        cache = self.options.fresh.chunk(epoch, self.look)
        return cache, asked_rows(self.recipe, cache.index)

    def look(self) -> None:
        """While phantoms are waited for: raise KeyboardInterrupt after Ctrl-C, _Late when the time is over."""
        self.interrupts.stop()
        if self.is_late:
            raise _Late

    @property
    def is_late(self) -> bool:
        """Whether the time for this session is over."""
        return time.monotonic() >= self.options.until


def _train(work: _Work) -> None:
    recipe, options, world = work.recipe, work.options, work.world
    if options.fresh and world.size > 1:
        raise DataError("fresh phantoms are made for one process only; train without torchrun")
    if recipe.batch % world.size:
        raise DataError(f"batch {recipe.batch} cannot be shared by {world.size} processes; make it a multiple of that")
    set_algorithms(recipe)
    if not options.resume and world.is_first and (work.folder / RECIPE).exists():
        raise DataError(f"{work.folder}: holds a run already; go on with --resume or name another --out")
    learner = build_learner(recipe, work.device, work.total_steps, None if options.resume else options.start)
    if options.resume:
        learner.restore(load_checkpoint(work.folder / CHECKPOINT, recipe, work.cache.identity))
    ours = DistributedDataParallel(learner.model) if world.size > 1 else learner.model
    model = quickened(ours, recipe, work.device)
    journal = Journal(work.folder if world.is_first else None)
    facts = facts_of(learner, work.cache, work.parts, (options.command, world.size)) | _origin(work) | _fresh(work)
    if world.is_first:
        if not options.resume:  # before recipe.json is there, so that whatever is begun can be resumed
            work.folder.mkdir(parents=True, exist_ok=True)
            _save(work, learner)
        write_run(work.folder, recipe, facts | _progress(work, learner))
    with journal:
        while not _is_finished(work, learner):
            if work.is_late or (options.stop_after and learner.epoch >= options.stop_after):
                return
            begin = time.monotonic()
            if not _one_epoch(work, learner, model, journal):
                return
            line = _end_epoch(work, learner, time.monotonic() - begin)
            if world.is_first:
                journal.write(line)
                write_run(work.folder, recipe, facts | _progress(work, learner))
                options.on_event(_event(work, learner, float(line["train_loss"]), 0.0, line))
            if options.fresh:
                options.fresh.used(learner.epoch - 1)


def _is_finished(work: _Work, learner: Learner) -> bool:
    """Whether all steps are made and the epoch of the last one is ended."""
    return not learner.step_in_epoch and (learner.epoch >= work.recipe.epochs or learner.step >= work.total_steps)


def _progress(work: _Work, learner: Learner) -> dict[str, Any]:
    """How far a run is, for run.json."""
    best = {"best_epoch": int(learner.best["epoch"])} if learner.best else {}
    return best | {
        "epochs": learner.epoch, "steps": learner.step, "seconds": round(learner.seconds, 1),
        "finished": _is_finished(work, learner),
    }  # fmt: skip


def _origin(work: _Work) -> dict[str, Any]:
    """What the weights started from; a resumed run keeps what its beginning wrote."""
    if work.options.resume:
        facts = open_run(work.folder).facts
        return {key: facts[key] for key in ("command", "pretrained", "init") if key in facts}
    start = work.options.start
    told = {"pretrained": f"{start.pretrained.name}, sha256 {start.sha256}"} if start.pretrained else {}
    return told | ({"init": start.init.name} if start.init else {})


def _fresh(work: _Work) -> dict[str, Any]:
    """The phantoms made while a run trains; a resumed run must have the same."""
    facts: dict[str, Any] = work.options.fresh.order.facts(work.recipe.epochs) if work.options.fresh else {}
    if work.options.resume and open_run(work.folder).facts.get("fresh") != facts.get("fresh"):
        raise DataError(f"{work.folder}: was begun on other fresh phantoms; start a new run")
    return facts


def _batches(work: _Work, learner: Learner) -> tuple[Cache, list[Rows]]:
    """What is left of an epoch: the rows of each batch, and of which cache."""
    recipe, world = work.recipe, work.world
    share = recipe.batch // world.size
    cache, rows = work.trained_on(learner.epoch)
    weights = sampler.weights(cache.index.labels[rows], recipe)
    drawn = rows[sampler.draws(weights, recipe, learner.epoch, world.rank, world.size)]
    last = min(work.steps_an_epoch, learner.step_in_epoch + work.total_steps - learner.step)
    return cache, [drawn[share * k : share * (k + 1)] for k in range(learner.step_in_epoch, last)]


def _one_epoch(work: _Work, learner: Learner, model: nn.Module, journal: Journal) -> bool:
    """Train the rest of an epoch, or until the time is over; Ctrl-C saves after a whole step and goes through.

    Returns whether the epoch is ended; else it is saved, to be resumed.
    """
    recipe, world = work.recipe, work.world
    try:
        cache, batches = _batches(work, learner)
    except _Late:
        return False
    training_mode(learner.model)
    begin = saved = told = time.monotonic()
    first, is_whole = learner.step, True
    try:
        for done, raw in enumerate(read_ahead(cache, batches, recipe.place_weight > 0), 1):
            is_whole = False
            loss = one_step(learner, model, raw, world.rank)
            learner.losses[0] += loss
            learner.losses[1] += 1
            learner.step += 1
            learner.step_in_epoch += 1
            is_whole = True
            slow = time.monotonic() - told > LOG_S
            if slow or learner.step % LOG_STEPS == 0 or learner.step == work.total_steps:
                told = time.monotonic()
                mean = float(learner.losses[0]) / learner.losses[1]
                _check(mean, learner, work)
                per_s = (learner.step - first) * recipe.batch / (time.monotonic() - begin)
                journal.write({"event": "step", "step": learner.step, "epoch": learner.epoch + 1, "train_loss": mean,
                               "learning_rate": rate(learner), "images_per_s": round(per_s, 1)})  # fmt: skip
                if world.is_first:
                    work.options.on_event(_event(work, learner, mean, per_s, None))
            if time.monotonic() - saved > SAVE_S:
                saved = time.monotonic()
                _save(work, learner)
            work.interrupts.stop_all(world)
            if work.is_late and done < len(batches):
                _save(work, learner)
                return False
    except KeyboardInterrupt:
        if is_whole:  # else it was the second Ctrl-C: the last checkpoint stands
            _save(work, learner)
        raise
    finally:
        learner.seconds += time.monotonic() - begin
    return True


def _end_epoch(work: _Work, learner: Learner, seconds: float) -> dict[str, Any]:
    """Look at the watched part, move the schedule, keep the weights; what is logged of the epoch."""
    recipe, world = work.recipe, work.world
    total, number = summed([float(v) for v in learner.losses], world, work.device)
    train_loss = total / max(number, 1)
    _check(train_loss, learner, work)
    line: dict[str, Any] = {"watched_loss": math.nan, "f1": math.nan}
    if world.is_first:
        line = _watched(work, learner)
    line["watched_loss"], line["f1"] = shared([line["watched_loss"], line["f1"]], world, work.device)
    learning_rate = rate(learner)
    if learner.plateau:
        learner.plateau.step(line["watched_loss"])
    learner.epoch += 1
    learner.step_in_epoch, learner.losses = 0, [0.0, 0.0]
    value = {"best_f1": -line["f1"], "best_loss": line["watched_loss"], "last": -learner.epoch}[recipe.select]
    if not learner.best or value < learner.best["value"]:
        learner.best = {"value": float(value), "epoch": float(learner.epoch)}
        if world.is_first:
            write_weights(work.folder / BEST, learner.network.state_dict(), learner.epoch)
            (work.folder / CALIBRATION).unlink(missing_ok=True)  # it was of other weights
    _save(work, learner)
    barrier(world)
    return {
        "event": "epoch", "epoch": learner.epoch, "step": learner.step, "train_loss": train_loss, **line,
        "watched_part": watched_part(recipe), "learning_rate": learning_rate, "seconds": round(seconds, 2),
    }  # fmt: skip


def _watched(work: _Work, learner: Learner) -> dict[str, Any]:
    """The measures of the watched part; Ctrl-C saves the epoch's steps and goes through, to be resumed here."""
    learner.model.eval()
    recipe, rows = work.recipe, work.parts[watched_part(work.recipe)]
    device = (learner.device, recipe.precision)
    slices = (work.cache, rows, recipe.preprocessing)
    try:
        scores = score(learner.network, recipe.labels, slices, device, lambda _: work.interrupts.stop())
    except KeyboardInterrupt:
        _save(work, learner)
        raise
    except StudyError:  # an output that is not finite
        _check(math.nan, learner, work)
        raise
    return watched(recipe, work.cache.index.labels[rows], scores)


def _check(loss: float, learner: Learner, work: _Work) -> None:
    """Stop before weights that are not numbers are saved."""
    if not math.isfinite(loss):
        kept = f"the last good checkpoint is of epoch {learner.epoch}" if learner.epoch else "no epoch had ended"
        raise TrainingError(
            f"the loss is not a number at step {learner.step} (learning rate {rate(learner):g}); {kept}; start again "
            f"with a lower --set learning_rate or --set clip_norm=1 ({work.folder.name})"
        )


def _save(work: _Work, learner: Learner) -> None:
    if not work.world.is_first or not math.isfinite(float(learner.losses[0])):
        return
    if all(bool(torch.isfinite(p).all()) for p in learner.model.parameters()):  # one step may blow up what was good
        learner.losses = [float(learner.losses[0]), learner.losses[1]]
        save_checkpoint(work.folder / CHECKPOINT, learner, work.cache.identity)


def rate(learner: Learner) -> float:
    """The learning rate in force."""
    return float(learner.optimiser.param_groups[0]["lr"])


def _event(work: _Work, learner: Learner, loss: float, per_s: float, line: dict[str, Any] | None) -> Event:
    epoch = learner.epoch + (line is None)
    return Event(learner.step, work.total_steps, epoch, loss, per_s, line)
