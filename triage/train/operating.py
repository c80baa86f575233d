"""Thresholds and what they do to studies: chosen by exact one-sided bounds of sensitivity; fits and scores nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from triage.errors import DataError
from triage.nn.card import Aggregation, Thresholds
from triage.records import ANY, SUBTYPES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
"""Of a lower bound, one-sided."""

MOST_POSITIVES = 100_000
"""Nobody counts further."""

HIGHEST_TARGET = 0.999
"""Of a sensitivity; 2,995 positives, all of them found, would show it."""

SUBTYPE_CUTS = np.linspace(0.1, 0.7, 61)
"""Thresholds a subtype may get."""

HIGHEST = 0.999999
"""No threshold is above this."""

Rule = Literal["bound", "estimate", "specificity", "youden"]
"""How a threshold was chosen: the lower bound of sensitivity reaches the target; or only its estimate does; the
estimate of specificity does; or sensitivity + specificity is highest."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to calibrate for."""

    aggregation: Aggregation = "top3_mean"
    review_sensitivity: float = 0.90
    """Of studies with a bleed, what the lower one-sided 95 % bound at the review threshold must reach."""
    urgent_specificity: float = 0.98
    """Of studies without a bleed, the share that must stay below the urgent threshold; no bound is asked for, since a
    study that misses it is still read early."""
    allow_unsupported: bool = False
    """Take the estimate where positives are too few for a bound; for demonstrations."""
    site_prevalence: float = 0.0
    """Share of studies with a bleed where the model is to work; 0: as in the calibration part."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does to the studies of the calibration part."""

    threshold: float
    rule: Rule
    target: float
    """What the rule asks for; 0 where it asks for no share."""
    n_positive: int
    n_negative: int
    sensitivity: float
    bound: float
    """Lower one-sided 95 % Clopper-Pearson bound of sensitivity."""
    specificity: float


def lower_bound(found: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Lower one-sided Clopper-Pearson bound.

    Args:
        found: Positives found.
        n: Positives there are.
        confidence: 0.975 gives the lower end of the usual two-sided 95 % interval.

    Returns:
        The share that the true one is above with this confidence; 0 where none was found.
    """
    return float(beta.ppf(1 - confidence, found, n - found + 1)) if found else 0.0


def found_needed(n: int, bound: float, confidence: float = CONFIDENCE) -> int | None:
    """How many of n positives must be found for the lower bound to reach `bound`; None: not even all of them do."""
    return next((k for k in range(math.floor(bound * n), n + 1) if lower_bound(k, n, confidence) >= bound), None)


def positives_needed(observed: float, bound: float, confidence: float = CONFIDENCE) -> int:
    """The fewest positives with which an observed sensitivity shows a true one.

    Args:
        observed: Share of the positives found, rounded down to whole ones.
        bound: What the lower bound must reach; below `observed`, unless that is 1.
        confidence: As for `lower_bound`.

    Returns:
        The number of positives.

    Raises:
        ValueError: No number does.
    """
    if not 0 < bound < observed <= 1:
        raise ValueError(f"a sensitivity of {observed} never shows one of {bound}")
    for n in range(1, MOST_POSITIVES):
        if lower_bound(math.floor(observed * n + 1e-9), n, confidence) >= bound:
            return n
    raise ValueError(f"a sensitivity of {observed} needs more than {MOST_POSITIVES} positives to show {bound}")


def operating_points(p: Mapping[str, Floats], truth: Mapping[str, Bools], options: Options) -> dict[str, Point]:
    """Choose every threshold.

    Args:
        p: By label, (m,) calibrated probabilities of studies; subtypes may be missing.
        truth: By label, (m,)
        options: What to choose for.

    Returns:
        By name of the threshold, what it does to these studies.

    Raises:
        DataError: Positives are too few for the bound; the message says how many are missing.
    """
    cut, rule = _review(p[ANY], truth[ANY], options)
    points = {"review": _point((cut, rule, options.review_sensitivity), p[ANY], truth[ANY])}
    urgent = max(cut, specific_cut(p[ANY], truth[ANY], options.urgent_specificity))
    points["urgent"] = _point((urgent, "specificity", options.urgent_specificity), p[ANY], truth[ANY])
    for label in SUBTYPES:
        if label in p:
            points[label] = _point((best_cut(p[label], truth[label]), "youden", 0.0), p[label], truth[label])
    return points


def _review(p: Floats, truth: Bools, options: Options) -> tuple[float, Rule]:
    n, target = int(truth.sum()), options.review_sensitivity
    if not 0 < target <= HIGHEST_TARGET:
        raise DataError(f"review sensitivity {target:g}: must lie between 0 and {HIGHEST_TARGET:g}")
    needed = found_needed(n, target)
    if needed is not None:
        return sensitive_cut(p, truth, needed), "bound"
    if not options.allow_unsupported:
        least = positives_needed(1.0, target)
        usual = f"{positives_needed(0.95, target)} where 95 % are found" if target < 0.95 else "far more otherwise"
        raise DataError(
            f"{n} studies with a bleed in the calibration part cannot show a sensitivity whose lower {CONFIDENCE:.0%} "
            f"bound is {target:g}: at least {least} are needed, all of them found ({usual}); {least - n} are missing. "
            "Calibrate on more patients, ask for less, or allow the estimate for a demonstration (--allow-unsupported)"
        )
    return sensitive_cut(p, truth, math.ceil(target * n - 1e-9)), "estimate"


def sensitive_cut(p: Floats, truth: Bools, found: int) -> float:
    """The highest threshold at which so many positives are found.

    The number is fixed before the scores are looked at, so the Clopper-Pearson bound at this threshold is exact: the
    true sensitivity at the k-th highest of n positive scores has just the distribution that it is computed from.

    Args:
        p: (n,) probabilities.
        truth: (n,)
        found: How many positives must reach the threshold; 0: 0.5 is returned.

    Returns:
        A short number between the last positive that counts and the next lower score, whose it may be.
    """
    if found < 1:
        return 0.5
    last = float(np.sort(p[truth])[-found])
    return _between(float(p[p < last].max(initial=0.0)), last)


def specific_cut(p: Floats, truth: Bools, share: float) -> float:
    """The lowest threshold below which at least this share of the negatives stay; 0.5 where there are none."""
    negatives = np.sort(p[~truth])
    if not len(negatives):
        return 0.5
    highest = float(negatives[max(math.ceil(share * len(negatives) - 1e-9), 1) - 1])
    return _between(highest, float(p[p > highest].min(initial=1.0)))


def _between(low: float, high: float) -> float:
    """The shortest decimal number above low, at most high, near their middle."""
    for digits in range(2, 12):
        cut = round((low + high) / 2, digits)
        if low < cut <= high and 0 < cut <= HIGHEST:
            return cut
    return min(high, HIGHEST)


def best_cut(p: Floats, truth: Bools) -> float:
    """The threshold of highest sensitivity + specificity (Youden 1950) among SUBTYPE_CUTS."""
    if truth.all() or not truth.any():
        return 0.5
    youden = [np.mean(p[truth] >= cut) + np.mean(p[~truth] < cut) for cut in SUBTYPE_CUTS]
    return round(float(SUBTYPE_CUTS[int(np.argmax(youden))]), 2)


def _point(chosen: tuple[float, Rule, float], p: Floats, truth: Bools) -> Point:
    threshold, rule, target = chosen
    found, n = int((p[truth] >= threshold).sum()), int(truth.sum())
    passed, negatives = int((p[~truth] < threshold).sum()), int((~truth).sum())
    return Point(
        threshold, rule, target, n, negatives, round(found / max(n, 1), 4), round(lower_bound(found, n), 4),
        round(passed / max(negatives, 1), 4),
    )  # fmt: skip


def thresholds_of(points: Mapping[str, Point]) -> Thresholds:
    """As a card holds them."""
    subtypes = {label: points[label].threshold for label in SUBTYPES if label in points}
    return Thresholds(points["urgent"].threshold, points["review"].threshold, subtypes)
