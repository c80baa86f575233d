"""Runs or a pack, and a part of a cache -> the document and the pictures of a report; writes nothing.

    Request --scores--> Evidence --document.py--> document --report.py--> report.json, report.html

Slices are scored as serving scores them, and calibrated as the run or card says.
"""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import triage
from triage.errors import DataError
from triage.nn.card import Calibration, Card
from triage.nn.pack import Pack, load_pack
from triage.nn.predict import device_name, pick_device
from triage.records import ANY, LABELS
from triage.train.account import without_paths
from triage.train.cache import Cache, Rows, open_cache
from triage.train.calibrate import read_calibration
from triage.train.data import check_suits
from triage.train.document import Document, Evidence, Model, Operation, build_document, by_slice
from triage.train.leakage import leakage, one_line
from triage.train.metrics import REPETITIONS
from triage.train.pictures import A_KIND, Picture, picture_sheet
from triage.train.recipes import TRIAGE_JOINT
from triage.train.runs import Run, epochs_of, load_network, open_run, open_run_cache
from triage.train.scores import Scores, merged, score
from triage.train.splits import Parts, parts_of

ALL = "all"
"""The part that is every slice of a cache; for a run or pack on data of another place."""

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib")

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much; 0 of 0 where it is not counted."""


@dataclass(frozen=True)
class Request:
    """What to evaluate, on what."""

    runs: tuple[Path, ...] = ()
    """One run; or a binary and a subtype run, measured together as the node uses them."""
    pack: Path | None = None
    """In place of runs."""
    part: str = "test"
    """Of the recipe's split, or ALL."""
    cache: Path | None = None
    """Where the run's cache is now, or, for a pack or ALL, any cache."""
    salt: str = ""
    """Of the split by patient that a pack's part comes from; empty: the pack's own where it was trained on this cache,
    else "1". Runs have their own."""
    device: str = "auto"
    precision: str = "fp32"
    a_kind: int = A_KIND
    """Pictures of each kind of right and wrong answers; 0: the report has none."""
    repetitions: int = REPETITIONS
    seed: int = 1
    """Of the bootstrap."""


@dataclass(frozen=True)
class Evaluation:
    """What a report is written from; see `report.write_report`."""

    document: Document
    pictures: list[Picture]


def evaluate(request: Request, on_progress: OnProgress = lambda _what, _done, _total: None) -> Evaluation:
    """Score a part and measure it.

    Args:
        request: What, on what.
        on_progress: See OnProgress.

    Returns:
        Document and pictures.

    Raises:
        DataError: The runs, the part and the cache do not go together; the message says why.
        PackError: The pack is unusable.
    """
    if request.pack is not None and request.runs:
        raise DataError("evaluate: name runs or a pack, not both")
    where = pick_device(request.device)
    cache, evidence = (_of_runs if request.pack is None else _of_pack)(request, where, on_progress)
    draws = (request.repetitions, request.seed)
    document = build_document(evidence, draws, lambda what: on_progress(what, 0, 0))
    return Evaluation(document, picture_sheet(cache, evidence.scores.rows, by_slice(evidence), request.a_kind))


def _of_runs(request: Request, where: torch.device, on_progress: OnProgress) -> tuple[Cache, Evidence]:
    runs = [open_run(folder) for folder in request.runs]
    lead = _lead(runs)
    outside = request.part == ALL and request.cache is not None
    cache = open_cache(request.cache) if outside and request.cache else open_run_cache(lead, request.cache)
    parts = {} if request.part == ALL else parts_of(lead.recipe, cache.index)
    rows = _rows(cache, parts, request.part, bleeding=ANY not in lead.recipe.labels)
    scores = None
    for run in runs:
        check_suits(run.recipe.preprocessing, cache)
        network, preprocessing = load_network(run, where), run.recipe.preprocessing
        on_batch = _counter(on_progress, f"scoring with {_name(run)}", len(rows))
        one = score(network, run.recipe.labels, (cache, rows, preprocessing), (where, request.precision), on_batch)
        scores = one if scores is None else merged(scores, one)
    assert scores is not None  # `_lead` refuses an empty list
    evidence = Evidence(
        " + ".join(map(_name, runs)), request.part, cache.manifest, cache.identity, cache.index, scores,
        tuple(map(_model, runs)), _operation(runs, scores),
        _leakage(cache, parts, (lead.manifest_sha256, lead.recipe.split, request.part), on_progress),
        _measured_with(request, where),
    )  # fmt: skip
    return cache, evidence


def _lead(runs: list[Run]) -> Run:
    """The run that decides which slices are measured: the one that speaks of any bleed, where there are two.

    Raises:
        DataError: None or too many, or two that do not go together.
    """
    if not 1 <= len(runs) <= 2:
        raise DataError(f"evaluate: name one run, or a binary and a subtype run; {len(runs)} were named")
    if len(runs) == 1:
        return runs[0]
    kinds = [run.recipe.kind for run in runs]
    if sorted(kinds) != ["binary", "subtype"]:
        raise DataError(f"evaluate: a pair is a binary and a subtype run, not {' and '.join(kinds)}; name one run")
    a, b = (run.recipe for run in runs)
    same = (a.split, a.split_salt) == (b.split, b.split_salt) and (a.split == "patient" or a.choice == b.choice)
    if not same or runs[0].manifest_sha256 != runs[1].manifest_sha256:
        what = "caches" if same else "splits"
        raise DataError(
            f"evaluate: the runs have different {what}, so one may have been trained on what is to be measured; "
            "name them one by one, or train both on one cache with the same split, split_salt and choice"
        )
    return runs[kinds.index("binary")]


def _rows(cache: Cache, parts: Parts, part: str, bleeding: bool) -> Rows:
    if part != ALL:
        if part not in parts:
            raise DataError(f"part {part!r}: this split has {', '.join(parts)}; or use {ALL}")
        return parts[part]
    labels = cache.index.labels
    rows: Rows = np.flatnonzero(labels[:, LABELS.index(ANY)]) if bleeding else np.arange(len(cache))
    if not len(rows):
        raise DataError(f"{cache.folder}: no slice shows a bleed, which subtypes are measured on; use another cache")
    return rows


def _of_pack(request: Request, where: torch.device, on_progress: OnProgress) -> tuple[Cache, Evidence]:
    if request.cache is None or request.pack is None:
        raise DataError("evaluate: a pack needs a cache to be measured on; name it with --cache")
    cache, pack = open_cache(request.cache), load_pack(request.pack, where)
    preprocessing = pack.card.preprocessing
    check_suits(preprocessing, cache)
    by_patient = replace(TRIAGE_JOINT, split_salt=_salt(request, pack.card, cache))
    parts = {} if request.part == ALL else parts_of(by_patient, cache.index)
    rows = _rows(cache, parts, request.part, bleeding=False)
    scores = None
    for labels, network in pack.networks.items():
        on_batch = _counter(on_progress, f"scoring with {pack.card.name}", len(rows))
        one = score(network, labels, (cache, rows, preprocessing), (where, request.precision), on_batch)
        scores = one if scores is None else merged(scores, one)
    assert scores is not None  # a pack has one network at least
    card = pack.card
    operation = Operation(card.calibration, card.thresholds, card.aggregation, card.networks.subtype_meaning,
                          "calibration and thresholds of the pack's card")  # fmt: skip
    evidence = Evidence(
        f"{card.name} {card.version}", request.part, cache.manifest, cache.identity, cache.index, scores,
        (_pack_model(pack),), operation, _pack_leakage(cache, parts, (card, request.part), on_progress),
        _measured_with(request, where),
    )  # fmt: skip
    return cache, evidence


def _salt(request: Request, card: Card, cache: Cache) -> str:
    """Of the split that a pack's part comes from.

    Raises:
        DataError: The part would hold slices that the pack was trained on.
    """
    own = card.training.split_salt
    if card.training.manifest != cache.identity or request.part == ALL:
        return request.salt or "1"
    if request.salt and request.salt != own:
        raise DataError(
            f"evaluate: {card.name} {card.version} was trained on this cache, split with salt {own!r}: parts of "
            "another split hold what it was trained on; leave out --salt"
        )
    return own


def _pack_leakage(cache: Cache, parts: Parts, what: tuple[Card, str], on_progress: OnProgress) -> str:
    card, part = what
    if card.training.manifest == cache.identity:
        return _leakage(cache, parts, (cache.identity, "patient", part), on_progress)
    trained = card.training.data or "its card does not say on what"
    return f"A pack knows no split. Trained on: {trained}"


def _operation(runs: list[Run], scores: Scores) -> Operation:
    """Calibration and thresholds of the runs; the one that names most labels, so a pair's own, comes first."""
    aggregation = _lead(runs).recipe.aggregation
    found = [one for run in runs if (one := read_calibration(run.folder)) is not None]
    if not found:
        return Operation(aggregation=aggregation)
    best = max(found, key=lambda one: len(set(one.slice) & set(scores.labels)))
    if ANY not in scores.labels:  # study calibration and thresholds are of P(subtype), not of P(subtype | any)
        told = "heads calibrated on slices; studies not, since any bleed was not scored"
        return Operation(replace(Calibration(), slice=best.slice), aggregation=aggregation, origin=told)
    told = f"calibrated on {best.n_studies:,} studies of part {best.part}"
    if missing := [label for label in scores.labels if label not in best.slice]:
        told += f", save {', '.join(missing)}"
    return Operation(best.calibration, best.thresholds, best.aggregation, origin=told)


def _leakage(cache: Cache, parts: Parts, what: tuple[str, str, str], on_progress: OnProgress) -> str:
    """One line on what the part shares with what was trained on: identity of that cache, split, part."""
    trained_on, split, part = what
    if part == "train":
        return "Measured on the part trained on: this says what was learnt by heart, not what is known."
    if part == ALL:
        own = cache.identity == trained_on
        told = "the part trained on is among them" if own else "another cache than the one trained on"
        return f"All slices of the cache; {told}."
    two = {name: parts[name] for name in ("train", part)}
    on_slices = _counter(on_progress, "looking for leakage", sum(map(len, two.values())))
    return one_line(leakage(cache, two, split, on_slices))


def _counter(on_progress: OnProgress, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        on_progress(what, done, total)

    return count


def _name(run: Run) -> str:
    return run.folder.resolve().name


def _model(run: Run) -> Model:
    facts: dict[str, Any] = {key: value for key, value in run.facts.items() if key != "cache"}
    facts["command"] = without_paths(str(facts.get("command", "")))
    return Model(_name(run), run.recipe, facts, tuple(epochs_of(run)))


def _pack_model(pack: Pack) -> Model:
    card = pack.card
    facts = {
        "sha256": pack.identity.sha256, "intended_use": card.intended_use, "architecture": card.networks.architecture,
        "storage": card.networks.storage, "training": asdict(card.training), "limits": list(card.limits),
        "preprocessing": asdict(card.preprocessing),
    }  # fmt: skip
    return Model(f"{card.name} {card.version}", None, facts)


def _measured_with(request: Request, where: torch.device) -> dict[str, str]:
    versions = {name: version(name) for name in LIBRARIES}
    return {"device": device_name(where), "precision": request.precision, "ich-triage": triage.__version__,
            "python": platform.python_version(), **versions}  # fmt: skip
