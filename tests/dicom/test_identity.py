from pathlib import Path

import pytest
from dicom.results_data import STUDY, Change, ct_header, ct_series, remove, set_to, write
from pydicom import Dataset
from pydicom.sequence import Sequence

from triage.dicom.identity import StudyIdentity, study_identity
from triage.errors import StudyError


def of(folder: Path, *changes: Change) -> StudyIdentity:
    return study_identity(ct_series(folder, *changes, n=1))


def test_everything_that_a_receiver_matches_by(tmp_path: Path) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    found = of(
        tmp_path, set_to("IssuerOfPatientID", "HOSP"), set_to("PlacerOrderNumberImagingServiceRequest", "PL1"),
        set_to("FillerOrderNumberImagingServiceRequest", "FI1"), set_to("ReferringPhysicianName", "Who^Doctor"),
        set_to("TimezoneOffsetFromUTC", "+0100"),
        set_to("RequestAttributesSequence", Sequence([request])),
    )  # fmt: skip
    assert found == StudyIdentity(
        study_uid=STUDY, accession_number="ACC0001", patient_id="TEST-0001", issuer_of_patient_id="HOSP",
        patient_name="SYNTHETIC^Head", birth_date="19500101", sex="F", placer_order_number="PL1",
        filler_order_number="FI1", requested_procedure_id="RP1", study_description="CT HEAD WO CONTRAST",
        study_date="20240105", study_time="101500", timezone_offset="+0100", referring_physician="Who^Doctor",
    )  # fmt: skip


def test_an_order_may_be_the_only_place_of_the_accession_number(tmp_path: Path) -> None:
    request = Dataset()
    request.AccessionNumber = "ACC0007"
    orders = set_to("RequestAttributesSequence", Sequence([request]))
    assert of(tmp_path / "both", orders).accession_number == "ACC0001"
    assert of(tmp_path / "order", orders, set_to("AccessionNumber", "")).accession_number == "ACC0007"


def test_what_is_missing_or_invalid_is_empty(tmp_path: Path) -> None:
    optional = ("AccessionNumber", "PatientID", "PatientName", "StudyDescription", "StudyDate", "StudyTime",
                "ReferringPhysicianName", "PatientSex")  # fmt: skip
    assert of(tmp_path, remove(*optional, "PatientBirthDate")) == StudyIdentity(STUDY)
    assert of(tmp_path / "odd", remove(*optional), set_to("PatientBirthDate", "")) == StudyIdentity(STUDY)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 101", "Nov\u00e1kov\u00e1^\u013dubica"),
        ("ISO_IR 144", "\u0418\u0432\u0430\u043d\u043e\u0432^\u042e\u0440\u0438\u0439"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"),
    ],
)
def test_names_become_unicode(character_set: str, name: str, tmp_path: Path) -> None:
    found = of(tmp_path, set_to("SpecificCharacterSet", character_set.split("\\")), set_to("PatientName", name))
    assert found.patient_name == name


def test_only_the_first_file_is_read(tmp_path: Path) -> None:
    second = tmp_path / "second.dcm"
    second.write_bytes(b"no DICOM")
    first = write(ct_header(0), tmp_path / "first.dcm")
    assert study_identity([first, second]).study_uid == STUDY
    with pytest.raises(StudyError):
        study_identity([second, first])


def test_without_files_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="whose study"):
        study_identity([])
