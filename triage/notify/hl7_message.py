"""Facts -> HL7 v2.5.1 ORU^R01 in UTF-8: an observation a finding, all preliminary; sends nothing.

Chapters are those of HL7 v2.5.1. A finding is a group of OBX of the same sub-id: presence, certainty in percent, place.
Absent findings carry no abnormal flag: nothing here says that anything is normal. A correction has an observation
without a value (X) for each label that it does not judge any more.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime

import hl7

import triage
from triage.dicom import codes, wording
from triage.dicom.equipment import MODEL_NAME
from triage.dicom.uids import device_uid
from triage.notify.facts import Facts, certainty_percent
from triage.records import ANY, LABELS, Finding, Outcome

Components = tuple[str, ...]
Value = str | Components | Sequence[Components]
"""Of one field: a text, components, or repetitions of components."""

SENDING_APPLICATION = "ICHTRIAGE"

STUDY_INSTANCE_UID = ("110180", "Study Instance UID", "DCM")
"""PS3.16 Annex D."""

FINDING_SITE = ("363698007", "Finding Site", "SCT")

LOCAL_CODES = "99ICH"
"""Coding system of our labels (HL7 table 0396, local), the alternate code of every finding.

SNOMED CT has no code for an intraventricular hemorrhage that could be confirmed; it is a hemorrhage with its place.
"""

NAME_REPRESENTATIONS = ("A", "I", "P")
"""HL7 table 0465, in the order of the groups of a DICOM name: alphabetic, ideographic, phonetic."""

NO_NAME = ("", "", "", "", "", "", "U")
"""XPN whose type is "unspecified" (HL7 table 0200): PID-5 must be there, and images may name nobody."""

NULL = '""'
"""Says "delete what you have" (2.6); images hold it where a gateway copied it from an order."""

ISSUED_NUMBER_LENGTH = 4
"""Components of an EI (2.A.28)."""

CONTROL_ID_LENGTH = 20
"""MSH-10 (2.14.9.10)."""

DISPLAYABLE_BREAK = "\r"
"""python-hl7 escapes it as a line break of formatted text (2.7.5)."""


def build_message(facts: Facts, uid: str, sender: str, receiver: Components) -> bytes:
    """Build one message.

    Args:
        facts: What to say.
        uid: Of the message.
        sender: Sending facility; may be empty.
        receiver: Receiving application and facility; either may be empty.

    Returns:
        Segments ended by a carriage return, without MLLP's frame.
    """
    message = hl7.Message("\r")
    header = _segment(message, "MSH", {
        3: SENDING_APPLICATION, 4: sender, 5: receiver[0], 6: receiver[1], 7: _time(facts.finished),
        9: ("ORU", "R01", "ORU_R01"), 10: control_id(uid), 11: "P", 12: "2.5.1", 15: "NE", 16: "AL",
        18: "UNICODE UTF-8"})  # fmt: skip
    header.assign_field("|", 1)
    header.assign_field("^~\\&", 2)
    message.extend([header, _patient(message, facts), *_order(message, facts)])
    message.extend(_notes(message, facts.remarks))
    for segments in _observations(message, facts):
        message.extend(segments)
    return str(message).encode("utf-8")


def control_id(uid: str) -> str:
    """Make MSH-10 of a message's UID, which is too long for it: 100 of its 128 bits."""
    value = int(uid.rpartition(".")[2])
    return base64.b32encode(value.to_bytes(16, "big")).decode("ascii")[:CONTROL_ID_LENGTH]


def _patient(message: hl7.Message, facts: Facts) -> hl7.Segment:
    who = facts.identity
    # PID-3 must be there (3.4.2.3): images without an ID get one of ours, of unspecified type, that no patient has
    ours = (f"study-{facts.study_id}", "", "", f"{SENDING_APPLICATION} {facts.node_name}", "U")
    patient_id = _present(who.patient_id)
    identifier = (patient_id, "", "", who.issuer_of_patient_id, "MR") if patient_id else ours
    return _segment(message, "PID", {
        1: "1", 3: identifier, 5: _names(who.patient_name), 7: who.birth_date,
        8: who.sex if who.sex in ("M", "F", "O") else ""})  # fmt: skip


def _names(name: str) -> list[Components]:
    """DICOM PN -> XPN, a repetition a group (PS3.5 6.2.1.1; 2.A.88): prefix and suffix change places."""
    repetitions: list[Components] = []
    for group, representation in zip(name.split("="), NAME_REPRESENTATIONS, strict=False):
        family, given, middle, prefix, suffix = ([*group.split("^"), "", "", "", "", ""])[:5]
        if any((family, given, middle, prefix, suffix)):
            repetitions.append((family, given, middle, suffix, prefix, "", "", representation))
    return repetitions or [NO_NAME]


def _order(message: hl7.Message, facts: Facts) -> list[hl7.Segment]:
    """ORC and OBR: which order this answers; RE, for SC could change the order's own status."""
    who = facts.identity
    placer = _issued_number(who.placer_order_number)
    filler = _issued_number(who.filler_order_number) or _present(who.accession_number)
    if not (filler or placer):
        filler = ("", "", who.study_uid, "ISO")  # one of the two must be there (7.4.1.2)
    studied = who.study_date + re.sub(r"\..*", "", who.study_time) if who.study_date else ""
    if who.study_time and studied:  # where the images state no zone, MSH-7's stands for it (2.A.22)
        studied += who.timezone_offset
    # 18 and 19: where IHE RAD-4 has accession number and requested procedure
    return [
        _segment(message, "ORC", {1: "RE", 2: placer, 3: filler}),
        _segment(message, "OBR", {
            1: "1", 2: placer, 3: filler, 4: _code(codes.CT_HEAD), 7: studied or _time(facts.started),
            18: who.accession_number, 19: who.requested_procedure_id, 22: _time(facts.finished), 24: "RAD",
            25: "P"}),
    ]  # fmt: skip


def _issued_number(text: str) -> Value:
    """EI of an order number, which may hold its issuer, as in the order itself (IHE RAD TF-2 appendix B)."""
    components = tuple(_present(text).split("^", ISSUED_NUMBER_LENGTH - 1))
    return components if any(components) else ""


def _present(text: str) -> str:
    return "" if text == NULL else text


def _observations(message: hl7.Message, facts: Facts) -> list[list[hl7.Segment]]:
    """Each observation with its notes, numbered through."""
    rows: list[tuple[dict[int, Value], tuple[str, ...]]] = []
    if facts.result.outcome is Outcome.NOT_ANALYSED or not facts.result.findings:
        reason = f"Not analysed: {facts.result.reason or 'no reason given'}"
        rows.append(({2: "CWE", 3: _label_code(ANY), 4: _sub_id(ANY), 11: "X"}, (reason,)))
    else:
        for finding in facts.result.findings:
            rows += _finding(facts, finding)
    if facts.supersedes:
        rows += _not_judged_any_more(facts)
    if facts.is_positive and facts.result.priority in codes.ACTIONABLE:
        rows.append(({2: "CWE", 3: _code(codes.PRIORITY), 5: _code(codes.ACTIONABLE[facts.result.priority])}, ()))
    rows.append(({2: "ST", 3: STUDY_INSTANCE_UID, 5: facts.identity.study_uid}, ()))
    model = facts.result.model
    common: dict[int, Value] = {
        11: "P", 17: ("", f"{model.name} {model.version}", ""), 19: _time(facts.finished),
        18: (f"{MODEL_NAME} {triage.__version__}", "", device_uid(model.sha256), "ISO"),
    }  # fmt: skip
    return [
        [_segment(message, "OBX", {1: str(number), **common, **fields}), *_notes(message, notes)]
        for number, (fields, notes) in enumerate(rows, 1)
    ]


def _finding(facts: Facts, finding: Finding) -> list[tuple[dict[int, Value], tuple[str, ...]]]:
    sub_id, site = _sub_id(finding.label), codes.FINDINGS[finding.label].site
    presence = codes.PRESENT if finding.present else codes.ABSENT
    flag = facts.abnormal_flag if finding.present else ""
    limit = f"{wording.NAMES[finding.label]}: threshold {100 * finding.threshold:.1f} %"
    rows: list[tuple[dict[int, Value], tuple[str, ...]]] = [
        ({2: "CWE", 3: _label_code(finding.label), 4: sub_id, 5: _code(presence), 8: flag}, ()),
        ({2: "NM", 3: _code(codes.CERTAINTY), 4: sub_id, 5: f"{certainty_percent(finding):.1f}",
          6: ("%", "percent", "UCUM")}, (limit,)),
    ]  # fmt: skip
    if site is not None:
        rows.append(({2: "CWE", 3: FINDING_SITE, 4: sub_id, 5: _code(site)}, ()))
    return rows


def _not_judged_any_more(facts: Facts) -> list[tuple[dict[int, Value], tuple[str, ...]]]:
    """What the earlier analysis may have judged and this one does not: receivers keep an OBX until they get another."""
    is_analysed = facts.result.outcome is not Outcome.NOT_ANALYSED
    labels = [label for label in LABELS if not (is_analysed and facts.result.finding(label))]
    rows: list[tuple[dict[int, Value], tuple[str, ...]]] = []
    for label in labels:
        if label != ANY:  # its presence stands before, with the reason
            rows.append(({2: "CWE", 3: _label_code(label), 4: _sub_id(label), 11: "X"}, ()))
        rows.append(({2: "NM", 3: _code(codes.CERTAINTY), 4: _sub_id(label), 11: "X"}, ()))
    return rows


def _sub_id(label: str) -> str:
    """OBX-4: the same number for the same label in every message."""
    return str(LABELS.index(label) + 1)


def _label_code(label: str) -> Components:
    name = wording.NAMES[label] if label == ANY else f"{wording.NAMES[label]} hemorrhage"
    return (*_code(codes.FINDINGS[label].finding), label, name, LOCAL_CODES)


def _code(code: object) -> Components:
    value, scheme, meaning = (str(getattr(code, key)) for key in ("value", "scheme_designator", "meaning"))
    return value, meaning, scheme


def _notes(message: hl7.Message, texts: Sequence[str]) -> list[hl7.Segment]:
    """NTE: what the filler says about the segment before."""
    return [_segment(message, "NTE", {1: str(n), 2: "L", 3: text}) for n, text in enumerate(texts, 1)]


def _segment(message: hl7.Message, name: str, fields: Mapping[int, Value]) -> hl7.Segment:
    """A segment whose every text is escaped; line breaks stay where text is formatted, in notes."""
    segment = message.create_segment([message.create_field([name])])
    for number, value in fields.items():
        repetitions = [(value,)] if isinstance(value, str) else [value] if isinstance(value, tuple) else value
        for repetition, components in enumerate(repetitions, 1):
            for position, text in enumerate(_trimmed(components), 1):
                segment.assign_field(_escape(message, text, name == "NTE"), number, repetition, position)
    return segment


def _trimmed(components: Sequence[str]) -> Sequence[str]:
    """Without nulls, and without empty components at the end."""
    present = [_present(text) for text in components]
    n = max((i for i, text in enumerate(present, 1) if text), default=0)
    return present[:n]


def _escape(message: hl7.Message, text: str, is_formatted: bool) -> str:
    """Delimiters and line breaks as escape sequences (2.7); other controls, which would break the frame, as blanks.

    python-hl7 would also write everything outside of ASCII as numbers, which MSH-18 makes needless and few can read.
    """
    text = re.sub(r"\r\n|\n|\r|\x85|\u2028|\u2029", DISPLAYABLE_BREAK if is_formatted else " ", text)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") and c != DISPLAYABLE_BREAK else c for c in text)
    return re.sub(r"[\x00-\x7f]+", lambda match: str(message.escape(match[0])), text)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")
