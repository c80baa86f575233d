"""The command `triage-train evaluate`: a run or pack on a cache, or a pack by itself on honest tests."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triage.errors import ConfigError, DataError
from triage.train.progress import Bar
from triage.train.screen import summary

if TYPE_CHECKING:
    from triage.train.trials import TrialsRequest

EXTRA = ("sklearn", "matplotlib")
"""What comes with `pip install ich-triage[train]` only."""


def require_extra() -> None:
    """Raise ConfigError where the libraries of training are not installed."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)}: not installed; pip install 'ich-triage[train]'")


def evaluate(
    what: Annotated[list[Path], typer.Argument(help="A run, a binary and a subtype run, or a model pack.")],
    split: Annotated[str, typer.Option(help="Part: test, validation, calibration, train or all.")] = "test",
    cache: Annotated[Path | None, typer.Option(help="For a pack; for runs, where their cache is now.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report.")] = None,
    salt: Annotated[str, typer.Option(help="Of the split a pack's part comes from; default: its own, or 1.")] = "",
    repetitions: Annotated[int, typer.Option(min=10, help="Of the bootstrap by patient.")] = 2000,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
    phantoms: Annotated[
        int, typer.Option(min=0, help="Without a cache: unseen phantoms of other anatomy, and half as many usual ones.")
    ] = 100,
    negative: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="A real series without a bleed; repeatable.")
    ] = None,
    implant: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A real head to paint bleeds into; default: those of --negative."),
    ] = None,
    implants: Annotated[int, typer.Option(min=0, help="Bleeds of each subtype and band of volume in each head.")] = 3,
    pictures: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="PNG files of heads, the kind of bleed in their names.")
    ] = None,
    window: Annotated[str, typer.Option(metavar="WIDTH/LEVEL", help="In HU, that pictures show.")] = "80/40",
    picture_mm: Annotated[float, typer.Option(min=100, max=500, help="Width of pictures inside their margin.")] = 250.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make phantoms; 0: one a core.")] = 0,
    note: Annotated[
        bool, typer.Option("--note", help="Write the figures into the pack's card, whose hash changes.")
    ] = False,
) -> None:
    """Measure by slice and by study; writes a report. A pack without --cache is put to honest tests."""
    from triage.nn.card import CARD_NAME

    if missing := [str(path) for path in what if not path.is_dir()]:
        raise DataError(f"{missing[0]}: no such folder; name a run or a model pack")
    is_pack = (what[0] / CARD_NAME).exists()
    if is_pack and len(what) > 1:
        raise DataError("evaluate: name one pack, or runs; to hold two packs against each other use compare")
    if is_pack and cache is None:
        from triage.train.trials import TrialsRequest
        from triage.train.trials_pictures import PictureSet
        from triage.train.trials_real import ImplantSet

        shown = tuple(PictureSet(folder, window_of(window), picture_mm) for folder in pictures or ())
        _tried(TrialsRequest(what[0], phantoms, negative=tuple(negative or ()), implant=tuple(implant or ()),
                             implants=ImplantSet(implants), pictures=shown, device=device, workers=workers),
               out, note)  # fmt: skip
        return
    if negative or implant or pictures or note:
        raise DataError("evaluate: --negative, --implant, --pictures and --note are for a pack without --cache")
    _measured(what, is_pack, (split, cache, salt), (device, repetitions), out)


def window_of(text: str) -> tuple[float, float]:
    """Width and level from a text like 80/40. Raises DataError for any other."""
    width, _, level = text.partition("/")
    try:
        window = float(width), float(level)
    except ValueError as e:
        raise DataError(f"--window {text}: write it as WIDTH/LEVEL, such as 80/40") from e
    if not 0 < window[0] < 4000 or not abs(window[1]) < 4000:
        raise DataError(f"--window {text}: the width is not between 0 and 4000 HU, or the level not within 4000 HU")
    return window


def _check_folder(folder: Path) -> None:
    """Refuse to measure for long what could not be written. Raises DataError."""
    path = folder.resolve()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise DataError(f"--out {folder}: {there} is no folder that can be written to")


def _tried(request: "TrialsRequest", out: Path | None, note: bool) -> None:
    """Put a pack to honest tests."""
    from triage.train.trials import into_card, run_trials
    from triage.train.trials_page import write_trials
    from triage.train.trials_text import trial_lines

    folder = out or Path(f"evaluation-{request.pack.resolve().name}")
    _check_folder(folder)
    with Bar("cases") as bar:
        found, errors = run_trials(request, bar.update)
    paths = write_trials(folder, found, errors)
    if note:
        into_card(request.pack, found)
    print("\n".join(trial_lines(found)))
    print(f"written: {', '.join(str(path) for path in paths)}")


def _measured(
    what: list[Path], is_pack: bool, data: tuple[str, Path | None, str], how: tuple[str, int], out: Path | None
) -> None:
    """Measure a run or pack on a part of a cache."""
    from triage.train.evaluate import Request
    from triage.train.evaluate import evaluate as measure
    from triage.train.report import write_report

    require_extra()
    split, cache, salt = data
    request = Request(
        runs=() if is_pack else tuple(what), pack=what[0] if is_pack else None, part=split, cache=cache, salt=salt,
        device=how[0], repetitions=how[1],
    )  # fmt: skip
    folder = out or (Path(f"evaluation-{what[0].name}-{split}") if is_pack else what[0] / f"evaluation-{split}")
    _check_folder(folder)
    with Bar("slices") as bar:
        found = measure(request, bar.update)
    paths = write_report(folder, found.document, found.pictures)
    print("\n".join(summary(found.document)))
    print(f"written: {', '.join(str(path) for path in paths)}")
