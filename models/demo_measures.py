"""Calibrates a pack on held-out studies, chooses its thresholds, and measures it on others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch.nn import functional

from triage.nn.card import Auroc, Calibration, Card, OperatingPoint, Performance, Platt, Thresholds
from triage.nn.pack import Pack
from triage.nn.predict import aggregate, joint, logit, sigmoid, slice_probabilities, study_probability
from triage.records import ANY, LABELS, SUBTYPES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

URGENT_SPECIFICITY = 0.98
"""What the urgent threshold is chosen for on the calibration studies; the others for sensitivity plus specificity."""


@dataclass(frozen=True, slots=True)
class Study:
    """What is kept of one phantom."""

    hu: npt.NDArray[np.int16]
    """(n, rows, columns)"""
    bleeds: npt.NDArray[np.uint8]
    """(n, rows, columns), 0 where there is none, else 1 + the subtype's place in SUBTYPES."""
    labels: Bools
    """(n, 6), columns as LABELS."""
    spacing_mm: tuple[float, float]
    made_s: float
    """Processor time its making took."""


def scores_of(pack: Pack, studies: Sequence[Study]) -> list[dict[str, Floats]]:
    """Probabilities of every study's slices by label, as the heads mean them."""
    scores = []
    for study in studies:
        slabs = torch.from_numpy(study.hu.astype(np.float32))
        both = [slice_probabilities(pack, slabs, study.spacing_mm, labels) for labels in ((ANY,), SUBTYPES)]
        scores.append(both[0] | both[1])
    return scores


def recalibrated(card: Card, raw: Sequence[dict[str, Floats]]) -> list[dict[str, Floats]]:
    """Joint slice probabilities under a card's slice calibration, from those of a card that had none."""
    slices = card.calibration.slice
    return [joint(card, {label: sigmoid(slices[label], logit(p)) for label, p in one.items()}) for one in raw]


def platt(logits: Floats, truth: Bools) -> Platt:
    """Logistic fit of truth to logits; the identity where truth is all one or all the other."""
    if truth.all() or not truth.any():
        return Platt()
    x, y = torch.from_numpy(logits), torch.from_numpy(truth.astype(np.float64))
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log scale, bias
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(parameters[0].exp() * x + parameters[1], y)
        # A weak pull to the identity keeps a perfectly separated set from an infinite scale.
        loss = loss + 1e-3 * (parameters**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    scale, bias = parameters.detach().tolist()
    return Platt(round(math.exp(scale), 4), round(bias, 4))


def calibrated(pack: Pack, studies: Sequence[Study]) -> Card:
    """The card with calibrations and thresholds fitted on studies that were not trained on."""
    raw, labels = scores_of(pack, studies), np.concatenate([s.labels for s in studies])
    bleeding = labels[:, 0]
    logits = {label: logit(np.concatenate([one[label] for one in raw])) for label in LABELS}
    slices = {ANY: platt(logits[ANY], bleeding)}
    for column, label in enumerate(SUBTYPES, start=1):  # these heads speak of slices with a bleed
        slices[label] = platt(logits[label][bleeding], labels[bleeding, column])
    card = replace(pack.card, calibration=Calibration(slices, dict.fromkeys(LABELS, Platt())))
    scores, truth = recalibrated(card, raw), study_truth(studies)
    study = {}
    for column, label in enumerate(LABELS):
        aggregates = np.array([aggregate(card.aggregation, one[label]) for one in scores])
        study[label] = platt(logit(aggregates), truth[:, column])
    card = replace(card, calibration=Calibration(slices, study))
    p = study_scores(card, scores)
    bleeds = truth[:, 0]
    review = best_cut(p[:, 0], bleeds)
    urgent = min(max(quantile(p[~bleeds, 0], URGENT_SPECIFICITY), review), 0.98)
    thresholds = Thresholds(
        urgent=urgent, review=review,
        subtypes={label: best_cut(p[:, i], truth[:, i]) for i, label in enumerate(SUBTYPES, start=1)},
    )  # fmt: skip
    return replace(card, thresholds=thresholds)


def quantile(values: Floats, share: float) -> float:
    """The value that `share` of the values lie below; 0.5 where there are none."""
    return round(float(np.quantile(values, share)), 3) if len(values) else 0.5


def study_truth(studies: Sequence[Study]) -> Bools:
    """(studies, 6): a study shows what any of its slices shows."""
    return np.stack([study.labels.any(axis=0) for study in studies])


def best_cut(p: Floats, truth: Bools) -> float:
    """The threshold of highest sensitivity + specificity, kept within 0.1 to 0.7."""
    if truth.all() or not truth.any():
        return 0.5
    cuts = np.linspace(0.1, 0.7, 61)
    youden = [np.mean(p[truth] >= cut) + np.mean(p[~truth] < cut) for cut in cuts]
    return round(float(cuts[int(np.argmax(youden))]), 2)


def study_scores(card: Card, scores: Sequence[dict[str, Floats]]) -> Floats:
    """(studies, 6) calibrated study probabilities."""
    return np.array([[study_probability(card, label, one[label]) for label in LABELS] for one in scores])


def auroc(p: Floats, truth: Bools) -> float:
    """Area under the ROC curve: how often a positive ranks above a negative, ties counting half."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return math.nan
    return round(float((rankdata(p)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative)), 4)


def measured(pack: Pack, studies: Sequence[Study], data: str) -> Performance:
    """What the pack does on studies that neither training nor calibration saw."""
    scores = [joint(pack.card, one) for one in scores_of(pack, studies)]
    p, truth = study_scores(pack.card, scores), study_truth(studies)
    labels = np.concatenate([s.labels for s in studies])
    areas = {
        label: Auroc(
            auroc(np.concatenate([one[label] for one in scores]), labels[:, i]), auroc(p[:, i], truth[:, i]),
            int(labels[:, i].sum()), int(truth[:, i].sum()),
        )
        for i, label in enumerate(LABELS)
    }  # fmt: skip
    operation = {}
    for name in ("review", "urgent"):
        flagged, bleeds = p[:, 0] >= pack.card.all_thresholds()[name], truth[:, 0]
        operation[name] = OperatingPoint(share(flagged[bleeds]), share(~flagged[~bleeds]))
    return Performance(data, len(labels), len(truth), areas, operation)


def share(hits: Bools) -> float:
    """Part that is true; not a number where there is nothing."""
    return round(float(hits.mean()), 4) if len(hits) else math.nan


def told(performance: Performance) -> str:
    """The figures in a line."""
    areas = ", ".join(f"{label} {area.slice:.3f} / {area.study:.3f}" for label, area in performance.auroc.items())
    points = ", ".join(f"{name} sensitivity {point.sensitivity:.3f} specificity {point.specificity:.3f}"
                       for name, point in performance.operation.items())  # fmt: skip
    return f"AUROC by slice / by study: {areas}; {points}"
