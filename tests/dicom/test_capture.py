from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom.results_data import (
    SERIES,
    SIZE,
    STUDY,
    VALIDATED,
    ct_series,
    enhanced_ct,
    ge_head,
    judge_composite,
    make_activations,
    make_result,
    make_volume,
    negative,
    not_analysed,
    set_to,
)
from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.canvas import CONTOUR, HEIGHT_PX, SMALL, WIDTH_PX, width_of
from triage.dicom.capture import SCANNER_CLOCK, build_captures, key_slices
from triage.dicom.equipment import IMPLEMENTATION_CLASS_UID, NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.pages import EDGE_PX, MARKED_LEFT_PX, ONLY_LEFT_PX, PLAIN_LEFT_PX, TIMES_PX, TOP_PX
from triage.dicom.report import build_report
from triage.dicom.sources import Arrival, Sources
from triage.records import ANY, SUBTYPES, ActivationMap, Finding, Result, Volume

NODE = NodeIdentity(node_name="node-07", max_key_slices=3)


MULTI = replace(NODE, capture_mode="multiframe")
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.4"


def sources_of(volume: Volume, result: Result | None = None, **changes: object) -> Sources:
    """With activation maps where a result is given."""
    maps = make_activations(volume, result) if result is not None else ()
    return replace(Sources((), volume, activations=maps), **changes)  # type: ignore[arg-type]  # by keyword


def picture_of(page: np.ndarray, left: int) -> np.ndarray:
    return page[TOP_PX : TOP_PX + EDGE_PX, left : left + EDGE_PX]


def contour_of(page: np.ndarray) -> np.ndarray:
    """Where the marked copy has the contour's colour."""
    line: np.ndarray = np.all(picture_of(page, MARKED_LEFT_PX) == CONTOUR, axis=2)
    return line


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
    result = make_result(volume)
    built = build_captures(result, load_evidence(paths), sources_of(volume, result), NODE)
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
    plain = picture_of(picture, PLAIN_LEFT_PX)
    middle = plain[EDGE_PX // 2 - 50 : EDGE_PX // 2 + 50, EDGE_PX // 2 - 50 : EDGE_PX // 2 + 50]
    assert np.all(middle == int(32 / 80 * 255)), "32 HU in a window of 0 to 80 HU"
    values, counts = np.unique(plain, return_counts=True)
    assert set(values[np.argsort(counts)[-3:]]) == {0, 102, 255}, "air, brain and skull"
    blood = (plain[:, :, 0] == int(70 / 80 * 255)).sum(axis=0)
    half = len(blood) // 2
    assert blood[half:].sum() > 500, "the spot lies to the patient's left: right in the picture"
    assert blood[:half].sum() < 100


def test_nothing_is_drawn_over_the_anatomy(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume = make_volume(paths)
    air = replace(volume, hu=np.full_like(volume.hu, -1000.0))
    result = make_result(air, run=2)
    for sources in (sources_of(air), sources_of(air, result)):
        lefts = (PLAIN_LEFT_PX, MARKED_LEFT_PX) if sources.activations else (ONLY_LEFT_PX,)
        for ds in build_captures(result, load_evidence(paths), sources, NODE)[1:]:
            page = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.Rows, ds.Columns, 3)
            assert page.any()
            for left in lefts:
                picture = picture_of(page, left).astype(int)
                # Only the contour: its colour, or a shade of it at the edge of the line, over black
                assert (np.abs(picture * 255 - picture.max(axis=2, keepdims=True) * CONTOUR) <= 255 * 2).all()
                assert picture.any() == (left == MARKED_LEFT_PX)


def test_only_positive_studies_get_captures(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    assert build_captures(negative(volume), evidence, sources_of(volume), NODE) == []
    assert build_captures(not_analysed(), evidence, sources_of(volume), NODE) == []
    assert build_captures(make_result(volume), evidence, Sources((), None), NODE) == []


def test_no_page_names_the_patient(tmp_path: Path) -> None:
    """The only free text on a page is the series description; one that quotes the patient is left out."""
    changes = (set_to("PatientName", "Nováková-Li^Eva"), set_to("PatientID", "7407041234"),
               set_to("PatientBirthDate", "19740704"))  # fmt: skip
    paths = ct_series(tmp_path / "ct", *changes)
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume)
    said = []
    for description in ("Head 5.0 H31s", "", "Head NOVAKOVA", "7407041234 Head", "Head LI 5.0", "Head *4.7.1974",
                        "Head 1974-07-04", "Head 07/04/1974", "Eva, head"):  # fmt: skip
        verdict = replace(result.verdicts[0], description=description)
        captures = build_captures(replace(result, verdicts=(verdict,)), evidence, sources_of(volume), NODE)
        said.append((captures[0].ImageComments, captures[0].PixelData))
    assert "Head 5.0 H31s" in said[0][0]
    assert said[0][1] != said[1][1]
    for comments, pixels in said[2:]:
        assert (comments, pixels) == said[1]


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume)
    files = [write_all(build_captures(result, evidence, sources_of(volume, result), NODE), tmp_path / name)
             for name in "ab"]  # fmt: skip
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    again = build_captures(make_result(volume, run=2), evidence, sources_of(volume), NODE)
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
    built = build_captures(make_result(volume, lossy=True), load_evidence(paths), sources_of(volume), NODE)
    assert {(d.LossyImageCompression, float(d.LossyImageCompressionRatio), d.LossyImageCompressionMethod)
            for d in built} == {("01", 12.5, "ISO_15444_1")}  # fmt: skip
    judge_composite(write_all(built, tmp_path / "sc"))


def test_frames_of_one_instance_are_captured(tmp_path: Path) -> None:
    paths = enhanced_ct(tmp_path / "ct")
    volume = make_volume(paths)
    built = build_captures(make_result(volume), load_evidence(paths), sources_of(volume), NODE)
    assert len(built) == 4
    assert [len(ds.SourceImageSequence) for ds in built] == [1, 1, 1, 1]
    assert "frame 4" in built[1].ImageComments
    judge_composite(write_all(built, tmp_path / "sc"))


def test_captures_pass_the_judges_beside_report_and_sources(tmp_path: Path) -> None:
    name = "Ďurčová^Ľubica=山田^太郎"
    paths = ct_series(tmp_path / "ct", set_to("PatientName", name))
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume, SUBTYPES, model=VALIDATED)
    built = build_captures(result, evidence, sources_of(volume, result), NODE)
    assert "DEMONSTRATION" not in built[0].SeriesDescription + built[0].ImageComments
    files = write_all([*built, build_report(result, evidence, NODE)], tmp_path / "results")
    assert {str(dcmread(f).PatientName) for f in files} == {name}
    judge_composite(files, paths)


def test_the_real_head_passes_the_judges(tmp_path: Path) -> None:
    paths = ge_head()
    volume = make_volume(paths)
    result, evidence = make_result(volume), load_evidence(paths)
    sources = sources_of(volume, result)
    built = build_captures(result, evidence, sources, NodeIdentity())
    assert built[1].PatientOrientation == ["L", "P"]
    judge_composite(write_all(built, tmp_path / "sc"))
    judge_composite(write_all(build_captures(result, evidence, sources, MULTI), tmp_path / "mf"))


def test_the_contour_stands_beside_a_plain_copy_around_what_the_network_saw(captures: list[Dataset]) -> None:
    page = captures[1].pixel_array
    line = contour_of(page)
    assert not (picture_of(page, PLAIN_LEFT_PX) == CONTOUR).all(axis=2).any()
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    top, bottom, left, right = (EDGE_PX / SIZE * place for place in (28, 34, 42, 48))  # of the bright spot
    assert (rows[0] < top, rows[-1] > bottom, columns[0] < left, columns[-1] > right) == (True,) * 4
    middle = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    assert middle == pytest.approx(((top + bottom) / 2, (left + right) / 2), abs=0.01 * EDGE_PX)
    assert 100 < line.sum() < 0.01 * EDGE_PX**2, "a thin line, no filled map"
    differs = (picture_of(page, PLAIN_LEFT_PX) != picture_of(page, MARKED_LEFT_PX)).any(axis=2)
    assert not differs[: rows[0] - 2].any()
    assert not differs[:, : columns[0] - 2].any()
    assert "Contour: where the network looked for intraparenchymal hemorrhage" in captures[1].ImageComments


def test_the_contour_is_of_the_most_probable_type_that_has_a_map(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    result = make_result(volume, ("epidural", "subdural"))
    scores = tuple(replace(s, p=s.p | {"epidural": 0.5, "subdural": 0.8}) for s in result.slice_scores)
    result = replace(result, slice_scores=scores)
    maps = make_activations(volume, result)

    def said(*labels: str) -> str:
        some = tuple(a for a in maps if a.label in labels)
        return str(build_captures(result, evidence, sources_of(volume, activations=some), NODE)[1].ImageComments)

    assert "looked for subdural hemorrhage" in said(ANY, "epidural", "subdural")
    assert "looked for epidural hemorrhage" in said(ANY, "epidural")
    assert "looked for any hemorrhage" in said(ANY)
    assert "No contour: networks of this kind" in said()
    flat = ActivationMap(ANY, 3, np.full(volume.hu.shape[1:], -1.0, np.float32))
    empty = build_captures(result, evidence, sources_of(volume, activations=(flat,)), NODE)[1]
    assert "No contour: no place in this slice spoke for any hemorrhage" in empty.ImageComments
    assert not contour_of(np.frombuffer(empty.PixelData, np.uint8).reshape(HEIGHT_PX, WIDTH_PX, 3)).any()


def test_the_summary_tells_the_time_line(tmp_path: Path) -> None:
    zone, later = set_to("TimezoneOffsetFromUTC", "+0200"), set_to("AcquisitionTime", "101459.5")
    paths = ct_series(tmp_path / "ct", zone) + ct_series(tmp_path / "first", zone, later, n=1)
    volume = make_volume(paths[:8])
    result, evidence = make_result(volume), load_evidence(paths)
    arrival = Arrival(result.started_at - 65.0, result.started_at - 5.0)
    told, untold = (build_captures(result, evidence, sources_of(volume, arrival=a), NODE)[0] for a in (arrival, None))
    for text in ("Acquired: 2024-01-05 10:14:59", "First image received: 2026-09-21 16:12:15",
                 "Last image received: 2026-09-21 16:13:15", "Analysis began: 2026-09-21 16:13:20",
                 "Analysis ended: 2026-09-21 16:13:22", "Times: UTC+02:00"):  # fmt: skip
        assert text in told.ImageComments
    assert "Images: read from files" in untold.ImageComments
    assert "received" not in untold.ImageComments
    assert told.PixelData != untold.PixelData


def test_a_scanner_that_tells_no_zone_is_not_given_the_nodes(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume = make_volume(paths)
    comments = build_captures(make_result(volume), load_evidence(paths), sources_of(volume), NODE)[0].ImageComments
    assert f"{SCANNER_CLOCK}: 2024-01-05 10:15:00" in comments
    assert width_of(SCANNER_CLOCK, SMALL) < TIMES_PX - 20, "it ends before the time begins"


@pytest.mark.parametrize(("date", "time"), [("", ""), ("20240105", "")])
def test_a_scanner_that_tells_no_time_is_said_so(tmp_path: Path, date: str, time: str) -> None:
    paths = ct_series(tmp_path / "ct", set_to("AcquisitionDate", date), set_to("AcquisitionTime", time))
    volume = make_volume(paths)
    built = build_captures(make_result(volume), load_evidence(paths), sources_of(volume), NODE)
    assert "Acquired: not stated" in built[0].ImageComments


@pytest.mark.parametrize("node", [NODE, MULTI])
def test_later_analyses_say_that_their_pictures_replace_others(tmp_path: Path, node: NodeIdentity) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    first, second = (build_captures(make_result(volume, run=n), evidence, sources_of(volume), node) for n in (1, 2))
    remark = "Analysis 2 of this study: supersedes earlier ones"
    for before, after in zip(first, second, strict=True):
        assert remark not in before.ImageComments + before.DerivationDescription
        assert remark in after.ImageComments
        assert remark in after.DerivationDescription
        pages = [np.frombuffer(ds.PixelData, np.uint8).reshape(-1, HEIGHT_PX, WIDTH_PX, 3) for ds in (before, after)]
        assert all((one != other).any() for one, other in zip(*pages, strict=True)), "on every page"


def test_all_pages_can_be_frames_of_one_instance(tmp_path: Path, captures: list[Dataset]) -> None:
    paths = ct_series(tmp_path / "again")
    volume = make_volume(paths)
    result = make_result(volume)
    built = build_captures(result, load_evidence(paths), sources_of(volume, result), MULTI)
    (path,) = write_all(built, tmp_path / "mf")
    ds = dcmread(path)
    assert (ds.SOPClassUID, ds.NumberOfFrames) == (MULTI_FRAME, 4)
    assert (ds.FrameIncrementPointer, list(ds.PageNumberVector)) == (0x00182001, [1, 2, 3, 4])
    assert np.array_equal(ds.pixel_array, np.stack([c.pixel_array for c in captures])), "the same pages"
    assert [i.ReferencedSOPInstanceUID for i in ds.SourceImageSequence] == [f"{SERIES}.{n}" for n in (4, 5, 3)]
    assert ds.SeriesInstanceUID == captures[0].SeriesInstanceUID
    assert ds.SOPInstanceUID not in {c.SOPInstanceUID for c in captures}
    assert ds.ImageComments == captures[0].ImageComments
    assert not {"FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing"} & set(ds.dir())
    judge_composite([path], paths)
