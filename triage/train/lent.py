"""The one command for a GPU machine that is lent for minutes: phantoms, training, what must come home.

    python -m triage.train.lent --work FOLDER --minutes 9 --recipe phantom-joint --out OUT

Needs torch, torchvision, numpy, scipy and safetensors, no network and no data. FOLDER gets some 15 GB: in memory
(/dev/shm) where that suffices, for epochs of phantoms come and go. After every epoch its weights lie under OUT, as
int8, which is what a pack holds; `--minutes 0 --storage fp16 --parts 1-4` then writes finer ones and trains no more.
The same command goes on where it was interrupted. At home `triage-train assemble` makes the run whole.

How long a run is follows from a short trial: images a second of the network and slices a second of the phantoms give
the epochs that fit, which become part of the recipe. So the schedule ends in time, and the run can be repeated.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from triage.errors import TrainingError, TriageError
from triage.phantom import VERSION
from triage.train.cache import Cache
from triage.train.fresh import Fresh, order_of
from triage.train.loop import Event, FitOptions, fit
from triage.train.memory import is_shortage
from triage.train.parcel import Base, write_parcel
from triage.train.phantoms import IMAGE_PX, PhantomData, write_phantoms
from triage.train.recipes import Recipe, overridden, recipe_named
from triage.train.runs import BEST, RECIPE, Run, open_run
from triage.train.speed import STEPS, images_a_second

FIRST_SEED = 1
STUDIES = 200
"""Phantoms of the cache: a tenth each to watch, to calibrate and to test on."""

MOST_VIEWS, LEAST_VIEWS = 4.0, 1.0
"""How often an epoch draws a fresh slice."""

END_S, HOME_S = 6.0, 20.0
"""Kept for what ends an epoch (watching, saving, writing), and for ending the processes and the last writing."""

COMPILE_S = 30.0
"""A GPU's code, compiled for the trial, is looked up and loaded for the run in less."""

SHARED = 0.85
"""Phantoms are made this much slower while a network trains beside them."""

MARGIN = 0.95
"""Share of the time left that is planned for: a trial is short, and machines are shared. A run that is cut as late as
that loses little, for its rate has nearly fallen to nothing."""

TELL_S = 15.0

UNFINISHED = 3

FALLBACK_SLICES_S = 200.0
"""Where the cache was there already and nothing was measured."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a trial measured."""

    images_s: float
    """That the network trains on."""
    slices_s: float
    """Of fresh phantoms."""


def planned(recipe: Recipe, slices: float, pace: Pace, seconds: float) -> dict[str, str]:
    """Epochs that fit into the time left, and draws that fill it and keep network and phantoms equally busy.

    Args:
        recipe: Epochs and draws that the command line set are left alone.
        slices: Of an epoch's fresh phantoms, or of the cache where there are none.
        pace: As measured.
        seconds: Left.

    Returns:
        Changes of the recipe, as `overridden` takes them.
    """
    is_free = bool(recipe.fresh) and "draws" not in recipe.overrides
    making = slices / pace.slices_s if recipe.fresh else 0.0
    least, most = LEAST_VIEWS * slices, MOST_VIEWS * slices
    draws = min(max(pace.images_s * (making - END_S), least), most) if is_free else float(recipe.draws or slices)
    epochs, changes = recipe.epochs, {}
    if "epochs" not in recipe.overrides:
        epochs = max(int(seconds * MARGIN / max(making, draws / pace.images_s + END_S)), 1)
        changes["epochs"] = str(epochs)
    if is_free:
        draws = min(pace.images_s * (seconds * MARGIN / epochs - END_S), most)
        changes["draws"] = f"{max(draws // recipe.batch, 1) * recipe.batch:.0f}"
    return changes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 done, 1 failed, UNFINISHED where the time was over before; the same command goes on.
    """
    typed = _parsed(arguments)
    until = time.monotonic() + 60.0 * typed.minutes
    try:
        _span(typed.parts)
        run = _train(typed, until)
        if not (run.folder / BEST).exists():
            print("no epoch is ended yet; the same command goes on", flush=True)
            return UNFINISHED
        _write(typed, run)
    except TriageError as e:
        print(f"lent: {e}", file=sys.stderr)
        return 1
    return 0 if run.facts["finished"] else UNFINISHED


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m triage.train.lent", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="keeps the cache and the run between calls")
    parser.add_argument("--out", type=Path, required=True, help="what must come home is written there")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything; 0: only write what is there")
    parser.add_argument("--recipe", default="phantom-joint")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    parser.add_argument("--storage", choices=("int8", "fp16"), default="int8", help="of the weights that come home")
    parser.add_argument("--parts", default="", help="I-J: only these parts of the weights; all when left out")
    parser.add_argument("--studies", type=int, default=STUDIES, help="phantoms to watch, calibrate and test on")
    parser.add_argument("--image-px", type=int, default=IMAGE_PX, help="rows and columns of a phantom")
    parser.add_argument("--workers", type=int, default=0, help="processes that make phantoms; 0: one a core")
    parser.add_argument("--trial-steps", type=int, default=STEPS, help="to measure the network with")
    return parser.parse_args(arguments)


def _base(typed: argparse.Namespace) -> Base:
    return Base(FIRST_SEED, typed.studies, typed.image_px)


def _span(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as e:
        raise TrainingError(f"--parts {text}: write it as I-J") from e


def _write(typed: argparse.Namespace, run: Run) -> None:
    for line in write_parcel(run, _base(typed), typed.out, typed.storage, _span(typed.parts)):
        _say(line)


def _train(typed: argparse.Namespace, until: float) -> Run:
    """Train what is left of the run, as far as the time allows."""
    folder, until = typed.work / "run", until - HOME_S
    begun = (folder / RECIPE).exists()
    if not begun and time.monotonic() > until:
        raise TrainingError(f"{folder}: no run that could be written out; give it more --minutes")
    if begun and (open_run(folder).facts["finished"] or time.monotonic() > until):
        return open_run(folder)
    pairs = dict(pair.partition("=")[::2] for pair in typed.set)
    recipe = open_run(folder).recipe if begun else overridden(recipe_named(typed.recipe), pairs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = _base(typed).data(recipe)
    cache, slices_s = _cache(typed, data)
    order = order_of(recipe, typed.work / "fresh", data.spec)
    with Fresh(order, typed.workers) as fresh:
        if recipe.fresh:
            fresh.start(open_run(folder).facts["epochs"] if begun else 0)
        if not begun:
            recipe, images_s = _measured(recipe, cache, device, typed.trial_steps)
            slices = len(fresh.chunk(0, _in_time(until)) if recipe.fresh else cache)
            compiling = COMPILE_S if recipe.compiled and device.type == "cuda" else 0.0
            changes = planned(recipe, slices, Pace(images_s, slices_s), until - time.monotonic() - compiling)
            _say(f"{images_s:,.0f} images/s, phantoms {slices_s:,.0f} slices/s; {changes}")
            recipe = overridden(recipe, changes)
        options = FitOptions(
            device=device, resume=begun, until=until, fresh=fresh if recipe.fresh else None,
            command=shlex.join(["python", "-m", "triage.train.lent", *sys.argv[1:]]), on_event=_watch(typed, folder),
        )  # fmt: skip
        return fit(recipe, cache, folder, options)


def _in_time(until: float) -> Callable[[], None]:
    """What raises TrainingError once the time is over."""

    def look() -> None:
        if time.monotonic() > until:
            raise TrainingError("the time was over before the first phantoms were there; ask for fewer (--set fresh=N)")

    return look


def _cache(typed: argparse.Namespace, data: PhantomData) -> tuple[Cache, float]:
    """The cache, and how many fresh slices a second its making promises; starting the processes does not count."""
    times: list[float] = []
    cache = write_phantoms(
        typed.work / "cache", data, typed.workers, lambda _done, _total: times.append(time.monotonic())
    )
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    slices_s = (len(times) - 1) * len(cache) / len(data.seeds) / span if span else FALLBACK_SLICES_S
    told = f"made at {slices_s:,.0f} a second" if span else "there already"
    _say(f"phantoms of version {VERSION}: {len(cache):,} slices, {told}")
    return cache, SHARED * slices_s


def _measured(recipe: Recipe, cache: Cache, device: torch.device, steps: int) -> tuple[Recipe, float]:
    """Images a second, and the recipe without compiling where that fails."""
    try:
        return recipe, images_a_second(recipe, cache, device, steps)
    except RuntimeError as e:
        if is_shortage(e) or not recipe.compiled:
            raise TrainingError(f"the trial failed: {e}") from e
        _say(f"compiling fails here, going on without ({str(e).splitlines()[0]})")
    return _measured(overridden(recipe, {"compiled": "false"}), cache, device, steps)


def _watch(typed: argparse.Namespace, folder: Path) -> Callable[[Event], None]:
    """Tells how far the run is, and writes after each epoch what must come home."""
    told = [0.0]

    def show(event: Event) -> None:
        now = time.monotonic()
        if event.epoch_line is not None:
            line = event.epoch_line
            areas = ", ".join(f"{label} {area:.3f}" for label, area in line["auroc"].items() if area is not None)
            _say(f"epoch {event.epoch}: loss {event.loss:.4f}, watched {line['watched_loss']:.4f}, "
                 f"{line['seconds']} s; AUROC {areas}")  # fmt: skip
            _write(typed, open_run(folder))
        elif now - told[0] > TELL_S:
            told[0] = now
            _say(f"step {event.step} of {event.total_steps}: loss {event.loss:.4f}, {event.images_per_s:,.0f} images/s")

    return show


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
