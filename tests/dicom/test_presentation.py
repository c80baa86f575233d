import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom.results_data import (
    SERIES,
    VALIDATED,
    case,
    ct_series,
    enhanced_ct,
    make_volume,
    need,
    negative,
    set_to,
)
from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.contours import outlines
from triage.dicom.equipment import NodeIdentity
from triage.dicom.presentation import build_presentation
from triage.dicom.sources import Sources
from triage.records import Result

NODE = NodeIdentity(node_name="node-07", max_key_slices=3)


def built(result: Result, evidence: list[Dataset], sources: Sources, path: Path) -> Dataset:
    state = build_presentation(result, evidence, sources, NODE)
    assert state is not None
    dcmwrite(path, state, enforce_file_format=True)
    return dcmread(path)


def test_marks_lie_on_the_key_slices(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    ds = built(result, evidence, sources, tmp_path / "pr.dcm")
    shown = [i.ReferencedSOPInstanceUID for i in ds.ReferencedSeriesSequence[0].ReferencedImageSequence]
    assert shown == [f"{SERIES}.4", f"{SERIES}.5", f"{SERIES}.3"]
    assert [a.ReferencedImageSequence[0].ReferencedSOPInstanceUID for a in ds.GraphicAnnotationSequence] == shown
    for annotation in ds.GraphicAnnotationSequence:
        [contour] = annotation.GraphicObjectSequence
        assert (contour.GraphicType, contour.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
        assert contour.GraphicFilled == "N"
        points = np.reshape(contour.GraphicData, (-1, 2))
        np.testing.assert_allclose(points, outlines(sources.activations[0])[0], atol=1e-4)
        [text] = annotation.TextObjectSequence
        assert text.BoundingBoxAnnotationUnits == "DISPLAY"
        assert text.BoundingBoxBottomRightHandCorner[1] <= 0.06, "at the upper edge, not over the head"
        for part in ("suspected (97 %", "where the AI looked", "NOT FOR DIAGNOSTIC USE", "DEMONSTRATION MODEL"):
            assert part in text.UnformattedTextValue


def test_window_is_the_brains(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct", set_to("RescaleIntercept", "-1024")))
    ds = built(result, evidence, sources, tmp_path / "pr.dcm")
    voi = ds.SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth) == (40, 80)
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, -1024, "HU")
    assert ds.DisplayedAreaSelectionSequence[0].PresentationPixelSpacing == [3.5, 3.5]
    assert (ds.SeriesNumber, ds.Modality, ds.ContentLabel) == (9005, "PR", "AI_ICH")
    for text in (ds.SeriesDescription, ds.ContentDescription):
        assert text == "AI ICH marks - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"


def test_without_a_map_there_is_text_only(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"), model=VALIDATED)
    ds = built(result, evidence, replace(sources, activations=()), tmp_path / "pr.dcm")
    for annotation in ds.GraphicAnnotationSequence:
        assert "GraphicObjectSequence" not in annotation
        text = annotation.TextObjectSequence[0].UnformattedTextValue
        assert "where the AI looked" not in text
        assert "DEMONSTRATION" not in text


def test_slices_with_another_rescale_are_left_out(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        if ds.InstanceNumber == 5:
            ds.RescaleIntercept = "-1000"

    result, evidence, sources = case(ct_series(tmp_path / "ct", change))
    ds = built(result, evidence, sources, tmp_path / "pr.dcm")
    shown = [i.ReferencedSOPInstanceUID for i in ds.ReferencedSeriesSequence[0].ReferencedImageSequence]
    assert shown == [f"{SERIES}.4", f"{SERIES}.3"]


def test_none_for_negative_studies_and_enhanced_ct(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    _, evidence, sources = case(paths)
    assert build_presentation(negative(make_volume(paths)), evidence, sources, NODE) is None
    assert build_presentation(*case(enhanced_ct(tmp_path / "enhanced")), NODE) is None


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    for name in ("a", "b"):
        ds = built(result, evidence, sources, tmp_path / name)
        assert "PresentationCreationDate" in ds
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dcmtks_checker_of_presentation_states_passes_it(tmp_path: Path) -> None:
    need("dcmpschk")
    built(*case(ct_series(tmp_path / "ct")), tmp_path / "pr.dcm")
    program = shutil.which("dcmpschk")
    assert program is not None
    done = subprocess.run([program, str(tmp_path / "pr.dcm")], capture_output=True, text=True, check=False)
    assert "Test passed" in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_none_without_a_rescale(tmp_path: Path, keyword: str) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    for ds in evidence:
        del ds[keyword]
    assert build_presentation(result, evidence, sources, NODE) is None
