"""Result -> Key Object Selections (PS3.16 TID 2010): the key slices, and what a later analysis rejects; no pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from highdicom import ko
from pydicom import Dataset
from pydicom.sr.coding import Code

from triage.dicom import codes, wording
from triage.dicom.capture import key_slices
from triage.dicom.documents import (
    frames_of,
    object_uid,
    observer_context,
    references,
    requested_procedures,
    stand_ins,
)
from triage.dicom.equipment import MANUFACTURER, NodeIdentity, analysis_times, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.sources import SentObject
from triage.records import Outcome, Result


@dataclass(frozen=True, slots=True)
class Selection:
    """What makes one selection differ from another."""

    title: Code
    role: str
    """Of its UIDs."""
    series_number: int
    series_name: str
    description: str
    objects: tuple[Dataset, ...]
    """What is selected: the four UIDs, each instance once."""


KEY_SLICES = Selection(
    codes.OF_INTEREST, "key-object", 9003, "AI ICH key slices",
    "Slices with the highest suspicion of intracranial hemorrhage, the highest first.", ())  # fmt: skip

REJECTION = Selection(
    codes.REJECTED, "rejection", 9004, "AI ICH superseded",
    "Output of an earlier AI analysis of this study that a later one supersedes. The images that were analysed are not "
    "rejected. The report of the later analysis names the earlier report as its predecessor.", ())  # fmt: skip
"""IHE's name for it is a rejection note (Imaging Object Change Management). PS3.16 TID 2010 lets a reason follow from
CID 7011; it is left out: each of them names a fault of acquisition or equipment, and there was none."""

NO_IMAGES = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.")
"""SOP classes of documents and presentation states: everything else that this node sends is an image."""


def build_key_object(result: Result, evidence: Sequence[Dataset], node: NodeIdentity) -> Dataset | None:
    """Select the key slices of a positive study: the ones that captures show.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`, among them every key slice.
        node: Who reports, and how many key slices at most.

    Returns:
        A Key Object Selection "Of Interest", frames named where an instance has several; None unless the result is
        positive and has key slices.
    """
    if result.outcome is not Outcome.POSITIVE:
        return None
    shown = frames_of(result, key_slices(result, node.max_key_slices), evidence)
    if not shown:
        return None
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    selection = replace(KEY_SLICES, objects=tuple(by_uid[uid] for uid in shown))
    document = _document(selection, result, evidence[0], node)
    for item in document.ContentSequence:  # highdicom's template knows no frames, PS3.3 C.18.4 does
        if item.ValueType == "IMAGE" and (frames := shown[item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]):
            item.ReferencedSOPSequence[0].ReferencedFrameNumber = frames
    return document


def build_rejection(
    result: Result, evidence: Sequence[Dataset], superseded: Sequence[SentObject], node: NodeIdentity
) -> Dataset | None:
    """Reject what earlier analyses of the study sent, whatever this one says.

    Args:
        result: The analysis that supersedes.
        evidence: Items of `load_evidence`; patient and study are theirs.
        superseded: Objects to reject, by their UIDs. One without a series cannot be referred to and is passed over.
        node: Who reports.

    Returns:
        A Key Object Selection "Rejected for Quality Reasons"; None where there is nothing to reject.
    """
    rejected = {}
    for sent in superseded:
        if sent.series_uid and sent.sop_class_uid:
            item = Dataset()
            item.StudyInstanceUID, item.SeriesInstanceUID = evidence[0].StudyInstanceUID, sent.series_uid
            item.SOPClassUID, item.SOPInstanceUID = sent.sop_class_uid, sent.sop_instance_uid
            rejected[sent.sop_instance_uid] = item
    if not rejected:
        return None
    return _document(replace(REJECTION, objects=tuple(rejected.values())), result, evidence[0], node)


def _document(selection: Selection, result: Result, source: Dataset, node: NodeIdentity) -> Dataset:
    times = analysis_times(result, source)
    contents = stand_ins(selection.objects)
    for item, ds in zip(contents, selection.objects, strict=True):
        item.SOPClassUID = ds.SOPClassUID
        if not ds.SOPClassUID.startswith(NO_IMAGES):
            item.Rows = item.Columns = 1  # what highdicom knows an image by
    model = result.model
    description = (selection.description, f"Model {wording.model_line(model)}.", wording.DISCLAIMER,
                   *([wording.DEMONSTRATION_WARNING] if model.is_demonstration else []))  # fmt: skip
    content = ko.KeyObjectSelection(
        document_title=selection.title, referenced_objects=contents,
        observer_device_context=observer_context(model, node), description=" ".join(description))  # fmt: skip
    document: Dataset = ko.KeyObjectSelectionDocument(
        evidence=contents, content=content, series_number=selection.series_number, instance_number=1,
        series_instance_uid=object_uid(result, node, f"{selection.role}-series"),
        sop_instance_uid=object_uid(result, node, selection.role), manufacturer=MANUFACTURER,
        requested_procedures=requested_procedures(source),
        series_description=wording.series_description(selection.series_name, model),
    )  # fmt: skip
    for item in document.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            del item.ConceptNameCodeSequence  # "Source", which validators of 2022 forbid here
    document.CurrentRequestedProcedureEvidenceSequence = references(selection.objects)
    copy_patient_and_study(source, document)
    stamp(document, model, node, times, source)
    return document
