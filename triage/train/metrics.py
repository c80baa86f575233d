"""Figures of merit of probabilities against truth, with intervals; arrays in, records out; knows no cache or network.

A figure that needs a class which is missing is NaN, never an error: a rare subtype may be absent from a small part.
scikit-learn is imported where it is used, so that a training loop can watch AUROC and F1 on a machine without it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = 15
"""Bins of equal mass of the calibration error; the field's usual number."""

REPETITIONS = 2000
"""Resamplings of a bootstrap."""

CONFIDENCE = 0.95
"""Of every interval."""

PREVALENCES = (0.06, 0.10, 0.15)
"""Shares of positive studies that predictive values are shown at: emergency lists run from 6 to 15 %."""

Statistic = Callable[[Floats, Floats], float]
"""A figure from the (g,) positives and (g,) negatives at each distinct score, ascending; counts or weights."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its Clopper-Pearson interval; all NaN where there was nothing to count."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at a threshold."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Everything measured of one label."""

    n: int
    positives: int
    threshold: float
    """From which a probability counts as positive."""
    auroc: float
    average_precision: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    sensitivity: Rate
    specificity: Rate
    brier: float
    calibration_error: float
    confusion: Confusion


@dataclass(frozen=True, slots=True)
class PredictiveValue:
    """What a flag, or its absence, means at a prevalence."""

    prevalence: float
    ppv: float
    npv: float


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """One bin of a reliability diagram."""

    n: int
    p: float
    """Mean probability."""
    observed: float
    """Share of positives."""


def measured(p: Floats, truth: Bools, threshold: float = 0.5) -> LabelMetrics:
    """Measure one label.

    Args:
        p: (n,) probabilities.
        truth: (n,)
        threshold: From which a probability counts as positive.

    Returns:
        The figures; those that cannot be had are NaN.
    """
    counts = confusion(p, truth, threshold)
    tp, fp, tn, fn = counts.true_positive, counts.false_positive, counts.true_negative, counts.false_negative
    sensitivity, specificity = rate(tp, tp + fn), rate(tn, tn + fp)
    return LabelMetrics(
        n=len(p), positives=tp + fn, threshold=threshold,
        auroc=auroc(p, truth),
        average_precision=average_precision(p, truth),
        accuracy=_ratio(tp + tn, len(p)),
        balanced_accuracy=(sensitivity.value + specificity.value) / 2,
        f1=f1(p, truth, threshold),
        sensitivity=sensitivity, specificity=specificity,
        brier=float(np.mean((p - truth) ** 2)) if len(p) else np.nan,
        calibration_error=calibration_error(p, truth),
        confusion=counts,
    )  # fmt: skip


def confusion(p: Floats, truth: Bools, threshold: float = 0.5) -> Confusion:
    """Count right and wrong answers at a threshold."""
    said = p >= threshold
    return Confusion(int((said & truth).sum()), int((said & ~truth).sum()),
                     int((~said & ~truth).sum()), int((~said & truth).sum()))  # fmt: skip


def rate(k: int, n: int) -> Rate:
    """A share k of n and its two-sided Clopper-Pearson interval (Biometrika 1934; 26: 404)."""
    if not n:
        return Rate(np.nan, np.nan, np.nan)
    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="exact")
    return Rate(k / n, float(interval.low), float(interval.high))


def auroc(p: Floats, truth: Bools) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half; NaN without both."""
    return auroc_of_counts(*_counts(p, truth))


def average_precision(p: Floats, truth: Bools) -> float:
    """Area under the precision-recall curve as a sum of steps; NaN without positives."""
    return average_precision_of_counts(*_counts(p, truth))


def auroc_of_counts(positives: Floats, negatives: Floats) -> float:
    """AUROC as a `Statistic`."""
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / pairs) if pairs > 0 else np.nan


def average_precision_of_counts(positives: Floats, negatives: Floats) -> float:
    """Average precision as a `Statistic`."""
    if not positives.sum() > 0:
        return np.nan
    found = np.cumsum(positives[::-1])
    flagged = found + np.cumsum(negatives[::-1])
    return float((positives[::-1] * found / np.where(flagged > 0, flagged, 1)).sum() / positives.sum())


def f1(p: Floats, truth: Bools, threshold: float = 0.5) -> float:
    """Harmonic mean of precision and recall; NaN without positives."""
    counts = confusion(p, truth, threshold)
    right = 2 * counts.true_positive
    return _ratio(right, right + counts.false_positive + counts.false_negative) if truth.any() else np.nan


def calibration_error(p: Floats, truth: Bools, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of probability and share of positives over bins of equal mass."""
    points = calibration_curve(p, truth, bins)
    return sum(one.n * abs(one.p - one.observed) for one in points) / len(p) if len(p) else np.nan


def calibration_curve(p: Floats, truth: Bools, bins: int = BINS) -> list[CalibrationPoint]:
    """The points of a reliability diagram.

    Args:
        p: (n,) probabilities.
        truth: (n,)
        bins: Of equal mass, fewer where n is smaller.

    Returns:
        A point a bin, by rising probability. Slices of the same probability count alike whatever their order.
    """
    values, group = np.unique(p, return_inverse=True)
    share = np.bincount(group, truth, len(values)) / np.maximum(np.bincount(group, minlength=len(values)), 1)
    parts = np.array_split(np.sort(group), min(bins, len(p))) if len(p) else []
    return [CalibrationPoint(len(part), float(values[part].mean()), float(share[part].mean())) for part in parts]


def predictive_values(
    sensitivity: float, specificity: float, prevalences: Sequence[float] = PREVALENCES
) -> list[PredictiveValue]:
    """Positive and negative predictive value at given prevalences (Bayes); NaN where nothing would be flagged."""
    values = []
    for prevalence in prevalences:
        hit, miss = prevalence * sensitivity, prevalence * (1 - sensitivity)
        alarm, calm = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
        values.append(PredictiveValue(prevalence, _ratio(hit, hit + alarm), _ratio(calm, calm + miss)))
    return values


def bootstrap_by_patient(
    p: Floats,
    truth: Bools,
    patients: npt.NDArray[np.str_],
    statistic: Statistic = auroc_of_counts,
    draws: tuple[int, int] = (REPETITIONS, 1),
) -> tuple[float, float]:
    """Percentile interval of a figure by resampling patients, whose slices are not independent of each other.

    Args:
        p: (n,) probabilities.
        truth: (n,)
        patients: (n,) of each slice or study.
        statistic: Of weighted counts; `auroc_of_counts` or `average_precision_of_counts`.
        draws: How many resamplings, and the seed.

    Returns:
        Low and high; NaN where no resampling gave the figure.
    """
    _, group = np.unique(p, return_inverse=True)
    names, patient = np.unique(patients, return_inverse=True)
    g = int(group.max(initial=-1)) + 1
    figures = []
    for weights in patient_draws(len(names), draws):
        of_slices = weights[patient]
        positives, negatives = (np.bincount(group[which], of_slices[which], g) for which in (truth, ~truth))
        figures.append(statistic(positives.astype(np.float64), negatives.astype(np.float64)))
    kept = [v for v in figures if np.isfinite(v)]
    if not kept:
        return np.nan, np.nan
    low, high = np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def patient_draws(n: int, draws: tuple[int, int] = (REPETITIONS, 1)) -> Iterator[Floats]:
    """How often each of n patients is drawn, in each of so many resamplings from a seed; (n,) each."""
    repetitions, seed = draws
    generator = np.random.default_rng(seed)
    for _ in range(repetitions if n else 0):
        yield np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64)


def _counts(p: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """Positives and negatives at each distinct score, ascending."""
    values, group = np.unique(p, return_inverse=True)
    g = len(values)
    return (np.bincount(group[truth], minlength=g).astype(np.float64),
            np.bincount(group[~truth], minlength=g).astype(np.float64))  # fmt: skip


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float(np.nan)
