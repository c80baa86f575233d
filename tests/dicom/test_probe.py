import subprocess
from pathlib import Path

import pytest
from peers import need
from pydicom import dcmread

from triage.dicom import probe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    probe.write_probe(tmp_path / "probe.dcm")
    return tmp_path / "probe.dcm"


def test_it_is_always_the_same_object(path: Path, tmp_path: Path) -> None:
    probe.write_probe(tmp_path / "again.dcm")
    assert path.read_bytes() == (tmp_path / "again.dcm").read_bytes()
    ds = dcmread(path)
    assert (ds.SOPInstanceUID, ds.SOPClassUID) == (probe.SOP_INSTANCE_UID, probe.SOP_CLASS_UID)
    assert len({ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID}) == 3
    assert all(uid.is_valid for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID))


def test_it_is_nobodys_and_says_that_it_may_be_deleted(path: Path) -> None:
    ds = dcmread(path)
    assert (ds.PatientName, ds.PatientID) == ("ICH-TRIAGE^TEST", "ICHTRIAGE-TEST")
    assert "may be deleted" in ds.StudyDescription
    assert "may be deleted" in ds.SeriesDescription
    assert ds.pixel_array.shape == (16, 16)


def test_a_validator_finds_no_error(path: Path) -> None:
    answer = subprocess.run([need("dciodvfy"), "-new", path], capture_output=True, text=True, check=False, timeout=60)
    assert "SCImage" in answer.stderr + answer.stdout
    assert "Error" not in answer.stderr + answer.stdout
