from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.results_data import (
    CT,
    DEMO,
    ENHANCED_CT,
    SERIES,
    STUDY,
    VALIDATED,
    ct_series,
    enhanced_ct,
    ge_head,
    items,
    judge_composite,
    make_result,
    make_volume,
    negative,
    not_analysed,
    remove,
    set_to,
    text_of,
)
from highdicom import sr
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.sr.codedict import codes as standard

from triage.dicom import codes
from triage.dicom.equipment import IMPLEMENTATION_CLASS_UID, NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.report import build_report
from triage.dicom.uids import device_uid
from triage.errors import StudyError
from triage.records import ANY, SUBTYPES, Outcome, Priority, Result, SetAside

NODE = NodeIdentity(node_name="node-07")


def written(document: Dataset, path: Path) -> Dataset:
    with path.open("wb") as file:
        dcmwrite(file, document, enforce_file_format=True)
    return dcmread(path)


def positive(folder: Path, **changes: object) -> tuple[Result, list[Dataset]]:
    paths = ct_series(folder)
    return make_result(make_volume(paths), **changes), load_evidence(paths)  # type: ignore[arg-type]  # by keyword


def groups(path: Path) -> dict[str, tuple[str, float | None, str, list[str]]]:
    """By tracking identifier: finding, certainty, presence and source images, as highdicom's reader sees them."""
    found = {}
    content: Any = sr.srread(path).content
    for group in content.get_image_measurement_groups():
        numbers = [m.value for m in group.get_measurements(name=standard.DCM.CertaintyOfFinding)]
        presence = group.get_qualitative_evaluations(name=codes.PRESENCE)
        images = [i.referenced_sop_instance_uid for i in group.source_images]
        found[group.tracking_identifier] = (
            group.finding_type.value, numbers[0] if numbers else None, presence[0].value.meaning, images)  # fmt: skip
    return found


def test_positive_findings_come_back(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    written(build_report(result, evidence, NODE), tmp_path / "sr.dcm")
    found = groups(tmp_path / "sr.dcm")
    key = [f"{SERIES}.4", f"{SERIES}.5", f"{SERIES}.3"]
    assert found["Intracranial hemorrhage"] == ("1386000", 97.3, "Present", key)
    assert found["Intraparenchymal"] == ("274100004", 95.1, "Present", key[:2])
    assert found["Subdural"] == ("35486000", 2.1, "Absent", [])
    assert len(found) == 6


@pytest.mark.parametrize("label", SUBTYPES)
def test_each_subtype_has_its_code_and_site(tmp_path: Path, label: str) -> None:
    paths = ct_series(tmp_path / "ct")
    result = make_result(make_volume(paths), (label,))
    document = build_report(result, load_evidence(paths), NODE)
    code = codes.FINDINGS[label]
    present = [g for g in items(document, "Measurement Group") if "\nPresent" in "\n" + text_of(g)]
    assert len(present) == 2
    assert items(present[1], "Finding")[0].ConceptCodeSequence[0].CodeValue == code.finding.value
    sites = [i.ConceptCodeSequence[0].CodeValue for i in items(present[1], "Finding Site")]
    assert sites == ([code.site.value] if code.site else [])


def test_document_is_of_the_study_and_says_who_when_and_how_sure(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    ds = written(build_report(result, evidence, NODE), tmp_path / "sr.dcm")
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (ds.StudyInstanceUID, ds.PatientID, ds.AccessionNumber) == (STUDY, "TEST-0001", "ACC0001")
    assert (ds.StudyDescription, ds.SeriesNumber, ds.Modality) == ("CT HEAD WO CONTRAST", 9001, "SR")
    assert ds.SeriesInstanceUID != SERIES
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert ds.SeriesDescription == "AI ICH result - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"
    assert ds.DeviceSerialNumber == "node-07"
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    request = ds.ReferencedRequestSequence[0]
    assert (request.AccessionNumber, request.StudyInstanceUID) == ("ACC0001", STUDY)
    assert "PredecessorDocumentsSequence" not in ds


def test_evidence_lists_every_slice_and_the_library_only_key_slices(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    document = build_report(result, evidence, NODE)
    study = document.CurrentRequestedProcedureEvidenceSequence[0]
    listed = [i.ReferencedSOPInstanceUID for i in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert listed == [ds.SOPInstanceUID for ds in evidence]
    library = items(document, "Image Library")[0]
    assert len(items(library, "Source")) == 3


def test_model_pack_is_the_device(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    document = build_report(result, evidence, NODE)
    other = build_report(replace(result, model=replace(DEMO, sha256="ef" * 32)), evidence, NODE)
    for ds, sha256 in ((document, "ab" * 32), (other, "ef" * 32)):
        assert [i.UID for i in items(ds, "Device Observer UID")] == [device_uid(sha256)]
        equipment = ds.ContributingEquipmentSequence
        assert [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in equipment] == ["109101", "109102"]
        assert equipment[1].DeviceUID == device_uid(sha256)
        assert f"pack_sha256={sha256}" in [i.TextValue for i in items(ds, "Algorithm Parameters")]
    parameters = {i.TextValue for i in items(document, "Algorithm Parameters")}
    assert {"threshold_urgent=0.8", "threshold_review=0.5", "threshold_subdural=0.4"} <= parameters
    assert document.SOPInstanceUID != other.SOPInstanceUID


def test_what_validators_do_not_ask_is_there(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    document = build_report(result, evidence, NODE)
    assert items(document, "Procedure reported")[0].ConceptCodeSequence[0].CodeValue == "25045-6"
    groups = items(document, "Measurement Group")
    for name in ("Tracking Unique Identifier", "Tracking Identifier", "Algorithm Version", "Algorithm Name"):
        assert all(len(items(g, name)) == 1 for g in groups)
    assert len({items(g, "Tracking Unique Identifier")[0].UID for g in groups}) == 6
    assert document.PerformedProcedureCodeSequence[0].CodeValue == "24725-4"


@pytest.mark.parametrize(("priority", "category"), [(Priority.URGENT, "RID49480"), (Priority.REVIEW, "RID49481")])
def test_priority_is_an_acr_category(tmp_path: Path, priority: Priority, category: str) -> None:
    result, evidence = positive(tmp_path / "ct", priority=priority)
    document = build_report(result, evidence, NODE)
    assert items(document, "Priority")[0].ConceptCodeSequence[0].CodeValue == category
    assert f"Priority: {priority.value}." in text_of(document)


def test_negative_judges_hemorrhage_only_and_raises_nothing(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    document = build_report(negative(make_volume(paths)), load_evidence(paths), NODE)
    written(document, tmp_path / "sr.dcm")
    assert groups(tmp_path / "sr.dcm") == {"Intracranial hemorrhage": ("1386000", 3.1, "Absent", [])}
    assert not items(document, "Priority")
    assert not items(document, "Image Library")
    assert "does not exclude a hemorrhage" in text_of(document)


def test_not_analysed_is_undetermined_and_says_why(tmp_path: Path) -> None:
    evidence = load_evidence(ct_series(tmp_path / "ct", n=2))
    document = build_report(not_analysed(), evidence, NODE)
    written(document, tmp_path / "sr.dcm")
    assert groups(tmp_path / "sr.dcm") == {"Intracranial hemorrhage": ("1386000", None, "Undetermined", [])}
    answer = items(document, "Intracranial hemorrhage")[0].ConceptCodeSequence[0]
    assert answer.CodeMeaning == "Undetermined"
    assert not items(document, "Certainty of Finding")
    assert "NOT ANALYSED: no usable series: series 1: localizer" in text_of(document)


def test_not_analysed_refers_to_instances_of_any_class(tmp_path: Path) -> None:
    captures = ct_series(tmp_path / "sc", set_to("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), n=1)
    changes = set_to("SOPClassUID", "1.2.3.4.5"), set_to("SOPInstanceUID", "1.2.9")
    private = ct_series(tmp_path / "private", *changes, n=1)
    document = build_report(not_analysed(), load_evidence(private + captures), NODE)
    study = document.CurrentRequestedProcedureEvidenceSequence[0]
    listed = [i.ReferencedSOPClassUID for i in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert listed == ["1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.7"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_with_leading_zeros_are_named_as_sent(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", lambda ds: setattr(ds, "SOPInstanceUID", f"1.2.00.{ds.InstanceNumber}"),
                      set_to("StudyInstanceUID", "1.02.3"))  # fmt: skip
    document = build_report(make_result(make_volume(paths)), load_evidence(paths), NODE)
    written(document, tmp_path / "sr.dcm")
    assert document.StudyInstanceUID == "1.02.3"
    assert groups(tmp_path / "sr.dcm")["Intraparenchymal"][3] == ["1.2.00.4", "1.2.00.5"]


def test_without_evidence_there_is_no_report() -> None:
    with pytest.raises(StudyError, match="nothing to refer to"):
        build_report(not_analysed(), [], NODE)


def test_comments_tell_what_was_analysed_and_what_was_wrong(tmp_path: Path) -> None:
    result, evidence = positive(
        tmp_path / "ct", tilt_deg=18.52, missing=2, lossy=True, repairs=("wrap12", "new fault"),
        set_aside=(SetAside("1.2", 1, "truncated"), SetAside("1.3", 1, "truncated")))  # fmt: skip
    text = text_of(build_report(result, evidence, NODE))
    assert "8 slices analysed, 5 mm apart, gantry tilt 18.5 degrees." in text
    assert "2 slices missing from the series" in text
    assert "2 slices set aside: truncated." in text
    assert "12-bit wrap-around of pixel values undone; new fault" in text
    assert "lossy compressed" in text
    assert "NOT FOR DIAGNOSTIC USE" in text


def test_only_a_demonstration_model_is_stamped(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    demonstration = build_report(result, evidence, NODE)
    validated = build_report(replace(result, model=VALIDATED), evidence, NODE)
    assert "DEMONSTRATION MODEL" in text_of(demonstration)
    assert "DEMONSTRATION" not in text_of(validated) + validated.SeriesDescription
    assert "NOT FOR DIAGNOSTIC USE" in validated.SeriesDescription


def test_superseding_names_its_predecessor(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    first = written(build_report(result, evidence, NODE), tmp_path / "1.dcm")
    second = build_report(replace(result, run=2), evidence, NODE, first)
    old = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert old.SeriesInstanceUID == first.SeriesInstanceUID
    assert old.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "Analysis 2 of this study; it supersedes the previous report. A priority" in text_of(second)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    tracked = [[i.UID for i in items(ds, "Tracking Unique Identifier")] for ds in (first, second)]
    assert tracked[0] == tracked[1]


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    for name in ("a", "b"):
        written(build_report(result, evidence, NODE), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = build_report(result, evidence, NodeIdentity(node_name="node-08"))
    assert other.SOPInstanceUID != dcmread(tmp_path / "a").SOPInstanceUID


@pytest.mark.parametrize(("name", "uid"), [
    ("comprehensive3d", "1.2.840.10008.5.1.4.1.1.88.34"), ("comprehensive", "1.2.840.10008.5.1.4.1.1.88.33"),
    ("enhanced", "1.2.840.10008.5.1.4.1.1.88.22"),
])  # fmt: skip
def test_kind_of_report_is_a_choice(tmp_path: Path, name: str, uid: str) -> None:
    result, evidence = positive(tmp_path / "ct")
    document = build_report(result, evidence, NodeIdentity(sop_class=name))
    written(document, tmp_path / "sr.dcm")
    assert document.SOPClassUID == document.file_meta.MediaStorageSOPClassUID == uid
    assert groups(tmp_path / "sr.dcm")["Intraparenchymal"][2] == "Present"


def test_enhanced_ct_is_named_by_frames(tmp_path: Path) -> None:
    paths = enhanced_ct(tmp_path / "ct")
    document = build_report(make_result(make_volume(paths)), load_evidence(paths), NODE)
    image = items(items(document, "Measurement Group")[0], "Source of Measurement")
    assert len(image) == 1
    reference = image[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPClassUID == ENHANCED_CT
    assert list(reference.ReferencedFrameNumber) == [3, 4, 5]
    assert not items(document, "Image Library")


def test_empty_thickness_costs_the_library_only(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", set_to("SliceThickness", None))
    document = build_report(make_result(make_volume(paths)), load_evidence(paths), NODE)
    assert not items(document, "Image Library")
    assert items(document, "Source of Measurement")[0].ReferencedSOPSequence[0].ReferencedSOPClassUID == CT


def test_numbers_of_any_kind_are_reported(tmp_path: Path) -> None:
    result, evidence = positive(tmp_path / "ct")
    single = np.float32(0.9729999)
    finding = replace(result.findings[0], p=single)  # type: ignore[arg-type]  # what a tensor gives
    document = build_report(replace(result, findings=(finding, *result.findings[1:])), evidence, NODE)
    assert items(document, "Certainty of Finding")[0].MeasuredValueSequence[0].NumericValue == 97.3


def test_sources_zone_holds_for_the_report(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", set_to("TimezoneOffsetFromUTC", "+0545"))
    ds = build_report(negative(make_volume(paths), started_at=1_700_000_000.5), load_evidence(paths), NODE)
    assert ds.TimezoneOffsetFromUTC == "+0545"
    assert (ds.ContentDate, ds.ContentTime) == ("20231115", "035820.500000")


def test_reports_pass_the_judges(tmp_path: Path) -> None:
    """Each in its own study folder, beside its sources, so that patient and study attributes are compared too."""
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    first = build_report(make_result(volume), evidence, NODE)
    documents = {
        "several": make_result(volume, SUBTYPES),
        "negative": negative(volume, run=3),
        "not_analysed": not_analysed(run=4, model=VALIDATED),
    }
    files = []
    for name, result in documents.items():
        files.append(tmp_path / f"{name}.dcm")
        written(build_report(replace(result, duration_s=1.0), evidence, NODE), files[-1])
    files.append(tmp_path / "superseding.dcm")
    written(build_report(make_result(volume, run=2), evidence, NODE, first), files[-1])
    judge_composite(files, paths)

    name, odd = "Ďurčová^Ľubica=山田^太郎", tmp_path / "odd"
    missing = remove("StudyID", "StudyTime", "PatientSex", "SliceThickness")
    odd_paths = ct_series(odd, set_to("PatientName", name), missing, set_to("StudyDescription", "КТ головы"))
    files.append(tmp_path / "odd.dcm")
    ds = written(build_report(make_result(make_volume(odd_paths)), load_evidence(odd_paths), NODE), files[-1])
    assert (str(ds.PatientName), ds.StudyDescription) == (name, "КТ головы")
    judge_composite(files[-1:])

    enhanced = enhanced_ct(tmp_path / "enhanced")
    files.append(tmp_path / "enhanced.dcm")
    written(build_report(make_result(make_volume(enhanced)), load_evidence(enhanced), NODE), files[-1])
    judge_composite(files[-1:])


@pytest.mark.parametrize("label", SUBTYPES)
def test_each_subtype_passes_dciodvfy(tmp_path: Path, label: str) -> None:
    paths = ct_series(tmp_path / "ct")
    path = tmp_path / "sr.dcm"
    written(build_report(make_result(make_volume(paths), (label,)), load_evidence(paths), NODE), path)
    judge_composite([path], paths)


def test_the_real_head_passes_the_judges(tmp_path: Path) -> None:
    paths = ge_head()
    headers = [dcmread(p, stop_before_pixels=True) for p in paths]
    result = make_result(make_volume(paths), study_uid=str(headers[0].StudyInstanceUID),
                         series_uid=str(headers[0].SeriesInstanceUID), tilt_deg=18.5)  # fmt: skip
    path = tmp_path / "sr.dcm"
    written(build_report(result, load_evidence(paths), NODE), path)
    assert groups(path)["Intracranial hemorrhage"][3][0] == str(headers[3].SOPInstanceUID)
    assert result.finding(ANY) is not None
    assert result.outcome is Outcome.POSITIVE
    judge_composite([path])
