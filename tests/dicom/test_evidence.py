from pathlib import Path

import pytest
from dicom.results_data import Change, add_pixels, ct_header, ct_series, enhanced_ct, head_hu, remove, set_to, write
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement

from triage.dicom.evidence import TYPE_2, copy_patient_and_study, load_evidence
from triage.errors import StudyError


def one(folder: Path, *changes: Change) -> Dataset:
    return load_evidence(ct_series(folder, *changes, n=1))[0]



def patch(path: Path, old: bytes, new: bytes) -> Path:
    """Replace bytes of a file with as many others."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def test_keeps_what_results_need_and_nothing_else(tmp_path: Path) -> None:
    ds = one(tmp_path)
    assert ds.PatientName == "SYNTHETIC^Head"
    assert (ds.StudyDate, ds.StudyTime, ds.AccessionNumber) == ("20240105", "101500", "ACC0001")
    assert ds.PixelSpacing == [3.5, 3.5]
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert "PixelData" not in ds
    assert "KVP" not in ds


def test_order_is_kept(tmp_path: Path) -> None:
    paths = ct_series(tmp_path)[::-1]
    assert [ds.InstanceNumber for ds in load_evidence(paths)] == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("keyword", TYPE_2)
def test_missing_type_2_becomes_empty(tmp_path: Path, keyword: str) -> None:
    ds = one(tmp_path, remove(keyword))
    assert keyword in ds
    assert not ds[keyword].value


@pytest.mark.parametrize(("sent", "kept"), [("F", "F"), ("m", "M"), ("O", "O"), ("U", ""), ("FEMALE", ""), ("", "")])
def test_sex(tmp_path: Path, sent: str, kept: str) -> None:
    path = ct_series(tmp_path, set_to("PatientSex", "XYZZYX"), n=1)[0]
    patch(path, b"XYZZYX", sent.encode().ljust(6))
    assert (load_evidence([path])[0].PatientSex or "") == kept


@pytest.mark.parametrize(("sent", "kept"), [
    (b"19500101", "19500101"), (b"19500000", ""), (b"00000000", ""), (b"20240231", ""), (b"ANONYMOU", ""),
    (b"1950    ", ""),
])  # fmt: skip
def test_dates(tmp_path: Path, sent: bytes, kept: str) -> None:
    path = ct_series(tmp_path, set_to("PatientBirthDate", "19770707"), n=1)[0]
    patch(path, b"19770707", sent)
    assert (load_evidence([path])[0].PatientBirthDate or "") == kept


@pytest.mark.parametrize(("sent", "kept"), [
    (b"112233.445566", "112233.445566"), (b"11:22:33     ", "112233"), (b"1122         ", "1122"),
    (b"250000       ", ""), (b"noon         ", ""), (b"112233.44556x", ""),
])  # fmt: skip
def test_times(tmp_path: Path, sent: bytes, kept: str) -> None:
    path = ct_series(tmp_path, set_to("StudyTime", "112233.445566"), n=1)[0]
    if sent != b"112233.445566":
        patch(path, b"112233.445566", sent)
    assert str(load_evidence([path])[0].StudyTime or "") == kept


NAMES = {
    "Slovak, Latin-2": ("ISO_IR 101", "Ďurčová^Ľubica"),
    "Slovak, Latin-2 with empty first set": (["", "ISO 2022 IR 101"], "Ďurčová^Ľubica"),
    "Slovak, UTF-8": ("ISO_IR 192", "Ďurčová^Ľubica"),
    "Cyrillic": ("ISO_IR 144", "Люкceмбypг^Роза"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Japanese, spring": (["", "ISO 2022 IR 87"], "Haruta^Jun=春田^純=はるた^じゅん"),
    "Japanese, half width": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Greek": ("ISO_IR 126", "Διονυσιος"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_arrive_unharmed(tmp_path: Path, name: str) -> None:
    charset, sent = NAMES[name]
    path = ct_series(tmp_path, set_to("SpecificCharacterSet", charset), set_to("PatientName", sent), n=1)[0]
    ds = load_evidence([path])[0]
    assert str(ds.PatientName) == sent
    target = Dataset()
    target.SOPClassUID, target.SOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    copy_patient_and_study(ds, target)
    again = dcmread(write(target, tmp_path / "again.dcm"))
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert str(again.PatientName) == sent


@pytest.mark.parametrize(("charset", "sent", "kept"), [
    ("", "Ďurčová".encode(), "Ďurčová"),
    ("", "Müller-Lüdenscheid".encode("latin-1"), "Müller-Lüdenscheid"),
    ("\\ISO 2022 IR 101", "Ďurčová".encode("iso8859_2"), "Ďurčová"),
    ("ISO_IR 192", "Müller-Lüdenscheid".encode("latin-1"), "Müller-Lüdenscheid"),
    ("ISO_IR 777", "Ďurčová".encode(), "Ďurčová"),
    ("ISO_IR_101", "Ďurčová".encode("iso8859_2"), "Ďurčová"),
], ids=["undeclared UTF-8", "undeclared Latin-1", "no escape sequence", "not UTF-8", "unknown", "misspelt"])
def test_badly_declared_names_are_never_replaced_by_question_marks(
    tmp_path: Path, charset: str, sent: bytes, kept: str
) -> None:
    folder_in = ct_series(tmp_path, set_to("PatientName", "Q" * len(sent)),
                          set_to("SpecificCharacterSet", "ISO_IR 192".ljust(10)), n=1)[0]  # fmt: skip
    patch(folder_in, b"Q" * len(sent), sent)
    content = folder_in.read_bytes()
    element = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192"
    assert content.count(element) == 1
    value = charset.encode().ljust(len(charset) + len(charset) % 2)
    folder_in.write_bytes(content.replace(element, element[:6] + len(value).to_bytes(2, "little") + value))
    assert str(load_evidence([folder_in])[0].PatientName) == kept


def test_damaged_values_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = ct_series(tmp_path, set_to("PatientAge", "074Y"), set_to("SliceThickness", "5.125"), n=1)[0]
    patch(patch(path, b"074Y", b"74 y"), b"5.125 ", b"thick ")
    ds = load_evidence([path])[0]
    assert "PatientAge" not in ds
    assert "SliceThickness" not in ds
    assert ds.PatientName == "SYNTHETIC^Head"


def test_empty_thickness_is_left_out(tmp_path: Path) -> None:
    assert "SliceThickness" not in one(tmp_path, set_to("SliceThickness", None))


def test_long_identifiers_are_kept_and_long_descriptions_cut(tmp_path: Path) -> None:
    path = ct_series(tmp_path, set_to("AccessionNumber", "A" * 16), set_to("StudyDescription", "d" * 64), n=1)[0]
    long = dcmread(path)
    long.add(DataElement("AccessionNumber", "SH", "A" * 20, validation_mode=0))
    long.add(DataElement("StudyDescription", "LO", "d" * 80, validation_mode=0))
    write(long, path)
    ds = load_evidence([path])[0]
    assert ds.AccessionNumber == "A" * 20
    assert ds.StudyDescription == "d" * 64


def test_removed_identity_without_method_gets_one(tmp_path: Path) -> None:
    assert one(tmp_path / "a", set_to("PatientIdentityRemoved", "YES")).DeidentificationMethod
    told = one(tmp_path / "b", set_to("PatientIdentityRemoved", "YES"), set_to("DeidentificationMethod", "profile 7"))
    assert told.DeidentificationMethod == "profile 7"


def test_code_sequences_keep_whole_codes_only(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        good, bad, request = Dataset(), Dataset(), Dataset()
        good.CodeValue, good.CodingSchemeDesignator, good.CodeMeaning = "CTSCH", "99LOCAL", "CT lebky – natív"
        bad.CodeValue = "CTX"
        ds.ProcedureCodeSequence = [good, bad]
        request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP7", "SPS1"
        ds.RequestAttributesSequence = [request]

    ds = one(tmp_path, change)
    assert [item.CodeMeaning for item in ds.ProcedureCodeSequence] == ["CT lebky – natív"]
    assert ds.RequestAttributesSequence[0].RequestedProcedureID == "RP7"
    assert "ScheduledProcedureStepID" not in ds.RequestAttributesSequence[0]


def test_lossy_source_states_ratio_and_method(tmp_path: Path) -> None:
    ds = ct_header(0)
    add_pixels(ds, head_hu(1))
    path = write(ds, tmp_path / "a.dcm")
    stated = load_evidence([path])[0]
    assert "LossyImageCompression" not in stated
    content = path.read_bytes()  # the syntax alone says so; headers are read no differently
    path.write_bytes(content.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.4.91", 1))
    ds = load_evidence([path])[0]
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert float(ds.LossyImageCompressionRatio) >= 1


def test_enhanced_ct_and_other_classes_are_read(tmp_path: Path) -> None:
    ds = load_evidence(enhanced_ct(tmp_path))[0]
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2.1"
    assert one(tmp_path / "private", set_to("SOPClassUID", "1.2.3.4.5")).SOPClassUID == "1.2.3.4.5"


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bare"
    ct_header(0).save_as(path, implicit_vr=True, little_endian=True)
    assert load_evidence([path])[0].PatientID == "TEST-0001"


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 200], ids=["empty", "text", "zeros"])
def test_no_data_set_is_told_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="a source file"):
        load_evidence([path])
