"""Scores and what is known of them -> the document of a report, JSON types only; reads and draws nothing.

    Evidence --calibration--> probabilities of slices and of studies --metrics--> document --report.py--> report.html

Slices are held against 0.5, as the source does; studies against the operating thresholds, as the node does.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.nn.card import Aggregation, Calibration, SubtypeMeaning, Thresholds
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Index, Manifest
from triage.train.metrics import (
    REPETITIONS,
    Bools,
    Floats,
    auroc_of_counts,
    average_precision_of_counts,
    bootstrap_by_patient,
    calibration_curve,
    measured,
    predictive_values,
)
from triage.train.recipes import FIXED, Recipe, origin_of, to_document
from triage.train.scores import Scores, slice_probabilities, study_probabilities, study_rows, study_truth
from triage.train.source_figures import beside_source, cautions
from triage.train.strata import Answers, strata

FORMAT = 1
"""Version of report.json."""

NOTICE = "Research figures, not for diagnosis."

SLICE_THRESHOLD = 0.5

CURVE_POINTS = 200
"""Most points kept of a curve."""

HALVES = Thresholds(0.5, 0.5, dict.fromkeys(SUBTYPES, 0.5))
"""Where no operating point was chosen."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """How logits become probabilities of slices and studies, and probabilities answers."""

    calibration: Calibration = field(default_factory=Calibration)
    thresholds: Thresholds = HALVES
    aggregation: Aggregation = "top3_mean"
    meaning: SubtypeMeaning = "given_any"
    origin: str = "not calibrated; thresholds are 0.5"
    """A line for a person."""


@dataclass(frozen=True)
class Model:
    """A run or pack that was measured."""

    name: str
    recipe: Recipe | None
    """None for a pack: its card says less than a recipe."""
    facts: Mapping[str, Any]
    """JSON types: versions, hashes, duration."""
    epochs: tuple[Mapping[str, Any], ...] = ()
    """One a trained epoch; see `runs.epochs_of`."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made from."""

    title: str
    part: str
    manifest: Manifest
    cache_identity: str
    index: Index
    """Of the whole cache."""
    scores: Scores
    models: tuple[Model, ...]
    operation: Operation = field(default_factory=Operation)
    leakage: str = ""
    """One line: what the part shares with what was trained on."""
    measured_with: Mapping[str, str] = field(default_factory=dict)
    """Device, precision, versions."""


@dataclass(frozen=True)
class Level:
    """Answers by slice or by study."""

    unit: str
    p: dict[str, Floats]
    truth: dict[str, Bools]
    patients: npt.NDArray[np.str_]
    thresholds: dict[str, float]


def build_document(
    evidence: Evidence, draws: tuple[int, int] = (REPETITIONS, 1), on_step: Callable[[str], None] = lambda _: None
) -> Document:
    """Measure everything.

    Args:
        evidence: Scores and what is known of them.
        draws: Of the bootstrap by patient: resamplings and seed.
        on_step: Told what is measured next.

    Returns:
        The document: dicts, lists, strings, finite numbers and None.
    """
    slices, studies = by_slice(evidence), by_study(evidence)
    by = {}
    for level in (slices, studies):
        on_step(f"measuring by {level.unit}")
        by[level.unit] = _level(level, draws)
    on_step("measuring strata")
    answers = Answers(evidence.index.take(evidence.scores.rows), slices.p, slices.truth)
    document = _heading(evidence) | {
        "by_slice": by["slice"],
        "by_study": by["study"],
        "source": _source(evidence, by["slice"]),
        "strata": strata(answers, draws),
        "predictive_values": _predictive(studies, evidence.operation.thresholds),
        "confusion_by_subtype": _confusion(slices, answers.index.labels),
        "operation": dataclasses.asdict(evidence.operation),
        "models": [_model(model) for model in evidence.models],
        "measured": {**evidence.measured_with, "resamplings": draws[0], "seed": draws[1]},
    }
    plain_document: Document = plain(document)
    return plain_document


def by_slice(evidence: Evidence) -> Level:
    """Calibrated answers by slice, held against one half."""
    scores, operation = evidence.scores, evidence.operation
    p: dict[str, Floats] = {}
    if operation.meaning == "marginal":
        for label in scores.labels:  # one by one, so that none is multiplied with P(any)
            p |= slice_probabilities(_only(scores, (label,)), operation.calibration.slice)
    else:
        p = slice_probabilities(scores, operation.calibration.slice)
    labels = evidence.index.labels[scores.rows]
    thresholds = dict.fromkeys(scores.labels, SLICE_THRESHOLD)
    return Level("slice", p, _truth(scores.labels, labels), evidence.index.patient[scores.rows], thresholds)


def by_study(evidence: Evidence) -> Level:
    """Calibrated answers by study, held against the operating thresholds."""
    scores, operation = evidence.scores, evidence.operation
    studies = study_rows(evidence.index, scores.rows)
    slices = by_slice(evidence)
    p = study_probabilities(studies, slices.p, operation.aggregation, operation.calibration.study)
    labels = study_truth(studies, evidence.index.labels[scores.rows])
    limits = {ANY: operation.thresholds.review, **operation.thresholds.subtypes}
    patients = np.array([one.patient for one in studies])
    thresholds = {label: limits.get(label, SLICE_THRESHOLD) for label in scores.labels}
    return Level("study", p, _truth(scores.labels, labels), patients, thresholds)


def _only(scores: Scores, labels: tuple[str, ...]) -> Scores:
    return Scores(scores.rows, labels, np.stack([scores.column(label) for label in labels], axis=1))


def _truth(labels: tuple[str, ...], truth: Bools) -> dict[str, Bools]:
    return {label: truth[:, LABELS.index(label)] for label in labels}


def _heading(evidence: Evidence) -> Document:
    index, manifest = evidence.index.take(evidence.scores.rows), evidence.manifest
    bleeding_only = ANY not in evidence.scores.labels
    return {
        "format": FORMAT,
        "title": evidence.title,
        "notice": NOTICE,
        "synthetic": manifest.layout == "phantoms",
        "leakage": evidence.leakage,
        "data": {
            "part": evidence.part, "layout": manifest.layout, "source": manifest.source,
            "cache_sha256": evidence.cache_identity, "frame": dataclasses.asdict(manifest.frame),
            "slices": len(index), "studies": len(np.unique(index.study)), "patients": len(np.unique(index.patient)),
            "positives": dict(zip(LABELS, index.labels.sum(axis=0).tolist(), strict=True)),
            "bleeding_slices_only": bleeding_only,
        },
    }  # fmt: skip


def _level(level: Level, draws: tuple[int, int]) -> Document:
    labels = {label: _figures(level, label, draws) for label in level.p}
    return {"n": len(level.patients), "labels": labels, "mean_of_subtypes": _mean(labels)}


def _figures(level: Level, label: str, draws: tuple[int, int]) -> Document:
    p, truth = level.p[label], level.truth[label]
    intervals = {
        f"{name}_interval": bootstrap_by_patient(p, truth, level.patients, statistic, draws)
        for name, statistic in (("auroc", auroc_of_counts), ("average_precision", average_precision_of_counts))
    }
    points = [dataclasses.asdict(point) for point in calibration_curve(p, truth)]
    return (
        dataclasses.asdict(measured(p, truth, level.thresholds[label])) | intervals | curves(p, truth)
        | {"reliability": points}
    )  # fmt: skip


def curves(p: Floats, truth: Bools) -> Document:
    """ROC and precision-recall curve as points, thinned; empty where a class is missing."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if truth.all() or not truth.any():
        return {"roc": [], "precision_recall": []}
    false_rate, true_rate, _ = roc_curve(truth, p)
    precision, recall, _ = precision_recall_curve(truth, p, drop_intermediate=True)
    return {
        "roc": _thinned(false_rate, true_rate, false_rate + true_rate),
        "precision_recall": _thinned(recall[::-1], precision[::-1], recall[::-1]),
    }


def _thinned(x: Floats, y: Floats, along: Floats) -> list[list[float]]:
    """Points of a curve at about even steps of a measure that grows along it."""
    kept = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], CURVE_POINTS)).clip(0, len(x) - 1))
    kept = np.union1d(kept, [0, len(x) - 1])
    return [[round(float(a), 5), round(float(b), 5)] for a, b in zip(x[kept], y[kept], strict=True)]


def _mean(labels: Mapping[str, Document]) -> Document | None:
    """Means over the subtypes that have the figure; None where fewer than two were scored."""
    subtypes = [figures for label, figures in labels.items() if label != ANY]
    if len(subtypes) < 2:
        return None
    means = {}
    for name in ("auroc", "average_precision", "accuracy", "balanced_accuracy", "f1", "brier", "calibration_error"):
        known = [figures[name] for figures in subtypes if math.isfinite(figures[name])]
        means[name] = float(np.mean(known)) if known else math.nan
    shares = [figures["positives"] / figures["n"] for figures in subtypes if figures["n"]]
    return means | {"majority_accuracy": float(np.mean([max(q, 1 - q) for q in shares])) if shares else math.nan}


def _source(evidence: Evidence, slices: Document) -> Document:
    ours: Document = {}
    if ANY in slices["labels"]:
        figures = slices["labels"][ANY]
        ours = {name: figures[name] for name in ("accuracy", "f1", "auroc")}
        ours["recall"] = figures["sensitivity"]["value"]
    ours |= _given_any(evidence)
    recipe = next((model.recipe for model in evidence.models if model.recipe), None)
    rows = beside_source(recipe.name if recipe else "", ours)
    return {"rows": rows, "notes": cautions(evidence.manifest.layout, recipe.split if recipe else "")}


def _given_any(evidence: Evidence) -> Document:
    """The source's way with subtypes: accuracy at one half on slices that bleed."""
    labels = tuple(label for label in evidence.scores.labels if label != ANY)
    truth = evidence.index.labels[evidence.scores.rows]
    bleeding = truth[:, LABELS.index(ANY)]
    if not labels or not bleeding.any():
        return {}
    p = slice_probabilities(_only(evidence.scores, labels), evidence.operation.calibration.slice)
    right = {k: float(((p[k] >= SLICE_THRESHOLD) == truth[:, LABELS.index(k)])[bleeding].mean()) for k in labels}
    shares = truth[bleeding][:, [LABELS.index(k) for k in labels]].mean(axis=0)
    return {
        "mean_accuracy": float(np.mean(list(right.values()))),
        "majority": float(np.maximum(shares, 1 - shares).mean()),
        "best": max(right, key=lambda k: right[k]),
        "worst": min(right, key=lambda k: right[k]),
    }


def _predictive(studies: Level, thresholds: Thresholds) -> list[Document]:
    """Predictive values of study flags at each threshold on P(any); none where only bleeding slices were scored."""
    if ANY not in studies.p:
        return []
    points = {"review": thresholds.review, "urgent": thresholds.urgent}
    if thresholds.review == thresholds.urgent:
        del points["urgent"]
    rows = []
    for name, threshold in points.items():
        figures = measured(studies.p[ANY], studies.truth[ANY], threshold)
        values = predictive_values(figures.sensitivity.value, figures.specificity.value)
        rows.append({
            "name": name, "threshold": threshold,
            "sensitivity": dataclasses.asdict(figures.sensitivity),
            "specificity": dataclasses.asdict(figures.specificity),
            "values": [dataclasses.asdict(value) for value in values],
        })  # fmt: skip
    return rows


def _confusion(slices: Level, truth: Bools) -> Document:
    """Slices by what they show (rows: nothing, one subtype alone, several) and by what was answered (columns)."""
    several = truth[:, 1:].sum(axis=1)
    rows: dict[str, Bools] = {"no bleed": np.asarray(~truth.any(axis=1))}
    rows |= {f"{label} alone": truth[:, k] & (several == 1) for k, label in enumerate(LABELS) if label != ANY}
    rows["several subtypes"] = several > 1
    if (unnamed := truth[:, 0] & (several == 0)).any():
        rows["bleed of no named subtype"] = unnamed
    said = {label: p >= slices.thresholds[label] for label, p in slices.p.items()}
    said["none of these"] = ~np.any(list(said.values()), axis=0)
    return {
        "rows": list(rows), "columns": list(said), "n": [int(which.sum()) for which in rows.values()],
        "counts": [[int((which & answer).sum()) for answer in said.values()] for which in rows.values()],
    }  # fmt: skip


def _model(model: Model) -> Document:
    recipe = model.recipe
    rows = [] if recipe is None else [_field(recipe, f.name) for f in dataclasses.fields(recipe) if f.name not in FIXED]
    return {
        "name": model.name,
        "recipe": None if recipe is None else {"name": recipe.name, "title": recipe.title, "fields": rows},
        "overrides": {} if recipe is None else recipe.overrides,
        "facts": dict(model.facts),
        "epochs": [dict(epoch) for epoch in model.epochs],
    }


def _field(recipe: Recipe, name: str) -> Document:
    origin, why = origin_of(recipe, name)
    return {"field": name, "value": to_document(recipe)[name], "origin": origin, "why": why}


def plain(value: Any) -> Any:
    """A value as strict JSON types: tuples become lists, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
