"""Result + activation maps -> a second Structured Report with a region for each finding (PS3.16 TID 1410); no files.

Regions stand in a document of their own: one that mixes them with the findings' groups (TID 1501) fails validators,
which choose one template for all groups. And they stand in a series of their own: receivers that show or match the
newest document of the result's series must find the result there.
"""

from collections.abc import Sequence

import numpy as np
from highdicom import sr
from pydicom import Dataset

from triage.dicom import codes, wording
from triage.dicom.contours import outlines
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
from triage.dicom.sources import Sources
from triage.dicom.uids import result_uid
from triage.records import ActivationMap, Finding, Result

SERIES_NUMBER = 9007

SERIES_NAME = "AI ICH regions"

EXPLANATION = (
    "Each polygon encloses the part of one key slice that spoke most for the finding in the network's class activation "
    "map. It shows where the network looked: it is no outline of a hemorrhage, and nothing may be measured by it. "
    "Places outside it may show a hemorrhage too.")  # fmt: skip


def build_regions(result: Result, evidence: Sequence[Dataset], sources: Sources, node: NodeIdentity) -> Dataset | None:
    """Build the report that tells a region for each present finding.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`, among them every key slice.
        sources: Activation maps.
        node: Who reports.

    Returns:
        A COMPLETE, UNVERIFIED, PRELIMINARY document of the study that lists the result's report among its evidence;
        None where no present finding has a map with an outline.

    Raises:
        StudyError: A probability is none.
    """
    found = [(f, best) for f in result.findings if f.present and (best := _best_map(f, sources)) is not None]
    if not found:
        return None
    source, times = evidence[0], analysis_times(result, evidence[0])
    shown = [best.index for _, (best, _) in found]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer_context(result.model, node)),
        procedure_reported=codes.CT_UNSPECIFIED,
        imaging_measurements=[_group(result, finding, best, evidence) for finding, best in found],
        title=codes.IMAGING_MEASUREMENT_REPORT,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept.from_code(codes.ENGLISH)),
        referenced_images=image_library(result, shown, evidence),
    )  # fmt: skip
    content[0].ContentSequence.append(_remarks(result))
    document: Dataset = SOP_CLASSES[node.sop_class](
        evidence=stand_ins(evidence), content=content[0], series_number=SERIES_NUMBER, instance_number=1,
        series_instance_uid=object_uid(result, node, "regions-series"),
        sop_instance_uid=object_uid(result, node, "regions"), manufacturer=MANUFACTURER, is_complete=True,
        is_final=False, is_verified=False, performed_procedure_codes=[codes.CT_HEAD],
        requested_procedures=requested_procedures(source), content_date=times.started.date(),
        content_time=times.started.time(),
        series_description=wording.series_description(SERIES_NAME, result.model),
    )  # fmt: skip
    document.CurrentRequestedProcedureEvidenceSequence = references([*evidence, _report(document, result, node)])
    copy_patient_and_study(source, document)
    stamp(document, result.model, node, times, source)
    return document


def _best_map(finding: Finding, sources: Sources) -> tuple[ActivationMap, np.ndarray] | None:
    """The map of the most suspicious key slice that has an outline, with the largest polygon."""
    maps = {m.index: m for m in sources.activations if m.label == finding.label}
    for index in finding.key_slices:
        if index in maps and (polygons := outlines(maps[index])):
            return maps[index], np.asarray(polygons[0], dtype=float)
    return None


def _group(
    result: Result, finding: Finding, best: tuple[ActivationMap, np.ndarray], evidence: Sequence[Dataset]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410: one finding with its region, certainty and presence."""
    code = codes.FINDINGS[finding.label]
    classes = {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for ds in evidence}
    [(uid, frames)] = frames_of(result, [best[0].index], evidence).items()
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            # Another one than the finding's: a region is not the finding, and another analysis looks elsewhere
            uid=result_uid(result.study_uid, result.series_uid or "", result.model.sha256, result.run,
                           f"tracking-region-{finding.label}"),
            identifier=f"{wording.NAMES[finding.label]}: region of attention"),
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE, best[1], sr.SourceImageForRegion(classes[uid], uid, frames)),
        finding_type=code.finding,
        finding_sites=[sr.FindingSite(code.site)] if code.site is not None else None,
        algorithm_id=algorithm(result),
        measurements=[certainty(finding)],
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.PRESENCE, codes.PRESENT)],
    )  # fmt: skip


def _remarks(result: Result) -> sr.ContainerContentItem:
    """TID 1500 rows 12-14, with comments only: the evaluations are the result's."""
    box = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, is_content_continuous=False, relationship_type=CONTAINS)  # fmt: skip
    texts = [wording.DISCLAIMER, *([wording.DEMONSTRATION_WARNING] if result.model.is_demonstration else [])]
    texts += [EXPLANATION, f"Belongs to analysis {result.run} of this study; its report tells the result."]
    box.ContentSequence = sr.ContentSequence([sr.TextContentItem(codes.COMMENT, text, CONTAINS) for text in texts])
    return box


def _report(document: Dataset, result: Result, node: NodeIdentity) -> Dataset:
    """UIDs of the report of the same analysis, of the same class: regions are nothing without it."""
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID = document.StudyInstanceUID, object_uid(result, node, "sr-series")
    item.SOPClassUID, item.SOPInstanceUID = document.SOPClassUID, object_uid(result, node, "sr")
    return item
