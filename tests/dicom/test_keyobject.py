from pathlib import Path
from typing import Any

import pytest
from dicom.results_data import (
    DEMO,
    ENHANCED_CT,
    SERIES,
    STUDY,
    SUPERSEDED,
    VALIDATED,
    ct_series,
    enhanced_ct,
    make_result,
    make_volume,
    negative,
    not_analysed,
)
from highdicom import ko
from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.equipment import NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.keyobject import build_key_object, build_rejection
from triage.dicom.sources import SentObject
from triage.dicom.uids import device_uid
from triage.records import ModelIdentity

NODE = NodeIdentity(node_name="node-07", max_key_slices=2)


def read(document: Dataset | None, path: Path) -> ko.KeyObjectSelectionDocument:
    """Through bytes, and through highdicom's own reader."""
    assert document is not None
    dcmwrite(path, document, enforce_file_format=True)
    return ko.KeyObjectSelectionDocument.from_dataset(dcmread(path))


def references(document: ko.KeyObjectSelectionDocument) -> list[tuple[str, str]]:
    return [(r.ValueType, r.referenced_sop_instance_uid) for r in document.content.get_references()]


def listed(document: Dataset) -> list[tuple[str, str]]:
    """Series and instance of the evidence."""
    [study] = document.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == document.StudyInstanceUID
    return [(s.SeriesInstanceUID, i.ReferencedSOPInstanceUID)
            for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence]  # fmt: skip


def test_key_slices_of_a_positive_study(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    document = read(build_key_object(make_result(make_volume(paths)), load_evidence(paths), NODE), tmp_path / "ko.dcm")
    assert references(document) == [("IMAGE", f"{SERIES}.4"), ("IMAGE", f"{SERIES}.5")]
    assert listed(document) == [(SERIES, f"{SERIES}.4"), (SERIES, f"{SERIES}.5")]
    assert document.resolve_reference(f"{SERIES}.4") == (STUDY, SERIES, f"{SERIES}.4")
    title = document.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning) == ("113000", "DCM", "Of Interest")
    assert (document.SeriesNumber, document.Modality, document.StudyDescription) == (9003, "KO", "CT HEAD WO CONTRAST")
    assert document.SeriesDescription == "AI ICH key slices - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"
    assert document.ReferencedRequestSequence[0].AccessionNumber == "ACC0001"
    observer: Any = document.content.get_observer_contexts()[0].observer_identifying_attributes
    assert (observer.uid, observer.serial_number) == (device_uid("ab" * 32), "node-07")


@pytest.mark.parametrize("model", [DEMO, VALIDATED])
def test_descriptions_carry_the_warnings(tmp_path: Path, model: ModelIdentity) -> None:
    paths = ct_series(tmp_path / "ct")
    result = make_result(make_volume(paths), model=model)
    for document in (build_key_object(result, load_evidence(paths), NODE),
                     build_rejection(result, load_evidence(paths), SUPERSEDED, NODE)):  # fmt: skip
        assert document is not None
        texts = [i.TextValue for i in document.ContentSequence if i.ValueType == "TEXT"]
        assert any("NOT FOR DIAGNOSTIC USE" in t for t in texts)
        assert any("DEMONSTRATION" in t for t in texts) is model.is_demonstration


def test_only_positive_studies_have_key_slices(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    volume, evidence = make_volume(paths), load_evidence(paths)
    assert build_key_object(negative(volume), evidence, NODE) is None
    assert build_key_object(not_analysed(), evidence, NODE) is None
    assert build_key_object(make_result(volume, findings=()), evidence, NODE) is None


def test_frames_of_one_instance_are_one_reference(tmp_path: Path) -> None:
    paths = enhanced_ct(tmp_path / "ct")
    document = read(build_key_object(make_result(make_volume(paths)), load_evidence(paths), NODE), tmp_path / "ko.dcm")
    [reference] = document.content.get_references()
    assert (reference.referenced_sop_class_uid, reference.referenced_frame_numbers) == (ENHANCED_CT, [4, 5])


def test_rejection_names_every_superseded_object_once(tmp_path: Path) -> None:
    evidence = load_evidence(ct_series(tmp_path / "ct"))
    for result in (make_result(make_volume(sorted((tmp_path / "ct").iterdir()))), not_analysed()):
        document = read(build_rejection(result, evidence, (*SUPERSEDED, SUPERSEDED[0]), NODE), tmp_path / "ko.dcm")
        kinds = ["IMAGE", "IMAGE", "COMPOSITE", "COMPOSITE", "IMAGE", "COMPOSITE"]
        assert references(document) == [(kind, o.sop_instance_uid) for kind, o in zip(kinds, SUPERSEDED, strict=True)]
        assert listed(document) == [(o.series_uid, o.sop_instance_uid) for o in SUPERSEDED]
        title = document.ConceptNameCodeSequence[0]
        assert (title.CodeValue, title.CodeMeaning) == ("113001", "Rejected for Quality Reasons")
        assert (document.SeriesNumber, document.SeriesDescription[:17]) == (9004, "AI ICH superseded")
        assert "images that were analysed are not rejected" in document.ContentSequence[-7].TextValue
        assert not {o for _, o in references(document)} & {ds.SOPInstanceUID for ds in evidence}


def test_what_cannot_be_referred_to_is_passed_over(tmp_path: Path) -> None:
    evidence = load_evidence(ct_series(tmp_path / "ct"))
    unknown = SentObject("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "")
    message = SentObject("", "1.2.4", "1.2.5")
    assert build_rejection(not_analysed(), evidence, (), NODE) is None
    assert build_rejection(not_analysed(), evidence, (unknown, message), NODE) is None
    document = build_rejection(not_analysed(), evidence, (unknown, SUPERSEDED[0], message), NODE)
    assert document is not None
    assert [o for _, o in listed(document)] == [SUPERSEDED[0].sop_instance_uid]


def test_selections_and_rejections_are_apart_and_reproducible(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    result, evidence = make_result(make_volume(paths)), load_evidence(paths)
    for name in ("a", "b"):
        read(build_key_object(result, evidence, NODE), tmp_path / f"ko-{name}")
        read(build_rejection(result, evidence, SUPERSEDED, NODE), tmp_path / f"rejection-{name}")
    for kind in ("ko", "rejection"):
        assert (tmp_path / f"{kind}-a").read_bytes() == (tmp_path / f"{kind}-b").read_bytes()
    first, second = dcmread(tmp_path / "ko-a"), dcmread(tmp_path / "rejection-a")
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_references_have_no_name(tmp_path: Path) -> None:
    """PixelMed finds the template broken by the names that highdicom gives them."""
    paths = ct_series(tmp_path / "ct")
    result, evidence = make_result(make_volume(paths)), load_evidence(paths)
    for document in (build_key_object(result, evidence, NODE), build_rejection(result, evidence, SUPERSEDED, NODE)):
        assert document is not None
        for item in document.ContentSequence:
            assert ("ConceptNameCodeSequence" in item) is (item.ValueType not in ("IMAGE", "COMPOSITE"))
