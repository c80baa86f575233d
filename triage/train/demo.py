"""A pack from nothing: phantoms -> run -> pack, measured on phantoms never trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from triage.errors import DataError
from triage.nn.card import write_card
from triage.nn.pack import read_card, verify_pack
from triage.nn.predict import pick_device
from triage.phantom import SHIFTED, WIDE
from triage.train.account import run_text
from triage.train.cache import Cache
from triage.train.data import frame_of
from triage.train.evaluate import Request, evaluate
from triage.train.export import ExportRequest, export
from triage.train.fresh import fresh_for
from triage.train.learner import Start
from triage.train.loop import FitOptions, fit
from triage.train.operating import Options
from triage.train.phantoms import PhantomData, spec_of, write_phantoms
from triage.train.progress import Bar
from triage.train.recipes import Recipe, overridden, recipe_named
from triage.train.report import write_report
from triage.train.runs import RECIPE, Run, open_run
from triage.train.screen import counted, number, summary, watch
from triage.train.seeds import trained_seeds
from triage.train.speed import suited
from triage.train.trained import calibrate, open_trained

RECIPE_NAME = "demo"

FINER, STEP_PX = 1.15, 32
"""A phantom's image has about so many pixels for each of the network's, as the head does not fill it; in such steps."""

FIRST_SHIFTED_SEED = 3_000_001

SENSITIVITY = 0.75
"""Target of the review threshold: what two cores learn in half an hour bears no more without flagging every third head
that has no bleed."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """What to make."""

    out: Path
    """models/<name>-<version>"""
    work: Path
    """Keeps phantoms and the run."""
    recipe: str = RECIPE_NAME
    studies: int = 2000
    """Phantoms; the split by patient gives seven tenths to training."""
    shifted: int = 50
    changes: Mapping[str, str] = field(default_factory=dict)
    """Of the recipe, for trials."""
    rounds: int = 1
    """Runs one after the other, each begun with the weights of the one before."""
    workers: int = 0
    command: str = ""
    first_seed: int = 1
    """Of the phantoms for training, calibration and test."""
    init: Path | None = None
    """A pack whose weights the first round begins with; made from other seeds."""


def make_demo(request: DemoRequest, bar: Bar) -> list[str]:
    """Make the pack; what of it is there already in `work` is not made again.

    Args:
        request: What to make.
        bar: Shows how far it is.

    Returns:
        Lines on the pack for a person.

    Raises:
        DataError: As prepare, fit and export.
        TrainingError: Likewise.
    """
    name, hyphen, version = request.out.name.rpartition("-")
    if not hyphen or not name:
        raise DataError(f"--out {request.out}: name it <name>-<version>")
    recipe = suited(overridden(recipe_named(request.recipe), request.changes), pick_device("auto"))
    frame = frame_of(recipe.preprocessing)
    seeds = range(request.first_seed, request.first_seed + request.studies)
    if request.init:
        _check_apart(request.init, seeds)
    spec = spec_of(WIDE, max(round(FINER * frame.size_px / STEP_PX), 2) * STEP_PX)
    cache = _phantoms(request, PhantomData(seeds, frame, spec), "cache", bar)
    shifted_seeds = range(FIRST_SHIFTED_SEED, FIRST_SHIFTED_SEED + request.shifted)
    shifted = _phantoms(request, PhantomData(shifted_seeds, frame, spec_of(SHIFTED)), "shifted", bar)
    *earlier, run = _rounds(request, recipe, cache, bar)
    options = Options(review_sensitivity=SENSITIVITY, allow_unsupported=True)
    calibrate(open_trained((run.folder,)), options, counted(bar, "calibrating"))
    export(
        ExportRequest((run.folder,), name, version, request.out.parent, "int8", options, command=request.command,
                      replace=True),
        counted(bar, "calibrating and measuring"),
    )  # fmt: skip
    found = evaluate(Request(pack=request.out, part="all", cache=shifted.folder), bar.update)
    write_report(request.work / "report-shifted", found.document, found.pictures)
    card = read_card(request.out)
    slices, studies = (found.document[key]["labels"] for key in ("by_slice", "by_study"))
    told = ", ".join(f"{label} {number(slices[label]['auroc'])} / {number(one['auroc'])}"
                     for label, one in studies.items())  # fmt: skip
    note = (
        f"On {request.shifted} phantoms of other anatomy and more noise (profile {SHIFTED.name}, seeds "
        f"{shifted_seeds.start} to {shifted_seeds.stop - 1}): AUROC by slice / by study: {told}."
    )
    performance = replace(card.performance, notes=(*card.performance.notes, note))
    before = [*map(_begun_with, earlier), *([_begun_with_pack(request.init)] if request.init else [])]
    training = replace(card.training, run=card.training.run + "".join(before))
    write_card(request.out, replace(card, training=training, performance=performance))
    own = evaluate(Request(runs=(run.folder,)), bar.update)
    write_report(request.work / "report", own.document, own.pictures)
    return [*summary(own.document), *verify_pack(request.out), note]


def _phantoms(request: DemoRequest, data: PhantomData, name: str, bar: Bar) -> Cache:
    def show(done: int, total: int) -> None:
        bar.update(f"generating phantoms ({name})", done, total)

    return write_phantoms(request.work / name, data, request.workers, show)


def _rounds(request: DemoRequest, recipe: Recipe, cache: Cache, bar: Bar) -> list[Run]:
    """The runs in order: warm restarts (Loshchilov 2017, arXiv 1608.03983), each at half the rate before."""
    runs = [_run(request, recipe, cache, (request.work / "run", Start(init=request.init)), bar)]
    for k in range(2, request.rounds + 1):
        later = overridden(recipe, again(recipe, k))
        runs.append(_run(request, later, cache, (request.work / f"run-{k}", Start(init=runs[-1].folder)), bar))
    return runs


def _begun_with(run: Run) -> str:
    """What a card says of a run whose weights a later one began with."""
    fresh = run.facts.get("fresh_source")
    return f"; before it, {run_text(run)}" + (f", on {fresh}" if fresh else "")


def _begun_with_pack(folder: Path) -> str:
    """What a card says of a pack whose weights were gone on with, so that its seeds count as trained on."""
    card = read_card(folder)
    return f"; before it, pack {card.name} {card.version}: {card.training.data} {card.training.run}"


def _check_apart(folder: Path, seeds: range) -> None:
    """Refuse phantoms that the pack to begin with may have been trained on, for some of them are to test."""
    card = read_card(folder)
    for first, last in trained_seeds(card):
        if first < seeds.stop and last >= seeds.start:
            raise DataError(f"--init {folder}: was trained on seeds {first} to {last}; choose another --first-seed")


def again(recipe: Recipe, nth: int) -> dict[str, str]:
    """What a later round changes: half the epochs, half the rate before, full size from the start, other draws.

    Args:
        recipe: Of the first round.
        nth: Which round, from 2.

    Returns:
        Field to value, as `overridden` takes them.
    """
    return {
        "epochs": str(max(recipe.epochs // 2, 1)), "learning_rate": f"{recipe.learning_rate / 2 ** (nth - 1):g}",
        "coarse_share": "0", "seed": str(recipe.seed + nth - 1),
    }  # fmt: skip


def _run(request: DemoRequest, recipe: Recipe, cache: Cache, run: tuple[Path, Start], bar: Bar) -> Run:
    folder, start = run
    begun = (folder / RECIPE).exists()
    if begun and open_run(folder).facts["finished"]:
        return open_run(folder)
    with fresh_for(recipe, request.work, request.workers) as fresh:
        options = FitOptions(device=pick_device("auto"), resume=begun, start=start, command=request.command,
                             on_event=watch(bar), fresh=fresh)  # fmt: skip
        return fit(recipe, cache, folder, options)
