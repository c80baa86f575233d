"""The tables of the DICOM conformance statement, made from the code that they speak of; the prose is written by hand.

A table stands in `deploy/CONFORMANCE.md` between `<!-- table: NAME -->` and `<!-- end -->`;

    python -m triage.conformance deploy/CONFORMANCE.md

makes them anew. A test fails while the document and the code say different things. What is said of objects is read from
objects that are built for it, of a synthetic head with every finding.
"""

import functools
import inspect
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from triage.config import Config, Destination
from triage.dicom import codes, equipment
from triage.dicom.documents import SOP_CLASSES
from triage.dicom.equipment import NodeIdentity
from triage.dicom.geometry import order
from triage.dicom.headers import read_instance
from triage.dicom.objects import ResultObject, build_objects
from triage.dicom.sources import SentObject, Sources
from triage.net import contexts, scu, statuses
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series
from triage.records import (
    ANY,
    LABELS,
    ActivationMap,
    Finding,
    ModelIdentity,
    ObjectKind,
    Outcome,
    Priority,
    Result,
    SliceScore,
    Volume,
)
from triage.store.commitment import FAILURE_REASONS

BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

WHEN = {
    ObjectKind.REPORT: "every study; its class by `results.sop_class`",
    ObjectKind.REJECTION: 'what is superseded, with `results.superseded = "reject"`',
    ObjectKind.REGIONS: "positive studies, with `results.regions`",
    ObjectKind.KEY_OBJECT: "positive studies, unless `results.key_object = false`",
    ObjectKind.CAPTURE: "positive studies, unless `results.captures = false`; its class by `results.capture_mode`",
    ObjectKind.PRESENTATION: "positive studies, with `results.presentation_state`",
    ObjectKind.ACTIVATION_MAP: "positive studies, with `results.activation_map`",
}
"""When each kind of object is sent."""

MODEL = ModelIdentity("NAME", "VERSION", "0" * 64, "site-validated", "resnet152")

KEY_SLICE = 8

Row = Sequence[object]


def fill(document: str) -> str:
    """Make every table of a document anew.

    Args:
        document: Markdown with marked places.

    Returns:
        The document, its prose unchanged.

    Raises:
        KeyError: A mark names no table.
    """
    return BLOCK.sub(lambda found: found[1] + TABLES[found["name"]]() + found[3], document)


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _services() -> str:
    """Every SOP class in either role (PS3.2, overview of networking services)."""
    provided = {str(c.abstract_syntax) for c in contexts.accepted_contexts()} - {str(contexts.STORAGE_COMMITMENT)}
    used = {uid for uids in _classes().values() for uid in uids}
    used |= {str(contexts.STORAGE_COMMITMENT), str(contexts.VERIFICATION)}
    rows = [
        (UID(uid).name, uid, "yes" if uid in used else "", "yes" if uid in provided else "")
        for uid in sorted(provided | used, key=lambda uid: UID(uid).name)
    ]
    return table(("SOP class", "UID", "SCU", "SCP"), rows)


def _implementation() -> str:
    return table(
        ("What", "Value"),
        [
            ("Implementation Class UID", equipment.IMPLEMENTATION_CLASS_UID),
            ("Implementation Version Name", equipment.IMPLEMENTATION_VERSION_NAME),
        ],
    )


def _transfer_syntaxes() -> str:
    notes = dict.fromkeys(contexts.LOSSY, "accepted, and marked as lossy in every result")
    rows = [(uid.name, uid, notes.get(uid, "")) for uid in contexts.TRANSFER_SYNTAXES]
    return table(("Transfer syntax, in order of preference", "UID", "Remark"), rows)


def _statuses_sent() -> str:
    rows: list[Row] = [(_hex(statuses.SUCCESS), "stored, or the identical instance is stored already")]
    rows += [(_hex(status), _first_line(error)) for error, status in statuses.STATUS.items()]
    rows += [
        (_hex(statuses.NOT_AUTHORISED), "the caller may report on storage commitment, but not send images"),
        (_hex(statuses.PROCESSING_FAILURE), "any other fault of this node; the sender may try again"),
    ]
    return table(("Status", "When"), rows)


def _statuses_received() -> str:
    rows: list[Row] = [(_hex(statuses.SUCCESS), "accepted")]
    rows += [(_hex(status), f"accepted; `triage show` says that {what}") for status, what in scu.STORED_WITH.items()]
    rows += [("any other", "refused; tried again"), ("none in time, or the line lost", "unreachable; tried again")]
    return table(("Status of C-STORE", "What the node makes of it"), rows)


def _statuses_reported() -> str:
    rows = [
        (_hex(statuses.SUCCESS), "what it says is kept in the database"),
        (_hex(statuses.NO_SUCH_EVENT_TYPE), "an event type other than 1 and 2"),
        (_hex(statuses.INVALID_ARGUMENT), "it cannot be read, or its transaction is none of this node's"),
        (_hex(statuses.PROCESSING_FAILURE), "it cannot be kept now; the peer may repeat it"),
    ]
    return table(("Status of N-EVENT-REPORT", "When"), rows)


def _limits() -> str:
    reception, outgoing = Config().reception, Destination(name="x", ae_title="X", host="x", port=104)
    rows: list[Row] = [
        ("Associations accepted at once", "reception.max_associations", reception.max_associations),
        ("Maximum PDU length received", "reception.max_pdu_bytes", reception.max_pdu_bytes),
        ("Association request and release", "reception.acse_timeout_s", f"{reception.acse_timeout_s:g} s"),
        ("One DIMSE message", "reception.dimse_timeout_s", f"{reception.dimse_timeout_s:g} s"),
        ("A silent connection", "reception.network_timeout_s", f"{reception.network_timeout_s:g} s"),
        ("Connecting to a destination", "destinations.connect_timeout_s", f"{outgoing.connect_timeout_s:g} s"),
        ("An answer of a destination", "destinations.response_timeout_s", f"{outgoing.response_timeout_s:g} s"),
        ("An answer on storage commitment", "destinations.commitment_timeout_s",
         f"{outgoing.commitment_timeout_s:g} s, then asked again"),
    ]  # fmt: skip
    return table(("What", "Configured by", "Default"), rows)


def _failure_reasons() -> str:
    return table(("Failure Reason", "Told as"), [(_hex(reason), text) for reason, text in FAILURE_REASONS.items()])


def _objects() -> str:
    rows = []
    for kind, uids in _classes().items():
        ds = next(o.dataset for o in _examples() if o.kind is kind)
        names = "<br>".join(f"{UID(uid).name} {uid}" for uid in uids)
        rows.append((f"`{kind.value}`", names, ds.Modality, ds.SeriesNumber, f"`{ds.SeriesDescription}`", WHEN[kind]))
    return table(("Kind", "SOP class", "Modality", "Series Number", "Series Description", "Sent for"), rows)


def _report() -> str:
    """The content tree, one line an item; of items that repeat, the first."""
    report = next(o.dataset for o in _examples() if o.kind is ObjectKind.REPORT)
    return "```\n" + "".join(f"{line}\n" for line in _tree(report, 0)) + "```\n"


def _findings() -> str:
    rows = [
        (label, _code(kind.finding), "" if kind.site is None else _code(kind.site))
        for label, kind in codes.FINDINGS.items()
    ]
    return table(("Label", "Finding", "Finding site"), rows)


def _codes() -> str:
    found = {v for v in vars(codes).values() if isinstance(v, Code)} | set(codes.ACTIONABLE.values())
    return table(("Scheme", "Code", "Meaning"), sorted((c.scheme_designator, c.value, c.meaning) for c in found))


TABLES = {
    "services": _services,
    "implementation": _implementation,
    "limits": _limits,
    "transfer-syntaxes": _transfer_syntaxes,
    "statuses-sent": _statuses_sent,
    "objects": _objects,
    "statuses-received": _statuses_received,
    "failure-reasons": _failure_reasons,
    "statuses-reported": _statuses_reported,
    "report": _report,
    "findings": _findings,
    "codes": _codes,
}
"""By the name that a mark gives."""


@functools.cache
def _classes() -> dict[ObjectKind, tuple[str, ...]]:
    """SOP classes of each kind, under every setting."""
    kinds: dict[ObjectKind, dict[str, None]] = {}
    for o in _examples():
        kinds.setdefault(o.kind, {})[o.sop_class_uid] = None
    return {kind: tuple(uids) for kind, uids in kinds.items()}


@functools.cache
def _examples() -> tuple[ResultObject, ...]:
    """Everything that can be sent, built of a synthetic head under every setting that changes a SOP class."""
    everything = NodeIdentity(regions=True, presentation_state=True, activation_map=True)
    settings = [replace(everything, sop_class=name) for name in SOP_CLASSES]
    settings.append(replace(everything, capture_mode="multiframe"))
    with tempfile.TemporaryDirectory() as folder:
        head = generate(1, PhantomSpec(subtypes=(), n_slices=2 * KEY_SLICE, spacing_mm=9.0))
        paths = write_series(head, Path(folder), WriterOptions())
        instances = [read_instance(path) for path in paths]
        stack = order([plane for i in instances for plane in i.slices])
        by_uid = {i.sop_instance_uid: i.path for i in instances}
        volume = Volume(head.hu.astype(np.float32), stack.slices, stack.positions_mm, (1.0, 1.0), 9.0)
        result = _result(instances[0].study_uid, instances[0].series_uid, volume)
        seen = np.zeros_like(volume.hu[0])
        seen[seen.shape[0] // 3 : seen.shape[0] // 2, seen.shape[1] // 3 : seen.shape[1] // 2] = 1.0
        sources = Sources(
            [by_uid[s.sop_instance_uid] for s in stack.slices],
            volume,
            activations=tuple(ActivationMap(label, KEY_SLICE, seen) for label in LABELS),
            superseded=(SentObject(contexts.CT_CLASSES[0], "2.25.1", "2.25.2"),),
        )
        return tuple(o for node in settings for o in build_objects(result, sources, node))


def _result(study_uid: str, series_uid: str, volume: Volume) -> Result:
    return Result(
        study_uid=study_uid, outcome=Outcome.POSITIVE, priority=Priority.URGENT, reason="", model=MODEL,
        started_at=0.0, duration_s=1.0, series_uid=series_uid,
        findings=tuple(Finding(label, 0.9, 0.5, True, (KEY_SLICE,)) for label in LABELS),
        slice_scores=tuple(SliceScore(s.sop_instance_uid, s.frame, {ANY: 0.9}) for s in volume.slices),
        n_slices=len(volume.slices), thresholds=dict.fromkeys(("review", "urgent", *LABELS[1:]), 0.5), run=2,
    )  # fmt: skip


def _tree(item: Dataset, depth: int) -> Iterator[str]:
    """A content item and what is below it; siblings of one relationship, type and concept stand for each other."""
    relationship = f"{item.RelationshipType} " if "RelationshipType" in item else ""
    name = _concept(item.ConceptNameCodeSequence[0]) if "ConceptNameCodeSequence" in item else ""
    yield "  " * depth + f"{relationship}{item.ValueType} {name}".rstrip()
    told = set()
    for below in item.get("ContentSequence", ()):
        concept = below.get("ConceptNameCodeSequence")
        kind = below.RelationshipType, below.ValueType, concept[0].CodeValue if concept else ""
        if kind not in told:
            told.add(kind)
            yield from _tree(below, depth + 1)


def _concept(ds: Dataset) -> str:
    return f'({ds.CodeValue}, {ds.CodingSchemeDesignator}, "{ds.CodeMeaning}")'


def _code(code: Code) -> str:
    return f'({code.value}, {code.scheme_designator}, "{code.meaning}")'


def _hex(number: int) -> str:
    return f"0x{number:04X}"


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
