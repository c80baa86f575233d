"""Free-text descriptions -> what they claim of a series: head, contrast, derived, bone; patterns only.

Technologists write these in many languages and abbreviations; English, German, Slovak, Czech, French, Spanish,
Italian, Dutch and the Scandinavian languages are covered as far as they are known here. A pattern that is too eager
costs a series, so words that mean something else elsewhere are guarded: "iDose" is a reconstruction, "post fossa" a
place.
"""

import re

HEAD = re.compile(
    r"head|brain|skull|\bcct\b|kopf|sch(?:ä|ae|a)del|hirn|cran|crân|cráne|craneo|neuro|hlav|lebk|mo(?:zg|zk|zog|zek)"
    r"|\bt[eê]te\b|c[eé]r[eé]br|enc[eé]fal|enc[eé]phal|cabeza|\bcapo\b|\btesta\b|cervello|hersen|schedel|hoved|hjern|huvud"
    r"|hjärn|skalle|g[lł]ow|m[oó]zg",
    re.I,
)
"""The head, in a description or as body part."""

OTHER_PART = re.compile(
    r"neck|chest|thora|abdom|pelvi|spine|spinal|cervical|lumbar|sinus|orbit|temporal bone|petrous|\bia[cm]s?\b|dental"
    r"|\bface\b|facial|maxill|mandib|carotid|\bkr[cč]|hrudn|\bhals|lunge?\b|shoulder|knee|ankle|\bhip\b|extremit|heart"
    r"|cardiac|coronar(?:y|ies)\b|liver|kidney|\bleg\b|\barm\b|foot|hand\b|wrist|elbow|felsenbein|\bnnh\b|pyramid",
    re.I,
)
"""Another part of the body, or a part of the head that is scanned for its bone."""

CONTRAST = re.compile(
    r"\bcta\b|\bctv\b|angio|\bart(?:erial|eriell?)?\b|venous|venös|\bven\b|contrast|kontrast|\bcect\b|\bce\b"
    r"|(?<!un)(?<!non)(?<!non[ -])enhanced|\bc\+|\+ ?c\b|\bkm\b|\bk\.?l\.|\bpost\s*$|post.?(?:con|iv\b|inj|km|gd)"
    r"|perf|\bctp\b|dynami|\b4d\b|bolus|monitoring|smart ?prep|timing|delayed|\bdsa\b",
    re.I,
)
"""Contrast medium, angiography, perfusion, or the scans that time a bolus."""

NON_CONTRAST = re.compile(
    r"w\s?/\s?o\b|\bwo\b|without|\bno\b.{0,4}con|non.?con|nativ|plain|unenh|non.?enh|\bnc\b|\bncct\b|\bnect\b|\bohne\b"
    r"|\bbez\b|\bsans\b|\bsin\b|\bsenza\b|\bzonder\b|\but?an\b|\bc-(?!\w)|-c\b",
    re.I,
)
"""No contrast medium."""

DERIVED = re.compile(
    r"\bmpr|\bmip|minip|\bvrt?\b|\b3-?d\b|coronal|koronal|coron[aá]r|sagit|\bcor\b|\bsag\b|reformat|\bcpr\b|subtract"
    r"|\bdose\b|summary|\breport\b|scout|topo(?:gram)?\b|scano|survi?ew|localiz|localis|screen ?(?:save|cap|shot)"
    r"|mono ?e|\bmono(?:energetic)?\b|\d ?kev\b|iodine|\bjod\b|dual.?energy map|z.?eff|\bvnc\b|virtual|key ?images?"
    r"|patient protocol|\bcbf\b|\bcbv\b|\bmtt\b|\btmax\b|\bttp\b",
    re.I,
)
"""Reformats, maps, scouts and pages of text."""

BONE = re.compile(r"bone|bony|knochen|\bkost|osteo|\bosso|\bossa|\bhueso|fenster kn", re.I)
"""A reconstruction for bone, where the kernel is unknown."""


def first_words(pattern: re.Pattern[str], text: str) -> str:
    """What a pattern found in a text; empty when nothing."""
    match = pattern.search(text)
    return match.group().strip() if match else ""


def says_contrast(text: str) -> str:
    """The word that says that contrast medium was given, unless the text also says that none was; else empty."""
    return "" if NON_CONTRAST.search(text) else first_words(CONTRAST, text)
