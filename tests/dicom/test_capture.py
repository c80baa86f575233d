from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom.results_data import (
    SERIES,
    STUDY,
    VALIDATED,
    ct_series,
    enhanced_ct,
    ge_head,
    judge_composite,
    make_result,
    make_volume,
    negative,
    not_analysed,
    set_to,
)
from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.capture import build_captures, key_slices
from triage.dicom.equipment import IMPLEMENTATION_CLASS_UID, NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.pages import HEIGHT_PX, WIDTH_PX
from triage.dicom.report import build_report
from triage.records import ANY, SUBTYPES, Finding

NODE = NodeIdentity(node_name="node-07", max_key_slices=3)


def write_all(captures: list[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"capture-{i}.dcm" for i in range(len(captures))]
    for path, ds in zip(paths, captures, strict=True):
        with path.open("wb") as file:
            dcmwrite(file, ds, enforce_file_format=True)
    return paths


@pytest.fixture
def captures(tmp_path: Path) -> list[Dataset]:
    """A positive study's captures, read back from disk."""
    paths = ct_series(tmp_path / "ct")
    volume = make_volume(paths)
    built = build_captures(make_result(volume), load_evidence(paths), volume, NODE)
    return [dcmread(p) for p in write_all(built, tmp_path / "sc")]


def test_summary_first_then_key_slices_in_one_series(captures: list[Dataset]) -> None:
    assert [ds.InstanceNumber for ds in captures] == [1, 2, 3, 4]
    assert {(ds.SeriesNumber, ds.Modality, ds.StudyInstanceUID) for ds in captures} == {(9002, "OT", STUDY)}
    assert len({ds.SeriesInstanceUID for ds in captures}) == 1
    assert captures[0].SeriesInstanceUID != SERIES
    assert len({ds.SOPInstanceUID for ds in captures}) == 4


def test_attributes_a_capture_must_have(captures: list[Dataset]) -> None:
    for ds in captures:
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert (ds.ConversionType, ds.BurnedInAnnotation, ds.RecognizableVisualFeatures) == ("WSD", "YES", "NO")
        assert ds.ImageType == ["DERIVED", "SECONDARY", "OTHER"]
        assert ds.SeriesDescription == "AI ICH summary - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"
        assert "window 40/80" in ds.DerivationDescription
        assert "NOT FOR DIAGNOSTIC USE" in ds.DerivationDescription
        assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert (ds.StudyDescription, ds.LossyImageCompression) == ("CT HEAD WO CONTRAST", "00")
        assert not {"FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing"} & set(ds.dir())
        assert ds.ContributingEquipmentSequence[1].DeviceUID


def test_each_capture_names_the_slices_it_shows(captures: list[Dataset]) -> None:
    shown = [[i.ReferencedSOPInstanceUID for i in ds.SourceImageSequence] for ds in captures]
    assert shown == [[f"{SERIES}.4", f"{SERIES}.5", f"{SERIES}.3"], [f"{SERIES}.4"], [f"{SERIES}.5"], [f"{SERIES}.3"]]
    assert captures[1].SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert captures[1].ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    assert "slice 4 of 8 from below" in captures[1].ImageComments
    assert captures[1].PatientOrientation == ["L", "P"]
    assert "Intracranial hemorrhage suspected (97 %, threshold 50 %)" in captures[0].ImageComments


def test_pixels_show_the_slice_in_the_brain_window(captures: list[Dataset]) -> None:
    picture = captures[1].pixel_array
    assert picture.shape == (HEIGHT_PX, WIDTH_PX, 3)
    middle = picture[HEIGHT_PX // 2 - 50 : HEIGHT_PX // 2 + 50, WIDTH_PX // 2 - 50 : WIDTH_PX // 2 + 50]
    assert np.all(middle == int(32 / 80 * 255)), "32 HU in a window of 0 to 80 HU"
    values, counts = np.unique(picture[196:1012, 40:856], return_counts=True)
    assert set(values[np.argsort(counts)[-3:]]) == {0, 102, 255}, "air, brain and skull"
    blood = (picture[196:1012, 40:856, 0] == int(70 / 80 * 255)).sum(axis=0)
    half = len(blood) // 2
    assert blood[half:].sum() > 1000, "the spot lies to the patient's left: right in the picture"
    assert blood[:half].sum() < 100


def test_nothing_is_drawn_over_the_anatomy(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume = make_volume(paths)
    air = replace(volume, hu=np.full_like(volume.hu, -1000.0))
    for ds in build_captures(make_result(air), load_evidence(paths), air, NODE)[1:]:
        picture = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.Rows, ds.Columns, 3)
        assert not picture[196:1012, 40:856].any()
        assert picture.any()


def test_only_positive_studies_get_captures(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    assert build_captures(negative(volume), evidence, volume, NODE) == []
    assert build_captures(not_analysed(), evidence, volume, NODE) == []


def test_no_page_names_the_patient(tmp_path: Path) -> None:
    """The only free text on a page is the series description; one that quotes the patient is left out."""
    changes = set_to("PatientName", "Novakova^Eva"), set_to("PatientID", "7407041234")
    paths = ct_series(tmp_path / "ct", *changes)
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume)
    said = []
    for description in ("Head NOVAKOVA", "7407041234 Head", "Head 5.0 H31s", ""):
        verdict = replace(result.verdicts[0], description=description)
        captures = build_captures(replace(result, verdicts=(verdict,)), evidence, volume, NODE)
        said.append((captures[0].ImageComments, captures[0].PixelData))
    assert "Head 5.0 H31s" in said[2][0]
    assert said[2][1] != said[3][1]
    for comments, pixels in said[:2]:
        assert (comments, pixels) == said[3]


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    files = [write_all(build_captures(make_result(volume), evidence, volume, NODE), tmp_path / name) for name in "ab"]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    again = build_captures(make_result(volume, run=2), evidence, volume, NODE)
    assert again[0].SeriesInstanceUID != dcmread(files[0][0]).SeriesInstanceUID


def test_key_slices_take_turns_and_keep_the_limit(tmp_path: Path) -> None:
    volume = make_volume(ct_series(tmp_path / "ct"))
    findings = (Finding(ANY, 0.9, 0.5, True, (3, 4)), Finding("epidural", 0.6, 0.4, True, (7, 3)),
                Finding("subdural", 0.8, 0.4, True, (5,)), Finding("subarachnoid", 0.1, 0.4, False, ()))  # fmt: skip
    result = make_result(volume, findings=findings)
    assert key_slices(result, 9) == (3, 5, 7, 4)
    assert key_slices(result, 2) == (3, 5)


def test_lossy_sources_are_told(tmp_path: Path) -> None:
    lossy = (set_to("LossyImageCompression", "01"), set_to("LossyImageCompressionRatio", "12.5"),
             set_to("LossyImageCompressionMethod", "ISO_15444_1"))  # fmt: skip
    paths = ct_series(tmp_path / "ct", *lossy)
    volume = make_volume(paths)
    built = build_captures(make_result(volume, lossy=True), load_evidence(paths), volume, NODE)
    assert {(d.LossyImageCompression, float(d.LossyImageCompressionRatio), d.LossyImageCompressionMethod)
            for d in built} == {("01", 12.5, "ISO_15444_1")}  # fmt: skip
    judge_composite(write_all(built, tmp_path / "sc"))


def test_frames_of_one_instance_are_captured(tmp_path: Path) -> None:
    paths = enhanced_ct(tmp_path / "ct")
    volume = make_volume(paths)
    built = build_captures(make_result(volume), load_evidence(paths), volume, NODE)
    assert len(built) == 4
    assert [len(ds.SourceImageSequence) for ds in built] == [1, 1, 1, 1]
    assert "frame 4" in built[1].ImageComments
    judge_composite(write_all(built, tmp_path / "sc"))


def test_captures_pass_the_judges_beside_report_and_sources(tmp_path: Path) -> None:
    name = "Ďurčová^Ľubica=山田^太郎"
    paths = ct_series(tmp_path / "ct", set_to("PatientName", name))
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume, SUBTYPES, model=VALIDATED)
    built = build_captures(result, evidence, volume, NODE)
    assert "DEMONSTRATION" not in built[0].SeriesDescription + built[0].ImageComments
    files = write_all([*built, build_report(result, evidence, NODE)], tmp_path / "results")
    assert {str(dcmread(f).PatientName) for f in files} == {name}
    judge_composite(files, paths)


def test_the_real_head_passes_the_judges(tmp_path: Path) -> None:
    paths = ge_head()
    volume = make_volume(paths)
    built = build_captures(make_result(volume), load_evidence(paths), volume, NodeIdentity())
    assert built[1].PatientOrientation == ["L", "P"]
    judge_composite(write_all(built, tmp_path / "sc"))
