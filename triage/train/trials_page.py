"""Figures of honest tests -> trials.json and trials.html, one file that opens offline; measures nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from triage.records import ANY, LABELS
from triage.train.cache import write_atomically
from triage.train.errors_shown import FALSE, MISSED, Errors, ErrorShown
from triage.train.metrics import Rate
from triage.train.page_parts import DASH, figure, interval, percent, table, text
from triage.train.pictures import data_uri
from triage.train.report_style import STYLE
from triage.train.trial_records import (
    Area,
    Detection,
    ImplantTrial,
    NegativeTrial,
    PhantomTrial,
    PictureTrial,
    Trials,
    notes,
)
from triage.train.trials import document_of

JSON_NAME, HTML_NAME = "trials.json", "trials.html"

Shown = tuple[ErrorShown, npt.NDArray[np.uint8]]


def write_trials(folder: Path, trials: Trials, errors: Errors) -> tuple[Path, Path]:
    """Write both files, whole or not at all.

    Args:
        folder: Made where it is missing.
        trials: The figures.
        errors: The worst answers.

    Returns:
        The paths of trials.json and trials.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / JSON_NAME, folder / HTML_NAME
    document = {**document_of(trials), "notes": notes(trials)}
    write_atomically(paths[0], json.dumps(document, indent=1, allow_nan=False).encode())
    write_atomically(paths[1], page(trials, errors).encode())
    return paths


def page(trials: Trials, errors: Errors) -> str:
    """The whole HTML page."""
    parts = [
        *((f"Phantoms of profile {one.profile}", _phantom(one)) for one in trials.phantoms),
        ("Real series without a bleed", _negatives(trials.negatives, trials.thresholds["review"])),
        *((f"Bleeds painted into {one.name}", _implant(one)) for one in trials.implants),
        *((f"Pictures {one.name}", _pictures(one)) for one in trials.pictures),
        ("The worst answers", _sheets(errors.all())),
    ]
    sections = "".join(f"<section><h2>{text(title)}</h2>{body}</section>" for title, body in parts if body)
    title = f"Honest tests of {text(trials.name)} {text(trials.version)}"
    limits = ", ".join(f"{name} {value:g}" for name, value in trials.thresholds.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><header><h1>{title}</h1>"
        '<p class="notice">Research figures, not for diagnosis.</p>'
        f'<p class="quiet">sha256 {text(trials.sha256)}; thresholds: {text(limits)}. "By slice" means slices with '
        "P(any) at the review threshold or above; intervals are 95 %.</p></header>"
        f"{sections}</main></body></html>\n"
    )


def _phantom(t: PhantomTrial) -> str:
    rows = [[text(label), f"{t.by_study[label].positives}", _area(t.by_study[label]), f"{t.by_slice[label].positives}",
             _area(t.by_slice[label])] for label in LABELS]  # fmt: skip
    told = (
        f"{t.n_studies} studies, {t.n_slices:,} slices, seeds {t.first_seed} to {t.first_seed + t.n_studies - 1} of "
        f"phantom {t.phantom_version}, never trained on. At the review threshold: sensitivity {_rate(t.sensitivity)} "
        f"of {t.positives}, specificity {_rate(t.specificity)} of {t.n_studies - t.positives} studies."
    )
    points = [[text(p.name), str(p.n), _rate(p.inside), percent(_known(p.chance)), percent(_known(p.on_slice)),
               percent(_known(p.near)), percent(_known(p.overlaps))] for p in t.pointings]  # fmt: skip
    head = ("map, and volume of the bleeds", "maps", "peak in the bleed", "chance", "on a slice with it",
            "within 15 mm", "half-maximum region meets it")  # fmt: skip
    return (
        f"<p>{told}</p>"
        + table(("label", "studies", "AUROC by study", "slices", "AUROC by slice"), rows, "figures inline")
        + "<h3>Found, by volume; subtypes in heads that have no other bleed</h3>"
        + _detections(t.detections, painted=False)
        + "<h3>Where the maps of bleeds that were found point</h3>" + table(head, points, "figures inline")
    )  # fmt: skip


def _negatives(trials: Sequence[NegativeTrial], review: float) -> str:
    rows = []
    for t in trials:
        scores = " ".join(f"<b>{p:.2f}</b>" if p >= review else f"{p:.2f}" for p in t.scores)
        outcome = text(t.outcome if not t.reason else f"{t.outcome}: {t.reason}")
        rows.append([text(t.name), outcome, text(t.priority), figure(_known(t.p_any)), f"{t.n_above} of {t.n_slices}",
                     scores])  # fmt: skip
    head = ("series", "outcome", "priority", "P(any)", "slices above", "P(any) of every slice, feet to head")
    return table(head, rows, "words") if rows else ""


def _implant(t: ImplantTrial) -> str:
    if t.reason:
        return f"<p>Not possible: {text(t.reason)}.</p>"
    untouched = f"The untouched head has P(any) {t.untouched_p:.3f}"
    untouched += " and is positive, so that rates by study say little." if t.untouched_positive else "."
    told = f"{t.n} bleeds, {t.no_room} of which had no room. {untouched} AUROC of slices with a painted bleed against "
    told += "the same slices untouched: " + "; ".join(f"{name} {_area(one)}" for name, one in t.areas.items()) + "."
    return f"<p>{told} Intervals are over bleeds, in this one head.</p>{_detections(t.detections, painted=True)}"


def _pictures(t: PictureTrial) -> str:
    told = (
        f"{t.any.n} pictures, {t.any.positives} with a bleed, read as width {t.window[0]:g} level {t.window[1]:g} HU "
        f"and {t.fov_mm:g} mm wide; what lies outside the window is lost. A picture is judged as a study of one slice; "
        "intervals take pictures for independent, though several may show one head. "
        f"Found of those without a bleed: {_rate(t.false)}."
    )
    rows = [[ANY, str(t.any.positives), _area(t.any), DASH, DASH]]
    rows += [[text(kind), str(t.kinds[kind].positives), _area(t.kinds[kind]), _area(t.own[kind]), _rate(t.found[kind])]
             for kind in t.kinds]  # fmt: skip
    head = ("kind", "pictures", "AUROC of P(any)", "AUROC of its own head", "found")
    return f"<p>{told}</p>{table(head, rows, 'figures inline')}"


def _detections(rows: Sequence[Detection], painted: bool) -> str:
    head = ["label", "mL", "bleeds", "found by study", "bleeding slices", "found by slice"]
    head += ["of the same untouched", "change of P(any) by study", "by slice"] if painted else []
    cells = []
    for d in rows:
        row = [text(d.label), f"{d.band_ml[0]:g} to {d.band_ml[1]:g}", str(d.n), _rate(d.found), str(d.slices),
               percent(_known(d.slices_found), 0)]  # fmt: skip
        more = [percent(_known(d.slices_before), 0), _signed(d.study_change), _signed(d.slice_change)]
        cells.append(row + (more if painted else []))
    return table(head, cells, "figures inline")


def _sheets(shown: Sequence[Shown]) -> str:
    parts = []
    for source in dict.fromkeys(one.source for one, _ in shown):
        for kind in (MISSED, FALSE):
            cards = [_card(*pair) for pair in shown if (pair[0].source, pair[0].kind) == (source, kind)]
            if cards:
                parts.append(f'<h3>{text(source)}: {kind}</h3><div class="sheet">{"".join(cards)}</div>')
    told = '<p class="quiet">Slices whose P(any) is most wrong, at most one of a study; brain window (40/80 HU).</p>'
    return told + "".join(parts) if parts else ""


def _card(one: ErrorShown, grey: npt.NDArray[np.uint8]) -> str:
    p = f"P(any) {one.p[ANY]:.3f}"
    return (
        f'<figure class="wrong"><img alt="{text(one.name)}" src="{data_uri(grey)}"><figcaption><i>{one.kind}</i><br>'
        f"<b>{text(', '.join(one.truth) or 'no bleed')}</b><br>{p}<br>{text(one.note)}<br>"
        f"<span>{text(one.name)}</span></figcaption></figure>"
    )


def _area(one: Area) -> str:
    between = interval((_known(one.low), _known(one.high)))
    return figure(_known(one.value)) + (f" <small>{between}</small>" if between else "")


def _rate(one: Rate) -> str:
    if np.isnan(one.value):
        return DASH
    return f"{percent(one.value, 0)} <small>{percent(one.low, 0)}{DASH}{percent(one.high, 0)}</small>"


def _signed(value: float) -> str:
    return DASH if np.isnan(value) else f"{value:+.3f}"


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
