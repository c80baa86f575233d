"""What every document of an analysis is made of: observer, algorithm, library, references, order; reads no pixels."""

import math
from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset

from triage.dicom import codes
from triage.dicom.equipment import MANUFACTURER, MODEL_NAME, NodeIdentity
from triage.dicom.uids import device_uid, result_uid
from triage.errors import StudyError
from triage.records import Finding, ModelIdentity, Result

SOP_CLASSES = {
    "comprehensive3d": sr.Comprehensive3DSR,
    "comprehensive": sr.ComprehensiveSR,
    "enhanced": sr.EnhancedSR,
}
"""By NodeIdentity.sop_class. IHE AI Results asks for the first; some older PACS know only the others."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage: the only class with one frame, and the only one whose attributes the image library can read."""

LIBRARY_NEEDS = ("Modality", "PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")
"""Attributes that highdicom's image library reads without asking whether they are there."""

LIBRARY_SLICES = 10
"""Most images in the library; each costs about 3 kB."""

NEVER_SURE = 0.1
"""Percent that are always left to doubt: a certainty of 0 or 100 would be a matter of rounding only."""

CONTAINS = sr.RelationshipTypeValues.CONTAINS


def object_uid(result: Result, node: NodeIdentity, role: str) -> str:
    """Make the UID of one object or series of an analysis by this node.

    Args:
        result: The analysis.
        node: Who reports: two nodes that analyse the same study report apart.
        role: What the UID is for, such as "sr" or "sr-series".

    Returns:
        Always the same UID for the same arguments.
    """
    return result_uid(result.study_uid, result.series_uid or "", result.model.sha256, result.run,
                      f"{node.node_name}/{role}")  # fmt: skip


def observer_context(model: ModelIdentity, node: NodeIdentity) -> sr.ObserverContext:
    """Say who observed (PS3.16 TID 1004): the software with this very model pack.

    Args:
        model: The model that judged; another pack is another device.
        node: Who reports.

    Returns:
        The context of a device.
    """
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(model.sha256), name=MODEL_NAME, manufacturer_name=MANUFACTURER,
        model_name=f"{model.name} {model.version}", serial_number=node.node_name)  # fmt: skip
    return sr.ObserverContext(sr.CodedConcept.from_code(codes.DEVICE), attributes)


def algorithm(result: Result) -> sr.AlgorithmIdentification:
    """Say what judged and how it was set (PS3.16 TID 4019).

    Without the manufacturer, which validators of 2022 do not know there and the observer states.

    Args:
        result: The analysis.

    Returns:
        Name and version of the model; thresholds, hash of the pack, architecture and intended use as parameters.
    """
    model = result.model
    parameters = [f"threshold_{name}={float(value)!r}" for name, value in sorted(result.thresholds.items())]
    parameters += [f"pack_sha256={model.sha256}", f"architecture={model.architecture}",
                   f"intended_use={model.intended_use}"]  # fmt: skip
    return sr.AlgorithmIdentification(name=model.name, version=model.version, parameters=parameters)


def certainty(finding: Finding) -> sr.Measurement:
    """Say how sure the model is of a finding (PS3.16 CID 6048), in percent.

    Args:
        finding: One label of a study.

    Returns:
        The measurement, to one decimal and never 0 or 100.

    Raises:
        StudyError: The probability is no number from 0 to 1.
    """
    p = float(finding.p)
    if not (math.isfinite(p) and 0 <= p <= 1):
        raise StudyError(f"{finding.label}: {p} is no probability")
    value = round(min(max(100 * p, NEVER_SURE), 100 - NEVER_SURE), 1)
    return sr.Measurement(name=codes.CERTAINTY, value=value, unit=codes.PERCENT)


def frames_of(result: Result, indices: Sequence[int], evidence: Sequence[Dataset]) -> dict[str, list[int] | None]:
    """Name slices as instances and frames.

    Args:
        result: The analysis; the indices point into its slice scores.
        indices: Slices.
        evidence: Items of `load_evidence`, among them every slice.

    Returns:
        By SOP Instance UID, each once, in order: frame numbers, ascending; None for a single-frame instance.
    """
    classes = {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for ds in evidence}
    frames: dict[str, list[int]] = {}
    for index in indices:
        score = result.slice_scores[index]
        frames.setdefault(score.sop_instance_uid, []).append(score.frame)
    return {uid: None if classes[uid] == CT_IMAGE else sorted(set(numbers)) for uid, numbers in frames.items()}


def image_library(result: Result, indices: Sequence[int], evidence: Sequence[Dataset]) -> list[Dataset] | None:
    """Choose what the image library describes (PS3.16 TID 1600).

    Args:
        result: The analysis.
        indices: Slices that matter, the first first.
        evidence: Items of `load_evidence`, among them every slice.

    Returns:
        At most LIBRARY_SLICES images that highdicom can describe; None where there is none.
    """
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    library = [by_uid[uid] for uid in frames_of(result, indices, evidence)]
    library = [ds for ds in library if ds.SOPClassUID == CT_IMAGE and all(ds.get(k) is not None for k in LIBRARY_NEEDS)]
    return library[:LIBRARY_SLICES] or None


def stand_ins(evidence: Sequence[Dataset]) -> list[Dataset]:
    """Make what highdicom must know of evidence before patient and references are written by our own hand.

    Its constructors look attributes up by SOP Class, fail on a class they do not know, and quote names in warnings.

    Args:
        evidence: Items of `load_evidence`.

    Returns:
        One data set an item, without patient, as if it were a CT image.
    """
    made = []
    for ds in evidence:
        item = Dataset()
        item.SOPClassUID, item.SOPInstanceUID = CT_IMAGE, ds.SOPInstanceUID
        item.StudyInstanceUID, item.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                        "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
            setattr(item, keyword, None)
        made.append(item)
    return made


def references(evidence: Sequence[Dataset]) -> list[Dataset]:
    """Refer to instances by study and series (PS3.3 C.17.2.1).

    Args:
        evidence: Data sets with the four UIDs.

    Returns:
        Items of Current Requested Procedure Evidence Sequence; each instance once.
    """
    series: dict[tuple[str, str], dict[str, Dataset]] = {}
    for ds in evidence:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        series.setdefault((ds.StudyInstanceUID, ds.SeriesInstanceUID), {})[str(ds.SOPInstanceUID)] = item
    studies: dict[str, Dataset] = {}
    for (study_uid, series_uid), instances in series.items():
        study = studies.setdefault(study_uid, Dataset())
        study.StudyInstanceUID = study_uid
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = series_uid, list(instances.values())
        study.ReferencedSeriesSequence = [*study.get("ReferencedSeriesSequence", []), item]
    return list(studies.values())


def requested_procedures(source: Dataset) -> list[Dataset] | None:
    """Tie a document to its orders (PS3.3 C.17.2, Referenced Request Sequence).

    Args:
        source: An item of `load_evidence`.

    Returns:
        One item for each order that the images name: one examination may answer several. None where they name none.
        Of several, each keeps its own accession number; a single one has the images', which archives correct.
    """
    items = []
    requests = source.get("RequestAttributesSequence") or [Dataset()]
    for request in requests:
        is_own = not source.get("AccessionNumber") or (len(requests) > 1 and request.get("AccessionNumber"))
        accession = request if is_own else source
        if not (accession.get("AccessionNumber") or request.get("RequestedProcedureID")):
            continue
        item = Dataset()
        item.StudyInstanceUID, item.ReferencedStudySequence = source.StudyInstanceUID, []
        item.RequestedProcedureCodeSequence = request.get("RequestedProcedureCodeSequence") or []
        for keyword, holder in (
            ("AccessionNumber", accession), ("PlacerOrderNumberImagingServiceRequest", source),
            ("FillerOrderNumberImagingServiceRequest", source), ("RequestedProcedureID", request),
            ("RequestedProcedureDescription", request),
        ):  # fmt: skip
            if keyword in holder:
                item.add(holder[keyword])  # the element itself: set anew, an over-long number would be warned of
            else:
                setattr(item, keyword, None)
        items.append(item)
    return items or None
