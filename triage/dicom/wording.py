"""What results say in words, the same in reports and captures; no patient, no DICOM objects."""

from triage.records import ANY, SUBTYPES, Finding, ModelIdentity, Outcome, Priority, Result

DISCLAIMER = "Research use only. NOT FOR DIAGNOSTIC USE. AI triage output, not reviewed by a physician."

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSTIC USE"

DEMONSTRATION = "DEMONSTRATION MODEL"
"""Stamp of every output of a model that no site has validated."""

DEMONSTRATION_WARNING = (
    "DEMONSTRATION MODEL: not validated on patients. Its output must not influence the care of anyone.")

NO_MAP = "No contour: networks of this kind do not tell where they looked."
"""Of a key slice without an activation map."""

SERIES_DESCRIPTION_LENGTH = 64
"""VR LO (PS3.5 6.2)."""

NAMES = {
    ANY: "Intracranial hemorrhage",
    "epidural": "Epidural",
    "intraparenchymal": "Intraparenchymal",
    "intraventricular": "Intraventricular",
    "subarachnoid": "Subarachnoid",
    "subdural": "Subdural",
}
"""Names of the labels for readers."""

REPAIRS = {
    "wrap12": "12-bit wrap-around of pixel values undone",
    "pad2000": "padding outside the field of view replaced by air",
    "sign": "sign of pixel values corrected",
}
"""Repairs of pixel values in words; one without an entry is told by its own name."""


def series_description(what: str, model: ModelIdentity) -> str:
    """Name a result series so that no list shows it without its warnings.

    Args:
        what: "AI ICH result" or the like; comes first, since PACS rules look for it.
        model: The model that judged.

    Returns:
        At most 64 characters.
    """
    parts = [what, NOT_FOR_DIAGNOSIS, *([DEMONSTRATION] if model.is_demonstration else [])]
    return " - ".join(parts)[:SERIES_DESCRIPTION_LENGTH]


def percent(p: float) -> str:
    """A probability for a reader: whole percents, but never a rounded 0 % or 100 %."""
    if p < 0.01:
        return "<1 %"
    return ">99 %" if p > 0.99 else f"{100 * p:.0f} %"


def compared(finding: Finding) -> tuple[str, str]:
    """Probability and threshold of a finding; in tenths of a percent where whole ones would hide which is larger."""
    shown = percent(finding.p), percent(finding.threshold)
    if shown[0] != shown[1]:
        return shown
    return f"{100 * finding.p:.1f} %", f"{100 * finding.threshold:.1f} %"


def model_line(model: ModelIdentity) -> str:
    """Name, version, kind and hash of the model pack."""
    return f"{model.name} {model.version} ({model.architecture}, pack {model.sha256[:12]})"


def headline(result: Result) -> str:
    """The outcome in one line."""
    if result.outcome is Outcome.NOT_ANALYSED:
        return "Not analysed"
    finding = result.finding(ANY)
    score = " ({}, threshold {})".format(*compared(finding)) if finding else ""
    if result.outcome is Outcome.NEGATIVE:
        return f"No intracranial hemorrhage suspected{score}"
    return f"Intracranial hemorrhage suspected{score}"


def present_subtypes(result: Result) -> tuple[Finding, ...]:
    """The subtypes judged present, most probable first."""
    found = [f for f in result.findings if f.label in SUBTYPES and f.present]
    return tuple(sorted(found, key=lambda f: -f.p))


def outcome_remarks(result: Result) -> tuple[str, ...]:
    """What the outcome means and does not mean, one sentence a line."""
    if result.outcome is Outcome.NOT_ANALYSED:
        return (f"NOT ANALYSED: {result.reason or 'no reason given'}",
                "Nothing is said about a hemorrhage. Read this study in its usual order.")
    if result.outcome is Outcome.NEGATIVE:
        return (headline(result) + ". This does not exclude a hemorrhage; types were not judged.",)
    types = present_subtypes(result)
    text = ", ".join(f"{NAMES[f.label].lower()} {percent(f.p)}" for f in types) or "none above its threshold"
    priority = "" if result.priority is Priority.ROUTINE else f" Priority: {result.priority.value}."
    return (f"{headline(result)}. Types: {text}.{priority}",)


def technical_remarks(result: Result) -> tuple[str, ...]:
    """What was analysed and what was wrong with it, one fact a line; empty where nothing was analysed."""
    remarks = []
    if result.n_slices:
        spacing = f", {result.spacing_mm:.3g} mm apart" if result.spacing_mm else ""
        remarks.append(f"{result.n_slices} slices analysed{spacing}, gantry tilt {result.tilt_deg:.1f} degrees.")
    if result.missing:
        remarks.append(f"{_slices(result.missing)} missing from the series by position and number.")
    if result.set_aside:
        reasons = list(dict.fromkeys(s.reason for s in result.set_aside))
        more = f"; {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        remarks.append(f"{_slices(len(result.set_aside))} set aside: {'; '.join(reasons[:3])}{more}.")
    if result.repairs:
        remarks.append("Pixel values repaired: " + "; ".join(REPAIRS.get(r, r) for r in result.repairs) + ".")
    if result.lossy:
        remarks.append("Source images are lossy compressed; thresholds were set on lossless ones.")
    return tuple(remarks)


def run_remark(result: Result, supersedes: bool) -> str:
    """Which analysis of the study this is; empty for a first one that replaces nothing."""
    if result.run <= 1 and not supersedes:
        return ""
    which = f"Analysis {result.run} of this study"
    if not supersedes:
        return f"{which}."
    return f"{which}; it supersedes the previous report. A priority given before still stands."


def pictures_remark(result: Result) -> str:
    """Which analysis pictures are of, where there was one before; else empty."""
    return f"Analysis {result.run} of this study: supersedes earlier ones" if result.run > 1 else ""


def contour_legend(label: str) -> str:
    """What a contour is, and what it is not."""
    return f"Contour: where the network looked for {_sought(label)}. No outline of a bleed."


def nothing_spoke(label: str) -> str:
    """Why a slice with an activation map has no contour."""
    return f"No contour: no place in this slice spoke for {_sought(label)}."


def _sought(label: str) -> str:
    return "any hemorrhage" if label == ANY else f"{NAMES[label].lower()} hemorrhage"


def _slices(n: int) -> str:
    return "1 slice" if n == 1 else f"{n} slices"
