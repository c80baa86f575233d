"""Result + evidence -> Structured Report (PS3.16 TID 1500, IHE AI Results); no pixels, no files, no network."""

from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset

from triage.dicom import codes, wording
from triage.dicom.documents import (
    CONTAINS,
    SOP_CLASSES,
    algorithm,
    certainty,
    frames_of,
    image_library,
    object_uid,
    observer_context,
    references,
    requested_procedures,
    stand_ins,
)
from triage.dicom.equipment import MANUFACTURER, NodeIdentity, analysis_times, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.uids import result_uid
from triage.errors import StudyError
from triage.records import ANY, Finding, Outcome, Result

SERIES_NUMBER = 9001
"""High and fixed: clear of scanners' numbers; captures follow at 9002."""

SERIES_NAME = "AI ICH result"


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
        StudyError: There is no evidence: a report needs an instance of the study it belongs to. Or a probability is
            none.
    """
    if not evidence:
        raise StudyError("no readable instance: a report has nothing to refer to")
    source = evidence[0]
    times = analysis_times(result, source)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer_context(result.model, node)),
        procedure_reported=codes.CT_UNSPECIFIED,
        imaging_measurements=[_group(result, f, evidence) for f in _judged(result)],
        title=codes.IMAGING_MEASUREMENT_REPORT,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept.from_code(codes.ENGLISH)),
        referenced_images=image_library(result, [i for f in result.findings for i in f.key_slices], evidence),
    )
    content[0].ContentSequence.append(_evaluations(result, predecessor is not None))
    document: Dataset = SOP_CLASSES[node.sop_class](
        evidence=stand_ins(evidence), content=content[0], series_instance_uid=object_uid(result, node, "sr-series"),
        series_number=SERIES_NUMBER, sop_instance_uid=object_uid(result, node, "sr"), instance_number=1,
        manufacturer=MANUFACTURER, is_complete=True, is_final=False, is_verified=False,
        performed_procedure_codes=[codes.CT_HEAD], requested_procedures=requested_procedures(source),
        previous_versions=[predecessor] if predecessor is not None else None, content_date=times.started.date(),
        content_time=times.started.time(),
        series_description=wording.series_description(SERIES_NAME, result.model),
    )  # fmt: skip
    document.CurrentRequestedProcedureEvidenceSequence = references(evidence)
    copy_patient_and_study(source, document)
    stamp(document, result.model, node, times, source)
    return document


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
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            # The same in every analysis of the study: a correction speaks of the same finding
            uid=result_uid(result.study_uid, "", "", 0, f"tracking-{label}"), identifier=wording.NAMES[label]),
        finding_type=code.finding,
        finding_sites=[sr.FindingSite(code.site)] if code.site is not None else None,
        algorithm_id=algorithm(result),
        measurements=[certainty(finding)] if finding is not None else None,
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.PRESENCE, presence)],
        source_images=_key_images(result, finding, evidence) or None,
    )  # fmt: skip


def _key_images(
    result: Result, finding: Finding | None, evidence: Sequence[Dataset]
) -> list[sr.SourceImageForMeasurementGroup]:
    """One item an instance, with frame numbers where it has several."""
    classes = {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for ds in evidence}
    shown = frames_of(result, finding.key_slices if finding is not None else (), evidence)
    return [sr.SourceImageForMeasurementGroup(classes[uid], uid, frames) for uid, frames in shown.items()]


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
