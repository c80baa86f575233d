"""Honest tests of a pack from the pack alone: unseen phantoms, real heads, painted bleeds, pictures; chooses nothing.

pack --trials_phantom, trials_real, trials_pictures--> Trials --trials_page--> trials.json, trials.html
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from triage.errors import DataError
from triage.nn.card import write_card
from triage.nn.pack import Pack, load_pack, read_card
from triage.nn.predict import pick_device
from triage.phantom import SHIFTED, PhantomSpec
from triage.phantom.profile import USUAL
from triage.train.errors_shown import Errors
from triage.train.trial_records import NOTE, ImplantTrial, NegativeTrial, PictureTrial, Trials, notes
from triage.train.trials_phantom import SPEC, PhantomSet, check_unseen, phantom_trial
from triage.train.trials_pictures import PictureSet, picture_files, picture_trial
from triage.train.trials_real import ImplantSet, RealHead, implant_trial, negative_trial, read_heads

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TrialsRequest:
    """What to measure, on what."""

    pack: Path
    phantoms: int = 100
    """Of profile SHIFTED; half as many of USUAL."""
    spec: PhantomSpec = SPEC
    negative: tuple[Path, ...] = ()
    """Folders of real series without a bleed."""
    implant: tuple[Path, ...] = ()
    """Folders of real heads that bleeds are painted into; empty: those of `negative`."""
    implants: ImplantSet = field(default_factory=ImplantSet)
    pictures: tuple[PictureSet, ...] = ()
    device: str = "auto"
    workers: int = 1
    """Processes that make phantoms while others are judged; 0: one a core, 1: none."""


def run_trials(
    request: TrialsRequest, on_progress: OnProgress = lambda _what, _done, _total: None
) -> tuple[Trials, Errors]:
    """Measure a pack.

    Args:
        request: What, on what.
        on_progress: Told what is done, how much of it, of how much.

    Returns:
        The figures and the worst answers.

    Raises:
        DataError: A folder is missing or holds nothing fit, or the pack was trained on the phantoms.
        PackError: The pack is unusable.
    """
    pack = load_pack(request.pack, pick_device(request.device))
    sets = phantom_sets(request)
    for one in sets:
        check_unseen(pack.card, one)
    for folder in request.pictures:
        picture_files(folder.folder)
    heads = {folder: read_heads(folder) for folder in dict.fromkeys((*request.negative, *request.implant))}
    errors = Errors()
    found = Trials(
        pack.identity.name, pack.identity.version, pack.identity.sha256, pack.card.all_thresholds(),
        tuple(phantom_trial(pack, one, errors, on_progress, request.workers) for one in sets),
    )  # fmt: skip
    found = replace(found, negatives=_negatives(pack, request, heads, errors, on_progress=on_progress))
    found = replace(found, implants=_implants(pack, request, heads, errors, on_progress=on_progress))
    found = replace(found, pictures=_pictures(pack, request, errors, on_progress))
    return found, errors


def into_card(folder: Path, trials: Trials) -> None:
    """Write the figures into a pack's card, in place of those that it had; the pack's hash changes with it.

    Args:
        folder: Of the pack.
        trials: Of that pack.

    Raises:
        DataError: The figures are another pack's.
        PackError: The pack is unusable.
    """
    identity = load_pack(folder).identity
    if identity.sha256 != trials.sha256:
        raise DataError(f"{folder}: changed since it was measured; measure it again")
    card = read_card(folder)
    kept = (note for note in card.performance.notes if not note.startswith(NOTE))
    write_card(folder, replace(card, performance=replace(card.performance, notes=(*kept, *notes(trials)))))


def phantom_sets(request: TrialsRequest) -> list[PhantomSet]:
    """The sets of phantoms that a request asks for."""
    counts = ((SHIFTED, request.phantoms), (USUAL, request.phantoms // 2))
    return [PhantomSet(profile, n, request.spec) for profile, n in counts if n]


def document_of(trials: Trials) -> dict[str, Any]:
    """The record as JSON types; what is not a number becomes null."""
    document: dict[str, Any] = _json(asdict(trials))
    return document


def _negatives(
    pack: Pack, request: TrialsRequest, heads: dict[Path, list[RealHead]], errors: Errors, *, on_progress: OnProgress
) -> tuple[NegativeTrial, ...]:
    every = [head for folder in request.negative for head in heads[folder]]
    found: list[NegativeTrial] = []
    for head in every:
        on_progress("real series without a bleed", len(found), len(every))
        found.append(negative_trial(pack, head, errors))
    return tuple(found)


def _implants(
    pack: Pack, request: TrialsRequest, heads: dict[Path, list[RealHead]], errors: Errors, *, on_progress: OnProgress
) -> tuple[ImplantTrial, ...]:
    folders = request.implant or request.negative
    return tuple(
        implant_trial(pack, head, request.implants, errors, on_progress) for folder in folders for head in heads[folder]
    )


def _pictures(pack: Pack, request: TrialsRequest, errors: Errors, on_progress: OnProgress) -> tuple[PictureTrial, ...]:
    return tuple(picture_trial(pack, one, errors, on_progress) for one in request.pictures)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
