from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.results_data import (
    ENHANCED_CT,
    SERIES,
    STUDY,
    VALIDATED,
    case,
    ct_series,
    enhanced_ct,
    items,
    make_volume,
    negative,
    text_of,
)
from highdicom import sr
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.sr.codedict import codes as standard

from triage.dicom.contours import outlines
from triage.dicom.equipment import NodeIdentity
from triage.dicom.regions import EXPLANATION, build_regions
from triage.dicom.report import build_report
from triage.dicom.sources import Sources
from triage.records import ANY, SUBTYPES, ActivationMap, Result

NODE = NodeIdentity(node_name="node-07")


def built(result: Result, evidence: list[Dataset], sources: Sources, path: Path) -> Dataset:
    document = build_regions(result, evidence, sources, NODE)
    assert document is not None
    dcmwrite(path, document, enforce_file_format=True)
    return dcmread(path)


def test_highdicom_reads_the_regions_of_the_present_findings(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"), present=("subdural", "epidural"))
    built(result, evidence, sources, tmp_path / "sr.dcm")
    content: Any = sr.srread(tmp_path / "sr.dcm").content
    groups = content.get_planar_roi_measurement_groups()
    assert [g.finding_type.value for g in groups] == ["1386000", "82999001", "35486000"]
    for group in groups:
        region = group.roi
        assert region.graphic_type is sr.GraphicTypeValues.POLYLINE
        points = region.value
        assert np.array_equal(points[0], points[-1])
        np.testing.assert_allclose(points, outlines(sources.activations[0])[0], atol=1e-4)
        inside = (points.min(axis=0) + points.max(axis=0)) / 2
        np.testing.assert_allclose(inside, (0.7 * 64 + 0.5, 0.48 * 64 + 0.5), atol=0.6), "column, row of the hill"
        [image] = region.ContentSequence
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == f"{SERIES}.4"
        assert group.get_measurements(name=standard.DCM.CertaintyOfFinding)[0].value in (97.3, 95.1)
        assert {i.TextValue for i in items(group[0], "Algorithm Name")} == {"ich-demo"}


def test_best_key_slice_that_has_a_map_is_shown(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    flat = ActivationMap(ANY, 3, np.full((64, 64), -1, np.float32))
    others = tuple(m for m in sources.activations if (m.label, m.index) != (ANY, 3))
    document = built(result, evidence, replace(sources, activations=(flat, *others)), tmp_path / "sr.dcm")
    shown = [i.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
             for i in items(document, "Image Region")]  # fmt: skip
    assert shown == [f"{SERIES}.5", f"{SERIES}.4"]


def test_no_map_no_document(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    result, evidence, sources = case(paths)
    assert build_regions(result, evidence, replace(sources, activations=()), NODE) is None
    flat = tuple(replace(m, values=np.zeros((64, 64), np.float32)) for m in sources.activations)
    assert build_regions(result, evidence, replace(sources, activations=flat), NODE) is None
    assert build_regions(negative(make_volume(paths)), evidence, sources, NODE) is None


def test_it_says_what_it_is_and_belongs_to_the_report(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"), run=3)
    document = built(result, evidence, sources, tmp_path / "sr.dcm")
    report = build_report(result, evidence, NODE)
    text = text_of(document)
    for part in (EXPLANATION, "no outline of a hemorrhage", "NOT FOR DIAGNOSTIC USE", "DEMONSTRATION MODEL",
                 "analysis 3 of this study"):  # fmt: skip
        assert part in text
    assert document.SeriesDescription == "AI ICH regions - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"
    assert (document.StudyInstanceUID, document.SeriesNumber, document.Modality) == (STUDY, 9007, "SR")
    assert document.SeriesInstanceUID != report.SeriesInstanceUID
    evidence_of = {i.ReferencedSOPInstanceUID: s.SeriesInstanceUID
                   for s in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
                   for i in s.ReferencedSOPSequence}  # fmt: skip
    assert evidence_of[report.SOPInstanceUID] == report.SeriesInstanceUID
    assert len(evidence_of) == 9
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "COMPLETE", "UNVERIFIED", "PRELIMINARY")  # fmt: skip
    validated = built(replace(result, model=VALIDATED), evidence, sources, tmp_path / "validated.dcm")
    assert "DEMONSTRATION" not in text_of(validated) + validated.SeriesDescription


def test_regions_are_tracked_apart_from_findings(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"), present=SUBTYPES)
    document = built(result, evidence, sources, tmp_path / "sr.dcm")
    again = built(replace(result, run=2), evidence, sources, tmp_path / "again.dcm")
    tracked = [{i.UID for i in items(ds, "Tracking Unique Identifier")}
               for ds in (document, again, build_report(result, evidence, NODE))]  # fmt: skip
    assert [len(uids) for uids in tracked] == [6, 6, 6]
    assert not tracked[0] & (tracked[1] | tracked[2])


def test_frames_are_named(tmp_path: Path) -> None:
    result, evidence, sources = case(enhanced_ct(tmp_path / "ct"))
    document = built(result, evidence, sources, tmp_path / "sr.dcm")
    reference = items(document, "Image Region")[0].ContentSequence[0].ReferencedSOPSequence[0]
    assert (reference.ReferencedSOPClassUID, reference.ReferencedFrameNumber) == (ENHANCED_CT, 4)


@pytest.mark.parametrize("name", ["comprehensive3d", "comprehensive", "enhanced"])
def test_it_is_of_the_same_class_as_the_report(tmp_path: Path, name: str) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    node = NodeIdentity(sop_class=name)
    document = build_regions(result, evidence, sources, node)
    assert document is not None
    assert document.SOPClassUID == build_report(result, evidence, node).SOPClassUID


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    for name in ("a", "b"):
        built(result, evidence, sources, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
