"""Figures of honest tests in lines for a terminal; computes nothing."""

from collections.abc import Sequence

import numpy as np

from triage.records import ANY, LABELS
from triage.train.trial_records import (
    Detection,
    ImplantTrial,
    NegativeTrial,
    PhantomTrial,
    PictureTrial,
    Trials,
    share,
    told,
)

MORE = "not measured: {}; see triage-train evaluate --help"


def trial_lines(trials: Trials) -> list[str]:
    """Every figure with its n."""
    lines = [f"{trials.name} {trials.version}, review threshold {trials.thresholds['review']:g}"]
    for phantom in trials.phantoms:
        lines += _phantom(phantom)
    for negative in trials.negatives:
        lines += _negative(negative)
    for implant in trials.implants:
        lines += _implant(implant)
    for pictures in trials.pictures:
        lines += _pictures(pictures)
    left = [what for what, there in (("real series without a bleed (--negative)", trials.negatives),
                                     ("bleeds painted into real heads (--negative, --implant)", trials.implants),
                                     ("pictures (--pictures)", trials.pictures)) if not there]  # fmt: skip
    return [*lines, MORE.format(", ".join(left))] if left else lines


def _phantom(t: PhantomTrial) -> list[str]:
    lines = [
        f"phantoms of profile {t.profile}: {t.n_studies} studies, {t.positives} with a bleed, {t.n_slices:,} slices",
        *(f"  {label}: AUROC by study {told(t.by_study[label])}, {t.by_study[label].positives} positive; by slice "
          f"{told(t.by_slice[label])}, {t.by_slice[label].positives} positive" for label in LABELS),
        f"  at the review threshold by study: sensitivity {share(t.sensitivity)} of {t.positives}, specificity "
        f"{share(t.specificity)} of {t.n_studies - t.positives}",
        *_detections(t.detections, " alone"),
    ]  # fmt: skip
    lines += [
        f"  maps where found, {p.name}: {share(p.inside)} of {p.n} peaks in the bleed (chance {p.chance:.1%}), "
        f"{p.near:.0%} within 15 mm" for p in t.pointings if p.n
    ]  # fmt: skip
    return lines if t.pointings and t.pointings[0].n else [*lines, "  maps: none"]


def _negative(t: NegativeTrial) -> list[str]:
    if t.reason:
        return [f"without a bleed, {t.name}: not analysed, {t.reason}"]
    others = ", ".join(f"{label} {p:.2f}" for label, p in t.others.items())
    return [
        f"without a bleed, {t.name}: {t.outcome}, priority {t.priority}, P(any) {t.p_any:.3f}; {t.n_above} of "
        f"{t.n_slices} slices above" + (f"; {others}" if others else ""),
        "  by slice, feet to head: " + " ".join(f"{p:.2f}" for p in t.scores),
    ]


def _implant(t: ImplantTrial) -> list[str]:
    if t.reason:
        return [f"bleeds painted into {t.name}: not possible, {t.reason}"]
    beware = "; positive, so that rates by study say little" if t.untouched_positive else ""
    return [
        f"bleeds painted into {t.name}: {t.n}, {t.no_room} without room; the untouched head has P(any) "
        f"{t.untouched_p:.3f}{beware}",
        *(f"  AUROC of bleeding slices, {name}, against the same untouched: {told(one)}, {one.positives} of {one.n}"
          for name, one in t.areas.items()),
        *_detections(t.detections),
    ]  # fmt: skip


def _pictures(t: PictureTrial) -> list[str]:
    return [
        f"pictures {t.name}: {t.any.n}, {t.any.positives} with a bleed, window {t.window[0]:g}/{t.window[1]:g}, "
        f"{t.fov_mm:g} mm: AUROC of any {told(t.any)}; {share(t.false)} of {t.any.n - t.any.positives} without a bleed "
        "are found",
        *(f"  {kind}: AUROC of P(any) {told(one)}, of its own head {told(t.own[kind])}; {share(t.found[kind])} of "
          f"{one.positives} found" for kind, one in t.kinds.items()),
    ]  # fmt: skip


def _detections(rows: Sequence[Detection], alone: str = "") -> list[str]:
    lines = []
    for d in rows:
        low, high = d.band_ml
        before = "" if np.isnan(d.slices_before) else f" (untouched {share(d.slices_before)})"
        change = "" if np.isnan(d.study_change) else f"; P(any) {d.study_change:+.3f} by study"
        if not np.isnan(d.slice_change):
            change += f", {d.slice_change:+.3f} by slice"
        what = "in all" if d.label == ANY else d.label + alone
        lines.append(f"  {what} {low:g} to {high:g} mL: {share(d.found)} of {d.n} studies found, "
                     f"{share(d.slices_found)} of {d.slices} bleeding slices{before}{change}")  # fmt: skip
    return lines
