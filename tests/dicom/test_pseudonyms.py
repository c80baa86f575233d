import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dicom.intake_data import Change
from pydicom import Dataset, dcmread

from triage.dicom.headers import read_instance
from triage.dicom.pseudonyms import KEYWORDS, Pseudonyms, pseudonym, read_pseudonyms
from triage.errors import UnreadableInstance

Maker = Callable[..., list[Path]]


def changed(path: Path, change: Change) -> Path:
    ds = dcmread(path)
    change(ds)
    out = path.with_name("changed.dcm")
    ds.save_as(out)
    return out


def test_the_same_salt_gives_the_same_names_and_another_salt_others(ct_series: Maker) -> None:
    path = ct_series()[0]
    one = read_pseudonyms(path, "salt")
    assert one == read_pseudonyms(path, "salt")
    other = read_pseudonyms(path, "pepper")
    for name in ("image", "study", "series", "patient"):
        assert getattr(one, name) != getattr(other, name)


def test_slices_of_one_series_share_all_but_the_image(ct_series: Maker) -> None:
    names = [read_pseudonyms(path, "salt") for path in ct_series()]
    assert len({n.image for n in names}) == len(names)
    assert len({replace(n, image="") for n in names}) == 1


def test_a_label_table_finds_its_images_by_the_hash_of_their_uid(ct_series: Maker) -> None:
    path = ct_series()[0]
    instance = read_instance(path)
    names = read_pseudonyms(path, "salt")
    assert names.image == pseudonym("salt", "image", f" {instance.sop_instance_uid} ")
    assert names.study == pseudonym("salt", "study", instance.study_uid)
    assert names.series == pseudonym("salt", "series", instance.series_uid)
    assert names.study != pseudonym("salt", "series", instance.study_uid)


def test_no_identifier_is_in_what_is_returned(ct_series: Maker) -> None:
    path = ct_series()[0]
    ds = dcmread(path)
    told = repr(read_pseudonyms(path, "salt"))
    for keyword in KEYWORDS.values():
        assert str(ds[keyword].value) not in told


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_patient_id_each_study_is_its_own_patient(ct_series: Maker, value: str | None) -> None:
    def anonymous(ds: Dataset) -> None:
        del ds.PatientID
        if value is not None:
            ds.PatientID = value

    def another_study(ds: Dataset) -> None:
        anonymous(ds)
        ds.StudyInstanceUID = "1.2.3"

    first, second = ct_series()[:2]
    one, same = (read_pseudonyms(changed(path, anonymous), "salt") for path in (first, second))
    other = read_pseudonyms(changed(first, another_study), "salt")
    assert not one.has_patient
    assert one.patient == same.patient != other.patient


def test_one_patient_has_one_name_in_all_studies(ct_series: Maker) -> None:
    def another_study(ds: Dataset) -> None:
        ds.StudyInstanceUID = "1.2.3"

    path = ct_series()[0]
    one, other = read_pseudonyms(path, "salt"), read_pseudonyms(changed(path, another_study), "salt")
    assert one.has_patient
    assert one.patient == other.patient
    assert one.study != other.study


@pytest.mark.parametrize("keyword", [KEYWORDS[kind] for kind in ("image", "study", "series")])
def test_a_missing_uid_is_told_by_its_keyword(ct_series: Maker, keyword: str) -> None:
    path = changed(ct_series()[0], lambda ds: delattr(ds, keyword))
    with pytest.raises(UnreadableInstance, match=f"no {keyword}"):
        read_pseudonyms(path, "salt")


@pytest.mark.parametrize("content", [b"", b"notes about patients\n" * 40, os.urandom(2000)])
def test_what_is_no_dicom_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UnreadableInstance):
        read_pseudonyms(tmp_path / "file", "salt")


def test_frames_are_counted(ct_series: Maker) -> None:
    names: Pseudonyms = read_pseudonyms(changed(ct_series()[0], lambda ds: setattr(ds, "NumberOfFrames", 7)), "salt")
    assert names.n_frames == 7
