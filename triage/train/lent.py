"""The one command for a GPU machine that is lent for minutes: phantoms, training, what must come home.

    python -m triage.train.lent --work FOLDER --minutes 9 --recipe phantom-joint --out OUT --parts 1-4

Needs torch, torchvision, numpy, scipy and safetensors, no network and no data. The same command goes on where it was
interrupted; once the run is finished it only writes the parts. At home `triage-train assemble` makes the run whole.

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
"""Kept for what ends an epoch (watching, saving), and for writing what must come home."""

COMPILE_S = 30.0
"""A GPU's code, compiled for the trial, is looked up and loaded for the run in less."""

MARGIN = 0.92
"""Share of the time left that is planned for: a trial is short, and machines are shared."""

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
    """Epochs that fit into the time left, and draws that keep network and phantoms equally busy.

    Args:
        recipe: Epochs and draws that the command line set are left alone.
        slices: Of all fresh phantoms of an epoch; 0 where there are none.
        pace: As measured.
        seconds: Left.

    Returns:
        Changes of the recipe, as `overridden` takes them.
    """
    changes = {}
    making = slices / pace.slices_s if recipe.fresh else 0.0
    draws = float(recipe.draws)
    if recipe.fresh and "draws" not in recipe.overrides:
        draws = min(max(pace.images_s * making, LEAST_VIEWS * slices), MOST_VIEWS * slices)
        draws = max(draws // recipe.batch, 1) * recipe.batch
        changes["draws"] = f"{draws:.0f}"
    if "epochs" not in recipe.overrides:
        epoch_s = max(making, draws / pace.images_s) + END_S
        changes["epochs"] = str(max(int(seconds * MARGIN / epoch_s), 1))
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
        run = _train(typed, until)
        if not (run.folder / BEST).exists():
            print("no epoch is ended yet; the same command goes on", flush=True)
            return UNFINISHED
        for line in write_parcel(run, _base(typed), typed.out, _span(typed.parts)):
            print(line, flush=True)
    except TriageError as e:
        print(f"lent: {e}", file=sys.stderr)
        return 1
    return 0 if run.facts["finished"] else UNFINISHED


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m triage.train.lent", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="keeps the cache and the run between calls")
    parser.add_argument("--out", type=Path, required=True, help="what must come home is written there")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything; a run too long is cut and saved")
    parser.add_argument("--recipe", default="phantom-joint")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
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


def _train(typed: argparse.Namespace, until: float) -> Run:
    """Train what is left of the run, as far as the time allows."""
    folder = typed.work / "run"
    begun = (folder / RECIPE).exists()
    if begun and open_run(folder).facts["finished"]:
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
            begin = time.monotonic()
            recipe, images_s = _measured(recipe, cache, device, typed.trial_steps)
            slices = recipe.fresh * len(cache) / typed.studies
            wait = max(slices / slices_s - (time.monotonic() - begin), 0.0)
            kept = HOME_S + wait + (COMPILE_S if recipe.compiled and device.type == "cuda" else 0.0)
            changes = planned(recipe, slices, Pace(images_s, slices_s), until - time.monotonic() - kept)
            _say(f"{images_s:,.0f} images/s, phantoms {slices_s:,.0f} slices/s; {changes}")
            recipe = overridden(recipe, changes)
        options = FitOptions(
            device=device, resume=begun, until=until - HOME_S, fresh=fresh if recipe.fresh else None,
            command=shlex.join(["python", "-m", "triage.train.lent", *sys.argv[1:]]), on_event=_watch(),
        )  # fmt: skip
        return fit(recipe, cache, folder, options)


def _cache(typed: argparse.Namespace, data: PhantomData) -> tuple[Cache, float]:
    """The cache, and slices a second as its phantoms were made; starting the processes does not count."""
    times: list[float] = []
    cache = write_phantoms(
        typed.work / "cache", data, typed.workers, lambda _done, _total: times.append(time.monotonic())
    )
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    slices_s = (len(times) - 1) * len(cache) / len(data.seeds) / span if span else FALLBACK_SLICES_S
    told = f"made at {slices_s:,.0f} a second" if span else "there already"
    _say(f"phantoms of version {VERSION}: {len(cache):,} slices, {told}")
    return cache, slices_s


def _measured(recipe: Recipe, cache: Cache, device: torch.device, steps: int) -> tuple[Recipe, float]:
    """Images a second, and the recipe without compiling where that fails."""
    try:
        return recipe, images_a_second(recipe, cache, device, steps)
    except RuntimeError as e:
        if is_shortage(e) or not recipe.compiled:
            raise TrainingError(f"the trial failed: {e}") from e
        _say(f"compiling fails here, going on without ({str(e).splitlines()[0]})")
    return _measured(overridden(recipe, {"compiled": "false"}), cache, device, steps)


def _watch() -> Callable[[Event], None]:
    told = [0.0]

    def show(event: Event) -> None:
        now = time.monotonic()
        if event.epoch_line is not None:
            line = event.epoch_line
            _say(f"epoch {event.epoch}: loss {event.loss:.4f}, watched {line['watched_loss']:.4f}, "
                 f"AUROC {line['auroc']}, {line['seconds']} s")  # fmt: skip
        elif now - told[0] > TELL_S:
            told[0] = now
            _say(f"step {event.step} of {event.total_steps}: loss {event.loss:.4f}, {event.images_per_s:,.0f} images/s")

    return show


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
