from dataclasses import replace
from pathlib import Path

import pytest
from dicom.results_data import (
    ALL_ON,
    SUPERSEDED,
    build_all,
    ct_series,
    make_result,
    make_volume,
    negative,
    not_analysed,
    write_objects,
)
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from triage.dicom.equipment import IMPLEMENTATION_CLASS_UID, NodeIdentity
from triage.dicom.objects import build_objects, describe_file
from triage.dicom.sources import Sources
from triage.errors import StudyError
from triage.records import ObjectKind


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return ct_series(tmp_path / "ct")


def kinds(paths: list[Path], node: NodeIdentity) -> list[str]:
    """In the order of sending, each once."""
    return list(dict.fromkeys(str(o.kind) for o in build_all(paths, node=node)))


def test_by_default_report_selection_and_captures(paths: list[Path]) -> None:
    assert kinds(paths, NodeIdentity()) == ["report", "key_object", "capture"]


@pytest.mark.parametrize(("option", "kind"), [
    ("regions", "regions"), ("captures", "capture"), ("key_object", "key_object"),
    ("presentation_state", "presentation"), ("activation_map", "activation_map"),
])  # fmt: skip
def test_every_kind_is_a_choice(paths: list[Path], option: str, kind: str) -> None:
    nothing = NodeIdentity(captures=False, key_object=False)
    assert kinds(paths, nothing) == ["report"]
    chosen: NodeIdentity = replace(nothing, **{option: True})  # type: ignore[arg-type]  # all options are bools
    assert kinds(paths, chosen) == ["report", kind]


def test_corrections_are_linked_before_anything_new_is_told(paths: list[Path], tmp_path: Path) -> None:
    first = write_objects(build_all(paths), tmp_path / "first")
    second = build_all(paths, make_result(make_volume(paths), run=2), predecessor=first[0])
    assert list(dict.fromkeys(str(o.kind) for o in second)) == [
        "report", "rejection", "regions", "key_object", "capture", "presentation", "activation_map"]  # fmt: skip
    old = second[0].dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert old.ReferencedSOPInstanceUID == dcmread(first[0]).SOPInstanceUID
    assert {o.sop_instance_uid for o in second}.isdisjoint(str(dcmread(p).SOPInstanceUID) for p in first)


def test_rejection_goes_out_whatever_the_outcome_and_only_when_asked_for(paths: list[Path], tmp_path: Path) -> None:
    volume = make_volume(paths)
    for result in (negative(volume, run=2), not_analysed(run=2)):
        sources = Sources(paths, volume if result.findings else None, superseded=SUPERSEDED)
        assert [o.kind for o in build_objects(result, sources, ALL_ON)] == [ObjectKind.REPORT, ObjectKind.REJECTION]
        quiet = replace(ALL_ON, rejects_superseded=False)
        assert [o.kind for o in build_objects(result, sources, quiet)] == [ObjectKind.REPORT]


def test_all_objects_are_of_one_study_one_maker_and_one_time(paths: list[Path], tmp_path: Path) -> None:
    previous = write_objects(build_all(paths), tmp_path / "first")[0]
    objects = build_all(paths, make_result(make_volume(paths), run=2), predecessor=previous)
    files = write_objects(objects, tmp_path / "out")
    sources = dcmread(paths[0])
    for path, o in zip(files, objects, strict=True):
        ds = dcmread(path)
        assert (ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID) == (
            o.sop_class_uid, o.sop_instance_uid, o.series_uid)  # fmt: skip
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDescription", "AccessionNumber"):
            assert ds[keyword].value == sources[keyword].value
        assert (ds.SpecificCharacterSet, ds.SeriesDate, ds.TimezoneOffsetFromUTC) == (
            "ISO_IR 192", objects[0].dataset.SeriesDate, objects[0].dataset.TimezoneOffsetFromUTC)  # fmt: skip
        assert "NOT FOR DIAGNOSTIC USE" in ds.SeriesDescription
        assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in (o.sop_instance_uid, o.series_uid))
    series = {(o.kind, o.series_uid, int(o.dataset.SeriesNumber)) for o in objects}
    assert len(series) == len({o.kind for o in objects}) == len({n for *_, n in series}), "a series and number a kind"
    assert len({o.sop_instance_uid for o in objects}) == len(objects)


def test_objects_agree_on_the_patient_where_the_images_do_not(tmp_path: Path) -> None:
    """A correction that reached the scanner between two slices must not split the result."""

    def correct(ds: Dataset) -> None:
        if int(ds.InstanceNumber) > 3:
            ds.PatientName, ds.StudyDescription, ds.AccessionNumber = "CORRECTED^Head", "CT HEAD", "ACC0002"

    told = {(str(o.dataset.PatientName), o.dataset.StudyDescription, o.dataset.AccessionNumber)
            for o in build_all(ct_series(tmp_path / "ct", correct))}  # fmt: skip
    assert told == {("SYNTHETIC^Head", "CT HEAD WO CONTRAST", "ACC0001")}


def test_the_same_analysis_makes_the_same_files(paths: list[Path], tmp_path: Path) -> None:
    written = [write_objects(build_all(paths), tmp_path / name) for name in "ab"]
    assert [p.read_bytes() for p in written[0]] == [p.read_bytes() for p in written[1]]


def test_without_evidence_nothing_is_made() -> None:
    with pytest.raises(StudyError, match="nothing to refer to"):
        build_objects(not_analysed(), Sources((), None, superseded=SUPERSEDED), ALL_ON)


def test_objects_are_told_by_name(paths: list[Path], tmp_path: Path) -> None:
    report = write_objects(build_all(paths), tmp_path)[0]
    assert describe_file(report) == (
        "Comprehensive 3D SR Storage", "AI ICH result - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL")  # fmt: skip
