"""Calibrates heads and studies on patients held out, and chooses thresholds by bounds; trains and scores nothing.

    logits --Platt by head--> P(slice) --aggregated as the node does, Platt by label--> P(study) --> thresholds

A sampler that shows the network more bleeds than there are shifts its logits; a scale and a *bias* take that back
(Platt 1999; Guo 2017, arXiv 1706.04599, for why the scale alone does not). The fit wants slices as they come, of
patients that were not trained on.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from triage.errors import DataError
from triage.nn.card import Aggregation, Calibration, Platt, Thresholds
from triage.nn.predict import logit
from triage.records import ANY, LABELS
from triage.train.cache import Index, Rows, write_atomically
from triage.train.metrics import calibration_error
from triage.train.operating import Options, Point, operating_points, thresholds_of
from triage.train.recipes import Recipe
from triage.train.scores import Scores, slice_probabilities, study_probabilities, study_rows, study_truth
from triage.train.splits import split_rows

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CALIBRATION = "calibration.json"
"""File in the folder of a run."""

PART = "calibration"
"""Part of the split by patient that is fitted on."""

PRIOR_SCALE, PRIOR_BIAS = 1.0, 3.0
"""Standard deviations of log scale and bias before anything is seen. So weak, they decide only where slices are few."""

@dataclass(frozen=True)
class Calibrated:
    """Calibrations, thresholds, and what they were chosen from; calibration.json."""

    slice: dict[str, Platt]
    study: dict[str, Platt]
    thresholds: Thresholds
    aggregation: Aggregation
    operating_points: dict[str, Point]
    """By name of the threshold."""
    error_before: dict[str, float]
    """By label, calibration error of slice probabilities as the heads give them."""
    error_after: dict[str, float]
    prevalence: float
    """Share of studies with a bleed in the calibration part."""
    site_prevalence: float
    """That the study calibration of "any" was shifted to; 0 where it was not."""
    site_shift: float
    """Added to the bias of that calibration, log odds."""
    options: Options
    n_studies: int
    n_slices: int
    part: str = PART

    @property
    def calibration(self) -> Calibration:
        """As a card holds it."""
        return Calibration(self.slice, self.study)

    @property
    def is_supported(self) -> bool:
        """Whether the data bear the review threshold: its bound reaches the target."""
        return self.operating_points["review"].rule == "bound"


def calibration_rows(recipe: Recipe, index: Index) -> Rows:
    """The slices to calibrate on: every slice of the patients held out for it, whatever the recipe trained on.

    Args:
        recipe: Of the run.
        index: Of its cache.

    Returns:
        Rows of the cache.

    Raises:
        DataError: The split holds no patient out.
    """
    if recipe.split != "patient":
        raise DataError(
            f"recipe {recipe.name}: split {recipe.split} has no part of patients held out to calibrate on; train again "
            "with --set split=patient"
        )
    return split_rows(index, "patient", recipe.split_salt)[PART]


def platt(logits: Floats, truth: Bools) -> Platt:
    """Fit scale and bias by logistic regression.

    Args:
        logits: (n,)
        truth: (n,)

    Returns:
        The most probable calibration under a weak prior around the identity; the identity where truth is all one or
        all the other.
    """
    if truth.all() or not truth.any():
        return Platt()
    target, n = truth.astype(np.float64), len(truth)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        log_scale, bias = parameters
        scale = math.exp(log_scale)
        z = scale * logits + bias
        error = 0.5 + 0.5 * np.tanh(0.5 * z) - target
        value = (np.logaddexp(0.0, z) - target * z).mean()
        value += ((log_scale / PRIOR_SCALE) ** 2 + (bias / PRIOR_BIAS) ** 2) / (2 * n)
        slope = (error * scale * logits).mean() + log_scale / PRIOR_SCALE**2 / n
        return value, np.array([slope, error.mean() + bias / PRIOR_BIAS**2 / n])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-5.0, 5.0), (-50.0, 50.0)])
    log_scale, bias = found.x
    return Platt(round(math.exp(log_scale), 4), round(float(bias), 4))


def calibrated(scores: Scores, index: Index, options: Options) -> Calibrated:
    """Fit everything on the scored slices.

    Heads first: "any" on all slices, a subtype's on slices that bleed, of which alone it speaks. Then each label's
    study probability, from slice probabilities composed and aggregated as the node does. Then the thresholds.

    Args:
        scores: Of the slices of `calibration_rows`, with "any" among the labels.
        index: Of the whole cache.
        options: What to calibrate for.

    Returns:
        Calibrations by label scored, and thresholds.

    Raises:
        DataError: A label shows in no study or in all, or positives are too few for the bound; the message says how
            many are missing.
    """
    if ANY not in scores.labels:
        raise DataError("a subtype run alone cannot be calibrated: studies need P(any); name its binary run too")
    labels = index.labels[scores.rows]
    studies = study_rows(index, scores.rows)
    truth = dict(zip(LABELS, study_truth(studies, labels).T, strict=True))
    if not options.allow_unsupported:
        _require_both(scores.labels, truth)
    slices = _slice_platts(scores, labels)
    before, after = slice_probabilities(scores), slice_probabilities(scores, slices)
    raw = study_probabilities(studies, after, options.aggregation)
    study = {label: platt(logit(raw[label]), truth[label]) for label in scores.labels}
    prevalence = float(truth[ANY].mean())
    shift = _site_shift(options.site_prevalence, prevalence)
    study[ANY] = replace(study[ANY], bias=round(study[ANY].bias + shift, 4))
    p = study_probabilities(studies, after, options.aggregation, study)
    points = operating_points(p, truth, options)
    columns = {label: labels[:, LABELS.index(label)] for label in scores.labels}
    return Calibrated(
        slice=slices, study=study, thresholds=thresholds_of(points), aggregation=options.aggregation,
        operating_points=points, error_before=_errors(before, columns), error_after=_errors(after, columns),
        prevalence=prevalence, site_prevalence=options.site_prevalence, site_shift=round(shift, 4), options=options,
        n_studies=len(studies), n_slices=len(labels),
    )  # fmt: skip


def _require_both(labels: Sequence[str], truth: Mapping[str, Bools]) -> None:
    for label in labels:
        shown, n = int(truth[label].sum()), len(truth[label])
        if shown in (0, n):
            lacking = "positive" if shown == 0 else "negative"
            raise DataError(
                f"part {PART}: no {lacking} study for {label!r} among {n}; add patients, or draw again with another "
                "split_salt and train again"
            )


def _slice_platts(scores: Scores, labels: Bools) -> dict[str, Platt]:
    """By label; subtype heads on slices that bleed."""
    bleeding = labels[:, LABELS.index(ANY)]
    platts = {}
    for label in scores.labels:
        kept = np.ones(len(labels), np.bool_) if label == ANY else bleeding
        platts[label] = platt(scores.column(label)[kept], labels[kept, LABELS.index(label)])
    return platts


def _errors(p: Mapping[str, Floats], truth: Mapping[str, Bools]) -> dict[str, float]:
    return {label: round(float(calibration_error(p[label], truth[label])), 5) for label in p}


def _site_shift(site: float, prevalence: float) -> float:
    """Log odds between the prevalence of the site and that of the calibration part; 0 where none is named."""
    if not site:
        return 0.0
    if not 0 < site < 1 or not 0 < prevalence < 1:
        raise DataError(f"site prevalence {site:g}: must lie between 0 and 1, and the part ({prevalence:.3f}) too")
    return math.log(site / (1 - site)) - math.log(prevalence / (1 - prevalence))


def write_calibration(folder: Path, result: Calibrated) -> None:
    """Write calibration.json into the folder of a run, whole or not at all."""
    write_atomically(folder / CALIBRATION, json.dumps(asdict(result), indent=2).encode())


def read_calibration(folder: Path) -> Calibrated | None:
    """Read calibration.json of a run.

    Args:
        folder: Of the run.

    Returns:
        What was fitted; None where nothing was.

    Raises:
        DataError: The file is damaged or of another version.
    """
    path = folder / CALIBRATION
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for level in ("slice", "study"):
            table[level] = {label: Platt(**values) for label, values in table[level].items()}
        table["operating_points"] = {name: Point(**values) for name, values in table["operating_points"].items()}
        table["thresholds"] = Thresholds(**table["thresholds"])
        table["options"] = Options(**table["options"])
        return Calibrated(**table)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise DataError(f"{path}: damaged or of another version ({type(e).__name__}); calibrate again") from e
