"""The figures of honest tests as records, how cases are counted into them, and what a card says; scores nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from triage.phantom.lesions import ACUTE
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.metrics import Bools, Floats, Rate, auroc, bootstrap_by_patient, rate
from triage.train.pointing import Pointing

BANDS_ML = ((0.1, 1.0), (1.0, 5.0), (5.0, 20.0), (20.0, 60.0))
"""Volumes that detection is told by; what is smaller or larger falls into the first or last."""

ALL_ML = (BANDS_ML[0][0], BANDS_ML[-1][1])

ALL, LARGE = "all", "5 mL and more"
"""What AUROC of painted bleeds is told of."""

LARGE_ML = 5.0

DRAWS = (1000, 1)
"""Of every bootstrap: resamplings and seed."""

LEAST_STUDIES = 5
"""With fewer studies of a class a bootstrap says nothing of the spread: no interval is given."""


@dataclass(frozen=True, slots=True)
class Area:
    """An AUROC with its interval from a bootstrap by study."""

    value: float
    low: float
    """NaN, like high, where fewer than LEAST_STUDIES of a class are there."""
    high: float
    n: int
    positives: int


@dataclass(frozen=True, slots=True)
class Case:
    """One bleed, or all of a study, and what became of it."""

    label: str
    volume_ml: float
    found: bool
    """Whether its study reached the review threshold."""
    slices: int
    """That truly show it."""
    slices_found: int
    """Of those, with P(any) at the review threshold or above."""
    stage: str = ""
    """Age of the blood, one of triage.phantom.lesions.STAGES; empty for all of a study."""
    slices_before: int | None = None
    """The same slices of the untouched head at the threshold or above; None where there is no such head."""
    study_change: float = np.nan
    """P(any) of the study less that of the untouched head."""
    slice_change: float = np.nan
    """The same of the slices that show it, on average."""
    p: tuple[float, ...] = ()
    """P(any) of the slices that show it."""
    p_before: tuple[float, ...] = ()
    """The same slices of the untouched head."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Cases of one label, and age of blood where it is not acute, in a band of volume."""

    label: str
    band_ml: tuple[float, float]
    n: int
    found: Rate
    slices: int
    slices_found: float
    """Share; without an interval, as slices of one head are not independent."""
    slices_before: float
    """Share of the same slices of the untouched head; NaN where there is no such head."""
    study_change: float
    slice_change: float


@dataclass(frozen=True, slots=True)
class PhantomTrial:
    """On phantoms of unseen seeds."""

    profile: str
    phantom_version: str
    first_seed: int
    n_studies: int
    n_slices: int
    by_study: dict[str, Area]
    by_slice: dict[str, Area]
    positives: int
    sensitivity: Rate
    """Of studies at the review threshold."""
    specificity: Rate
    detections: tuple[Detection, ...]
    pointings: tuple[Pointing, ...]


@dataclass(frozen=True, slots=True)
class NegativeTrial:
    """On a real series without a bleed."""

    name: str
    outcome: str
    priority: str
    reason: str
    """Why it was not analysed; empty when it was."""
    p_any: float
    n_slices: int
    n_above: int
    """Slices with P(any) at the review threshold or above."""
    scores: tuple[float, ...]
    """P(any) of every slice, caudal to cranial."""
    others: dict[str, float] = field(default_factory=dict)
    """P of the study, by subtype."""


@dataclass(frozen=True, slots=True)
class ImplantTrial:
    """On bleeds painted into a real head."""

    name: str
    reason: str
    """Why it was not possible; empty when it was."""
    untouched_p: float
    untouched_positive: bool
    """Then most studies are found, whatever was painted: only slices and changes tell something."""
    n: int
    no_room: int
    detections: tuple[Detection, ...]
    areas: dict[str, Area] = field(default_factory=dict)
    """By what is counted: P(any) of slices with a painted bleed against that of the same slices untouched."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a head, scored as a study of one slice."""

    name: str
    kind: str
    """Subtype, or empty for no bleed."""
    p: dict[str, float]
    found: bool


@dataclass(frozen=True, slots=True)
class PictureTrial:
    """On pictures whose greys were turned back into HU."""

    name: str
    window: tuple[float, float]
    """Width and level in HU."""
    fov_mm: float
    any: Area
    kinds: dict[str, Area]
    """By kind: P(any) of its pictures against that of pictures without a bleed."""
    own: dict[str, Area]
    """By kind: P(kind) of its pictures against that of all others."""
    found: dict[str, Rate]
    """By kind: share at the review threshold."""
    false: Rate
    """The same of pictures without a bleed."""
    shots: tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class Trials:
    """Every honest test of one pack."""

    name: str
    version: str
    sha256: str
    thresholds: dict[str, float]
    phantoms: tuple[PhantomTrial, ...]
    negatives: tuple[NegativeTrial, ...] = ()
    implants: tuple[ImplantTrial, ...] = ()
    pictures: tuple[PictureTrial, ...] = ()


def area(p: Floats, truth: Bools, groups: npt.NDArray[np.str_]) -> Area:
    """Measure an AUROC.

    Args:
        p: (n,) probabilities.
        truth: (n,)
        groups: (n,) study of each; resampled together.

    Returns:
        The figure; NaN where a class is missing.
    """
    value, (low, high) = auroc(p, truth), (np.nan, np.nan)
    studies = min(len(np.unique(groups[truth])), len(np.unique(groups[~truth])))
    if studies >= LEAST_STUDIES:
        low, high = bootstrap_by_patient(p, truth, groups, draws=DRAWS)
        if value == 1.0:  # no resampling differs: bound what one study of the rarer class may do
            low = rate(studies, studies).low
    return Area(value, low, high, len(p), int(truth.sum()))


def painted_areas(cases: Sequence[Case]) -> dict[str, Area]:
    """Slices with a painted bleed against the same slices of the untouched head, so that only the bleed counts.

    Args:
        cases: With `p` and `p_before`.

    Returns:
        By ALL and LARGE; resampled by painted bleed.
    """
    areas = {}
    for name, least_ml in ((ALL, 0.0), (LARGE, LARGE_ML)):
        some = [c for c in cases if c.volume_ml >= least_ml]
        p = np.array([v for c in some for v in (*c.p, *c.p_before)])
        truth = np.array([there for c in some for there in [True] * len(c.p) + [False] * len(c.p_before)], np.bool_)
        groups = np.array([str(k) for k, c in enumerate(some) for _ in (*c.p, *c.p_before)], np.str_)
        areas[name] = area(p, truth, groups)
    return areas


def detections(cases: Sequence[Case]) -> tuple[Detection, ...]:
    """Count cases by label and band, and apart once more those that are not acute; rows without a case are left out."""
    found = []
    for label in LABELS:
        own = [c for c in cases if c.label == label]
        rows = [(label, band, [c for c in own if band_of(c.volume_ml) == band]) for band in BANDS_ML]
        stages = dict.fromkeys(c.stage for c in own if c.stage not in ("", ACUTE))
        rows += [(f"{label}, {stage}", ALL_ML, [c for c in own if c.stage == stage]) for stage in stages]
        found += [_detection(*row) for row in rows if row[2]]
    return tuple(found)


def band_of(volume_ml: float) -> tuple[float, float]:
    """The band that a volume falls into."""
    return next((band for band in BANDS_ML if volume_ml < band[1]), BANDS_ML[-1])


def above(trial: Sequence[Detection], least_ml: float, labels: Iterable[str] = SUBTYPES) -> tuple[Rate, float, int]:
    """Detection of all bleeds from a volume on.

    Args:
        trial: Counts by label and band.
        least_ml: Lower edge of the first band that counts.
        labels: That count.

    Returns:
        Share of studies and share of slices found, and the number of bleeds.
    """
    some = [d for d in trial if d.label in tuple(labels) and d.band_ml[0] >= least_ml]
    n, slices = sum(d.n for d in some), sum(d.slices for d in some)
    studies_found = sum(round(d.found.value * d.n) for d in some if d.n)
    slices_found = sum(round(d.slices_found * d.slices) for d in some if d.slices)
    return rate(studies_found, n), slices_found / slices if slices else np.nan, n


def _detection(label: str, band: tuple[float, float], cases: Sequence[Case]) -> Detection:
    slices = sum(c.slices for c in cases)
    before = [c.slices_before for c in cases if c.slices_before is not None]
    return Detection(
        label, band, len(cases), rate(sum(c.found for c in cases), len(cases)), slices,
        sum(c.slices_found for c in cases) / slices if slices else np.nan,
        sum(before) / slices if slices and len(before) == len(cases) else np.nan,
        _mean([c.study_change for c in cases]), _mean([c.slice_change for c in cases]),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float(np.nan)


NOTE = "Honest test: "
"""How a card's notes of such figures open; later figures take their place."""


def notes(trials: Trials) -> list[str]:
    """The figures in sentences, for the notes of a model card; each opens with NOTE."""
    told = [
        *map(_phantom_note, trials.phantoms),
        *(_pointing_note(t.profile, t.pointings[0]) for t in trials.phantoms if t.pointings and t.pointings[0].n),
        *map(_negative_note, trials.negatives), *map(_implant_note, trials.implants),
        *map(_picture_note, trials.pictures),
    ]  # fmt: skip
    return [NOTE + note for note in told]


def told(one: Area) -> str:
    """An AUROC with its interval, where it has one."""
    if np.isnan(one.value):
        return "-"
    return f"{one.value:.3f}" + ("" if np.isnan(one.low) else f" ({one.low:.3f} to {one.high:.3f})")


def share(one: Rate | float) -> str:
    """A share in per cent."""
    value = one.value if isinstance(one, Rate) else one
    return "-" if np.isnan(value) else f"{value:.0%}"


def _phantom_note(t: PhantomTrial) -> str:
    areas = ", ".join(f"{label} {told(t.by_slice[label])} / {told(t.by_study[label])}" for label in LABELS)
    found, _, n = above(t.detections, LARGE_ML, (ANY,))
    return (
        f"On {t.n_studies} phantoms of profile {t.profile} (phantom {t.phantom_version}, seeds {t.first_seed} to "
        f"{t.first_seed + t.n_studies - 1}, never trained on; {t.positives} with a bleed): AUROC by slice / by study: "
        f"{areas}; at the review threshold sensitivity {share(t.sensitivity)}, specificity {share(t.specificity)} by "
        f"study; {share(found)} of {n} with 5 mL and more found.{_old_note(t.detections)}"
    )


def _pointing_note(profile: str, one: Pointing) -> str:
    return (
        f"Activation maps of any bleed that was found on phantoms of profile {profile}: {share(one.inside)} of {one.n} "
        f"peaks lie in the bleed (chance {one.chance:.1%})."
    )


def _negative_note(t: NegativeTrial) -> str:
    if t.reason:
        return f"Real series without a bleed, {t.name}: not analysed ({t.reason})."
    return (
        f"Real series without a bleed, {t.name}: {t.outcome}, priority {t.priority}, P(any) {t.p_any:.3f}; "
        f"{t.n_above} of {t.n_slices} slices at the review threshold or above, highest {max(t.scores):.3f}."
    )


def _implant_note(t: ImplantTrial) -> str:
    if t.reason:
        return f"Bleeds painted into {t.name}: not possible ({t.reason})."
    large, slices, n = above(t.detections, LARGE_ML)
    all_found, _, total = above(t.detections, 0.0)
    beware = " The untouched head is positive, so that rates by study say little." if t.untouched_positive else ""
    return (
        f"Bleeds painted into the real head {t.name}: {share(all_found)} of {total} studies found; of 5 mL and more "
        f"{share(large)} of {n} by study, {share(slices)} of bleeding slices; their AUROC by slice against the "
        f"same slices untouched {told(t.areas[LARGE])}.{_old_note(t.detections)}{beware}"
    )


def _old_note(rows: Sequence[Detection]) -> str:
    """What became of bleeds that are not acute, which are among the figures before."""
    old = [f"{d.label} {share(d.found)} of {d.n}" for d in rows if "," in d.label]
    return f" Found by study of bleeds that are not acute: {'; '.join(old)}." if old else ""


def _picture_note(t: PictureTrial) -> str:
    kinds = ", ".join(f"{kind} {told(one)}" for kind, one in t.kinds.items())
    return (
        f"Simulated CT of another maker, {t.name}: {t.any.n} pictures, {t.any.positives} with a bleed: AUROC of any "
        f"{told(t.any)}; {kinds}; at the review threshold {share(t.false)} of those without a bleed are found."
    )
