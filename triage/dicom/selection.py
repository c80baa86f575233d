"""Series of a study -> the one to analyse, and a reason for each of the others; headers only, no files.

What is wanted is a plain (non-contrast), axial, primary reconstruction of the whole head with a soft kernel. The
reasons are read by PACS administrators who wonder why a study was not analysed: each names the attribute and its value.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from triage.dicom import rules
from triage.dicom.descriptions import NON_CONTRAST
from triage.dicom.geometry import MAX_AXIAL_DEG, order
from triage.dicom.kernels import is_sharp
from triage.errors import StudyError
from triage.records import Instance, Selection, SeriesVerdict, Slice, Stack

MIN_SLICES = 10
"""Fewer slices cannot show a whole head."""

MAX_SLICES = 1200
"""More slices of at most MAX_COVERAGE_MM are thinner than any scanner makes them."""

MIN_COVERAGE_MM, MAX_COVERAGE_MM = 80.0, 300.0
"""Least extent that shows the brain, and most that is still a head."""

MAX_MISSING_FRACTION = 0.05
"""More slices than this missing (and more than one) leave too much of the head unseen."""

WANTED_THICKNESS_MM = 5.0
"""Slice thickness of the training data."""

SPACING_TOLERANCE_MM = 1e-3
"""Pixel spacings that differ by less are equal."""

SAME_ANATOMY = 0.8
"""An acquisition that covers less than this of its whole series is a piece of it, not a repetition."""

MAX_AS_IRREGULAR = 3
"""More irregular steps than this weigh no more: some protocols change the step on purpose."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A part of a series as it was judged."""

    instances: tuple[Instance, ...]
    stack: Stack | None = None
    reasons: tuple[str, ...] = ()
    """Why it is not usable; empty when it is."""
    remarks: tuple[str, ...] = ()
    """What was left out of it."""
    score: float = -math.inf


def select(instances: Sequence[Instance]) -> Selection:
    """Choose the series of a study that is analysed.

    Args:
        instances: All instances of one study, any order.

    Returns:
        The chosen series with its stack, if there is one, and a verdict on every series in order of its number.
    """
    series: dict[str, dict[str, Instance]] = {}
    for instance in instances:
        series.setdefault(instance.series_uid, {}).setdefault(instance.sop_instance_uid, instance)
    candidates = {uid: _judge_series(tuple(members.values())) for uid, members in series.items()}
    counts = {uid: len(members) for uid, members in series.items()}
    usable = [uid for uid, c in candidates.items() if not c.reasons]
    best = max(usable, key=lambda uid: (candidates[uid].score, -_series_number(candidates[uid])), default=None)
    verdicts = [_verdict(uid, c, counts[uid], candidates[best] if best else None) for uid, c in candidates.items()]
    verdicts.sort(key=lambda v: (v.series_number is None, v.series_number or 0))
    if best is None:
        return Selection(None, (), None, tuple(verdicts))
    return Selection(best, candidates[best].instances, candidates[best].stack, tuple(verdicts))


def _series_number(candidate: _Candidate) -> float:
    number = candidate.instances[0].series_number
    return math.inf if number is None else number


def _judge_series(members: tuple[Instance, ...]) -> _Candidate:
    """Judge a series; images of another kind within it (a localizer before the axial ones) are left out first."""
    fitting = tuple(i for i in members if not rules.image_faults(i))
    if not fitting:
        return _Candidate(members, reasons=(*rules.image_faults(*members), *rules.series_faults(members)))
    remarks: tuple[str, ...] = ()
    if others := [i for i in members if rules.image_faults(i)]:
        why = "; ".join(rules.image_faults(*others))
        remarks = (f"{len(others)} of {len(members)} images left out: {why}",)
    reasons = rules.series_faults(fitting)
    if reasons:
        return _Candidate(fitting, reasons=reasons, remarks=remarks)
    whole = _judge_stack(fitting)
    best = max((whole, *_acquisitions(fitting, whole)), key=_usable_then_score)
    return replace(best, remarks=(*remarks, *best.remarks))


def _usable_then_score(candidate: _Candidate) -> tuple[bool, bool, float]:
    """An acquisition by itself comes before a mixture of several."""
    return not candidate.reasons, bool(candidate.remarks), candidate.score


def _acquisitions(members: tuple[Instance, ...], whole: _Candidate) -> list[_Candidate]:
    """Judge each acquisition by itself where the series as a whole holds several of the same anatomy.

    Acquisitions that share a position or two and continue each other (posterior fossa, then vertex) stay together.
    """
    numbers = Counter(s.acquisition_number for i in members for s in i.slices)
    is_mixed = whole.stack is None or bool(whole.stack.duplicates) or any("mixed" in r for r in whole.reasons)
    if len(numbers) < 2 or not is_mixed:
        return []
    parts = []
    for number in sorted(numbers, key=lambda n: (n is None, n or 0)):
        split = (replace(i, slices=tuple(s for s in i.slices if s.acquisition_number == number)) for i in members)
        part = _judge_stack(tuple(i for i in split if i.slices))
        if whole.stack and part.stack and part.stack.coverage_mm < SAME_ANATOMY * whole.stack.coverage_mm:
            continue
        name = "without a number" if number is None else f"{number}"
        parts.append(replace(part, remarks=(f"acquisition {name} of {len(numbers)} in this series",)))
    return parts


def _judge_stack(members: tuple[Instance, ...]) -> _Candidate:
    """Judge the slices of instances that passed the rules for headers."""
    slices = [s for i in members for s in i.slices]
    mixed = _mixed(members, slices)
    try:
        stack = order(slices)
    except StudyError as e:
        return _Candidate(members, reasons=(str(e), *mixed))
    reasons = (*mixed, *_stack_faults(stack, slices))
    if reasons:
        return _Candidate(members, stack, reasons)
    return _Candidate(members, stack, score=_score(members, stack))


def _mixed(members: Sequence[Instance], slices: Sequence[Slice]) -> tuple[str, ...]:
    reasons = []
    sizes = Counter((i.columns, i.rows) for i in members)
    if len(sizes) > 1:
        reasons.append("mixed matrix: " + ", ".join(f"{c}x{r} ({n} images)" for (c, r), n in sizes.most_common()))
    spacings = [s.spacing_mm for s in slices if s.spacing_mm is not None]
    if len(spacings) < len(slices):
        reasons.append(f"{len(slices) - len(spacings)} of {len(slices)} slices have no valid PixelSpacing")
    elif any(max(v) - min(v) > SPACING_TOLERANCE_MM for v in zip(*spacings, strict=True)):
        flat = [v for s in spacings for v in s]
        reasons.append(f"mixed PixelSpacing: {min(flat):g} to {max(flat):g} mm")
    return tuple(reasons)


def _stack_faults(stack: Stack, slices: Sequence[Slice]) -> tuple[str, ...]:
    n = len(stack.slices)
    reasons = []
    if stack.axial_deg > MAX_AXIAL_DEG:
        reasons.append(f"not axial: the slices lean {stack.axial_deg:.0f} degrees, at most {MAX_AXIAL_DEG:.0f} allowed")
    if n < MIN_SLICES:
        repeated = f" at different positions ({len(stack.duplicates)} repeat one)" if stack.duplicates else ""
        reasons.append(f"only {n} slice{'s' if n > 1 else ''}{repeated}, at least {MIN_SLICES} needed")
    elif n > MAX_SLICES:
        reasons.append(f"{n} slices, at most {MAX_SLICES} allowed")
    elif not MIN_COVERAGE_MM <= stack.coverage_mm <= MAX_COVERAGE_MM:
        reasons.append(
            f"covers {stack.coverage_mm:.0f} mm, {MIN_COVERAGE_MM:.0f} to {MAX_COVERAGE_MM:.0f} mm needed"
        )
    without = sum(not s.has_rescale for s in slices)
    if without:
        reasons.append(f"{without} of {len(slices)} slices have no RescaleSlope and RescaleIntercept")
    if stack.missing > max(1.0, MAX_MISSING_FRACTION * (n + stack.missing)):
        reasons.append(f"{stack.missing} slices missing between those received ({n})")
    return tuple(reasons)


def _thickness_mm(stack: Stack) -> float:
    stated = [s.thickness_mm for s in stack.slices if s.thickness_mm is not None]
    return stated[len(stated) // 2] if stated else max(stack.spacing_mm, 0.1)


def _score(members: Sequence[Instance], stack: Stack) -> float:
    """Rank of a usable series, at most 100: thickness first, then completeness, kernel, words and tilt."""
    first = members[0]
    said_plain = any(NON_CONTRAST.search(t) for t in (first.series_description, first.study_description))
    return round(
        100.0
        - 8.0 * abs(math.log2(max(_thickness_mm(stack), 0.3) / WANTED_THICKNESS_MM))
        - 2.0 * min(stack.irregular, MAX_AS_IRREGULAR)
        - 10.0 * stack.missing
        - (0.0 if is_sharp(first.kernel) is False else 3.0)
        - (0.0 if said_plain else 1.0)
        - 0.2 * stack.tilt_deg
        - 10.0 * len(stack.duplicates) / len(stack.slices),
        1,
    )


def _verdict(uid: str, candidate: _Candidate, n_instances: int, best: _Candidate | None) -> SeriesVerdict:
    first = candidate.instances[0]
    chosen = candidate is best
    reasons = candidate.reasons
    if not reasons and candidate.stack is not None:
        facts = _facts(candidate, candidate.stack)
        reasons = facts if chosen or best is None else (_ranked_below(candidate, best), *facts)
    return SeriesVerdict(
        series_uid=uid,
        chosen=chosen,
        reasons=reasons,
        n_instances=n_instances,
        series_number=first.series_number,
        description=first.series_description,
        score=None if candidate.reasons else candidate.score,
    )


def _ranked_below(candidate: _Candidate, best: _Candidate) -> str:
    number = best.instances[0].series_number
    name = "the chosen one" if number is None else f"series {number}"
    return f"usable, but ranked below {name} (score {candidate.score:g} against {best.score:g})"


def _facts(candidate: _Candidate, stack: Stack) -> tuple[str, ...]:
    """What was found of a usable series."""
    kernel = candidate.instances[0].kernel
    known = {True: "sharp", False: "soft", None: "unknown"}[is_sharp(kernel)]
    facts = [
        f"{len(stack.slices)} axial slices of {_thickness_mm(stack):g} mm covering {stack.coverage_mm:.0f} mm",
        f"kernel {kernel} ({known})" if kernel else "kernel not stated",
        f"gantry tilt {stack.tilt_deg:.1f} degrees",
    ]
    if stack.duplicates:
        facts.append(f"{len(stack.duplicates)} images at positions already taken left out")
    if stack.missing:
        facts.append(f"{stack.missing} slice{'s' if stack.missing > 1 else ''} missing")
    return (*facts, *candidate.remarks)
