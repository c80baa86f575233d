"""Result + evidence -> Structured Report (PS3.16 TID 1500, IHE AI Results); no pixels, no files, no network."""

from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset

from triage.dicom import codes, wording
from triage.dicom.equipment import MANUFACTURER, MODEL_NAME, NodeIdentity, analysis_times, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.uids import device_uid, result_uid
from triage.errors import StudyError
from triage.records import ANY, Finding, ModelIdentity, Outcome, Result

SERIES_NUMBER = 9001
"""High and fixed: clear of scanners' numbers; captures follow at 9002."""

SERIES_NAME = "AI ICH result"

SOP_CLASSES = {
    "comprehensive3d": sr.Comprehensive3DSR,
    "comprehensive": sr.ComprehensiveSR,
    "enhanced": sr.EnhancedSR,
}
"""By NodeIdentity.sop_class. IHE AI Results asks for the first; some older PACS know only the others."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage: the only class whose attributes the image library can read."""

LIBRARY_NEEDS = ("Modality", "PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")
"""Attributes that highdicom's image library reads without asking whether they are there."""

LIBRARY_SLICES = 10
"""Most images in the library; each costs about 3 kB."""

CONTAINS = sr.RelationshipTypeValues.CONTAINS


def build_report(
    result: Result, evidence: Sequence[Dataset], node: NodeIdentity, predecessor: Dataset | None = None
) -> Dataset:
    """Build the Structured Report of one analysis, whatever its outcome.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`: the slices analysed, or whatever the study has where nothing was analysed.
        node: Who reports.
        predecessor: The report that this one supersedes.

    Returns:
        A COMPLETE, UNVERIFIED, PRELIMINARY document of the study, ready to be written.

    Raises:
        StudyError: There is no evidence: a report needs an instance of the study it belongs to.
    """
    if not evidence:
        raise StudyError("no readable instance: a report has nothing to refer to")
    source = evidence[0]
    times = analysis_times(result, source)
    content = sr.MeasurementReport(
        observation_context=_observer(result.model, node),
        procedure_reported=codes.CT_UNSPECIFIED,
        imaging_measurements=[_group(result, f, evidence) for f in _judged(result)],
        title=codes.IMAGING_MEASUREMENT_REPORT,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept.from_code(codes.ENGLISH)),
        referenced_images=_library(result, evidence),
    )
    content[0].ContentSequence.append(_evaluations(result, predecessor is not None))
    document: Dataset = SOP_CLASSES[node.sop_class](
        evidence=_stand_ins(evidence), content=content[0], series_instance_uid=_uid(result, node, "sr-series"),
        series_number=SERIES_NUMBER, sop_instance_uid=_uid(result, node, "sr"), instance_number=1,
        manufacturer=MANUFACTURER, is_complete=True, is_final=False, is_verified=False,
        performed_procedure_codes=[codes.CT_HEAD], requested_procedures=_requested_procedure(source),
        previous_versions=[predecessor] if predecessor is not None else None, content_date=times.started.date(),
        content_time=times.started.time(),
        series_description=wording.series_description(SERIES_NAME, result.model),
    )  # fmt: skip
    document.CurrentRequestedProcedureEvidenceSequence = _references(evidence)
    copy_patient_and_study(source, document)
    stamp(document, result.model, node, times, source)
    return document


def _uid(result: Result, node: NodeIdentity, role: str) -> str:
    return result_uid(result.study_uid, result.series_uid or "", result.model.sha256, result.run,
                      f"{node.node_name}/{role}")  # fmt: skip


def _observer(model: ModelIdentity, node: NodeIdentity) -> sr.ObservationContext:
    """TID 1004: the device that observes is the software with this very model pack."""
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(model.sha256), name=MODEL_NAME, manufacturer_name=MANUFACTURER,
        model_name=f"{model.name} {model.version}", serial_number=node.node_name)  # fmt: skip
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(
        sr.CodedConcept.from_code(codes.DEVICE), attributes))


def _judged(result: Result) -> tuple[Finding | None, ...]:
    """The findings that get a measurement group; None stands for the hemorrhage that could not be judged."""
    return (None,) if result.outcome is Outcome.NOT_ANALYSED or not result.findings else result.findings


def _group(
    result: Result, finding: Finding | None, evidence: Sequence[Dataset]
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501: one label with certainty, presence and key slices; without certainty where it could not be judged."""
    label = finding.label if finding is not None else ANY
    code = codes.FINDINGS[label]
    presence = codes.UNDETERMINED if finding is None else codes.PRESENT if finding.present else codes.ABSENT
    measurements = None
    if finding is not None:
        certainty = round(100 * float(finding.p), 1)
        measurements = [sr.Measurement(name=codes.CERTAINTY, value=certainty, unit=codes.PERCENT)]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            # The same in every analysis of the study: a correction speaks of the same finding
            uid=result_uid(result.study_uid, "", "", 0, f"tracking-{label}"), identifier=wording.NAMES[label]),
        finding_type=code.finding,
        finding_sites=[sr.FindingSite(code.site)] if code.site is not None else None,
        algorithm_id=_algorithm(result),
        measurements=measurements,
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.PRESENCE, presence)],
        source_images=_key_images(result, finding, evidence) or None,
    )  # fmt: skip


def _algorithm(result: Result) -> sr.AlgorithmIdentification:
    """TID 4019; without the manufacturer, which validators of 2022 do not know there and the observer states."""
    model = result.model
    parameters = [f"threshold_{name}={value:g}" for name, value in sorted(result.thresholds.items())]
    parameters += [f"pack_sha256={model.sha256}", f"architecture={model.architecture}",
                   f"intended_use={model.intended_use}"]  # fmt: skip
    return sr.AlgorithmIdentification(name=model.name, version=model.version, parameters=parameters)


def _key_images(
    result: Result, finding: Finding | None, evidence: Sequence[Dataset]
) -> list[sr.SourceImageForMeasurementGroup]:
    """One item an instance, with frame numbers where it has several."""
    classes = {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for ds in evidence}
    frames: dict[str, list[int]] = {}
    for index in finding.key_slices if finding is not None else ():
        score = result.slice_scores[index]
        frames.setdefault(score.sop_instance_uid, []).append(score.frame)
    return [sr.SourceImageForMeasurementGroup(
        classes[uid], uid, sorted(set(numbers)) if classes[uid] != CT_IMAGE else None)
        for uid, numbers in frames.items()]  # fmt: skip


def _library(result: Result, evidence: Sequence[Dataset]) -> list[Dataset] | None:
    """The key slices that the image library can describe (TID 1600), or None."""
    wanted = [result.slice_scores[i].sop_instance_uid for f in result.findings for i in f.key_slices]
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    library = [by_uid[uid] for uid in dict.fromkeys(wanted)]
    library = [ds for ds in library if ds.SOPClassUID == CT_IMAGE and all(ds.get(k) is not None for k in LIBRARY_NEEDS)]
    return library[:LIBRARY_SLICES] or None


def _evaluations(result: Result, supersedes: bool) -> sr.ContainerContentItem:
    """TID 1500 rows 12-14, which highdicom's template leaves to its user."""
    box = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, is_content_continuous=False, relationship_type=CONTAINS)  # fmt: skip
    finding = result.finding(ANY)
    if result.outcome is Outcome.NOT_ANALYSED or finding is None:
        answer = codes.UNDETERMINED
    else:
        answer = codes.PRESENT if finding.present else codes.ABSENT
    box.ContentSequence = sr.ContentSequence([
        sr.CodeContentItem(codes.INTRACRANIAL_HEMORRHAGE, answer, CONTAINS)])  # fmt: skip
    if result.outcome is Outcome.POSITIVE and result.priority in codes.ACTIONABLE:
        box.ContentSequence.append(sr.CodeContentItem(codes.PRIORITY, codes.ACTIONABLE[result.priority], CONTAINS))
    for text in _comments(result, supersedes):
        box.ContentSequence.append(sr.TextContentItem(codes.COMMENT, text, CONTAINS))
    return box


def _comments(result: Result, supersedes: bool) -> list[str]:
    comments = [wording.DISCLAIMER]
    if result.model.is_demonstration:
        comments.append(wording.DEMONSTRATION_WARNING)
    comments += wording.outcome_remarks(result)
    if technical := wording.technical_remarks(result):
        comments.append(" ".join(technical))
    if remark := wording.run_remark(result, supersedes):
        comments.append(remark)
    return comments


def _stand_ins(evidence: Sequence[Dataset]) -> list[Dataset]:
    """What highdicom must know of the evidence before the patient and the references are written by our own hand.

    Its constructor looks attributes up by SOP Class, fails on a class it does not know, and quotes names in warnings.
    """
    stand_ins = []
    for ds in evidence:
        item = Dataset()
        item.SOPClassUID, item.SOPInstanceUID = CT_IMAGE, ds.SOPInstanceUID
        item.StudyInstanceUID, item.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                        "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
            setattr(item, keyword, None)
        stand_ins.append(item)
    return stand_ins


def _references(evidence: Sequence[Dataset]) -> list[Dataset]:
    """Hierarchical references to every source instance, once each (PS3.3 C.17.2.1)."""
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


def _requested_procedure(source: Dataset) -> list[Dataset] | None:
    """Ties the report to its order (PS3.3 C.17.2, Referenced Request Sequence), where the images name one."""
    requests = source.get("RequestAttributesSequence") or [Dataset()]
    request = requests[0]
    if not (source.get("AccessionNumber") or request.get("RequestedProcedureID")):
        return None
    item = Dataset()
    item.StudyInstanceUID, item.ReferencedStudySequence = source.StudyInstanceUID, []
    item.AccessionNumber = source.get("AccessionNumber") or None
    for keyword in ("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"):
        setattr(item, keyword, source.get(keyword))
    item.RequestedProcedureID = request.get("RequestedProcedureID")
    item.RequestedProcedureDescription = request.get("RequestedProcedureDescription")
    item.RequestedProcedureCodeSequence = request.get("RequestedProcedureCodeSequence") or []
    return [item]

