"""Header facts of conforming, odd and hostile files."""

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.intake_data import CT_IMAGE, SIZE, Change, Series, ct_dataset, enhanced, item, put, unchanged, write
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    RLELossless,
)

from triage.dicom import reading
from triage.dicom.headers import (
    check_ct_image,
    content_sha256,
    read_instance,
    same_content,
    valid_uid,
)
from triage.errors import InstanceError, MismatchedInstance, UnreadableInstance, UnsupportedInstance
from triage.records import Instance

Maker = Callable[..., list[Path]]


def one(ct_series: Maker, change: Change = unchanged) -> Instance:
    return read_instance(ct_series(n=1, change=change)[0])


@pytest.mark.parametrize("text", ["1.2.840.10008.1.2", "0", "1." * 31 + "55", "1.02.3"])
def test_uids_that_may_name_a_file(text: str) -> None:
    assert valid_uid(text)


@pytest.mark.parametrize("text", ["", ".", "..", "1..2", "1.2.", ".1", "1/2", "1.2\n", "../etc", "1.2\0", "1" * 65])
def test_uids_that_may_not(text: str) -> None:
    assert not valid_uid(text)


def test_a_plain_slice(ct_series: Maker) -> None:
    instance = one(ct_series)
    assert instance.sop_class_uid == CT_IMAGE
    assert instance.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (instance.rows, instance.columns, instance.has_pixels, instance.lossy) == (SIZE, SIZE, True, False)
    assert (instance.modality, instance.kernel, instance.body_part, instance.series_number) == ("CT", "H31s", "HEAD", 2)
    (plane,) = instance.slices
    assert plane.position_mm == (-115, -115, -40)
    assert plane.orientation == (1, 0, 0, 0, 1, 0)
    assert plane.spacing_mm == (7.1875, 7.1875)
    assert (plane.thickness_mm, plane.instance_number, plane.acquisition_number, plane.has_rescale) == (5, 1, 1, True)
    check_ct_image(instance)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
                                    DeflatedExplicitVRLittleEndian])  # fmt: skip
def test_every_native_syntax_gives_the_same_facts(ct_series: Maker, tmp_path: Path, syntax: Any) -> None:
    path = write(tmp_path / "other.dcm", ct_dataset(Series(), 0), syntax)
    expected = replace(one(ct_series), path=path, transfer_syntax_uid=str(syntax))
    assert read_instance(path) == expected


@pytest.mark.parametrize("implicit", [False, True])
def test_a_bare_data_set_is_read(tmp_path: Path, implicit: bool) -> None:
    dcmwrite(tmp_path / "bare", ct_dataset(Series(), 0), implicit_vr=implicit, little_endian=True)
    instance = read_instance(tmp_path / "bare")
    assert instance.transfer_syntax_uid == (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    assert instance.has_pixels


ODD: list[tuple[str, Change]] = [
    ("empty thickness", lambda ds: setattr(ds, "SliceThickness", None)),
    ("text for a thickness", lambda ds: put(ds, "SliceThickness", "5 mm")),
    ("thickness of two values", lambda ds: put(ds, "SliceThickness", "\\5")),
    ("negative thickness", lambda ds: put(ds, "SliceThickness", "-5")),
    ("infinite thickness", lambda ds: put(ds, "SliceThickness", "inf")),
]


@pytest.mark.parametrize("change", [c for _, c in ODD], ids=[name for name, _ in ODD])
def test_a_value_that_is_none_is_as_if_missing(ct_series: Maker, change: Change) -> None:
    assert one(ct_series, change).slices[0].thickness_mm is None


@pytest.mark.parametrize("value", [r"1\2", r"1\2\x", r"1\2\nan", r"1\2\1e300", "", r"1\2\3\4", r"1\\3"])
def test_a_position_has_three_sane_numbers(ct_series: Maker, value: str) -> None:
    instance = one(ct_series, lambda ds: put(ds, "ImagePositionPatient", value))
    assert instance.slices[0].position_mm is None
    assert instance.slices[0].orientation is not None


def test_odd_values_that_are_still_understood(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        put(ds, "InstanceNumber", "7.0")
        put(ds, "PixelSpacing", "0.48828125000000000000\\ 0.5 ")
        put(ds, "ImageType", "original\\primary \\\\Axial")
        ds.ConvolutionKernel = ["H70h", "3"]
        ds.add_new(0x00180022, "CS", ["HELIX", "GATED"])

    instance = one(ct_series, change)
    assert instance.slices[0].instance_number == 7
    assert instance.slices[0].spacing_mm == (0.48828125, 0.5)
    assert instance.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (instance.kernel, instance.scan_options) == ("H70h", "HELIX\\GATED")


@pytest.mark.parametrize("value", ["", "99999999999", "seven", "1e400"])
def test_a_number_that_is_none_is_none(ct_series: Maker, value: str) -> None:
    assert one(ct_series, lambda ds: put(ds, "InstanceNumber", value)).slices[0].instance_number is None


@pytest.mark.parametrize(("charset", "encoding"), [("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8"), ("", "utf-8"),
                                                   ("ISO_IR 6", "latin-1"), ("NONSENSE", "utf-8")])  # fmt: skip
def test_descriptions_are_text_whatever_is_declared(ct_series: Maker, charset: str, encoding: str) -> None:
    def change(ds: Dataset) -> None:
        ds.SpecificCharacterSet = "ISO_IR 100"
        put(ds, "SeriesDescription", "Schädel nativ".encode(encoding))

    path = ct_series(n=1, change=change)[0]
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", charset.encode().ljust(10)))
    assert read_instance(path).series_description == "Schädel nativ"


@pytest.mark.parametrize(("slope", "intercept", "has"), [("1", "-1024", True), ("1", "", False), ("", "0", False),
                                                         ("0", "-1024", False), ("x", "0", False)])  # fmt: skip
def test_rescale(ct_series: Maker, slope: str, intercept: str, has: bool) -> None:
    def change(ds: Dataset) -> None:
        put(ds, "RescaleSlope", slope)
        put(ds, "RescaleIntercept", intercept)

    assert one(ct_series, change).slices[0].has_rescale is has


def test_lossy_by_word_and_by_syntax(ct_series: Maker, tmp_path: Path) -> None:
    lossless = ct_dataset(Series(), 0)
    lossless.PixelData = encapsulate([b"any"])
    assert read_instance(write(tmp_path / "x", lossless, JPEGLSNearLossless)).lossy
    assert one(ct_series, lambda ds: setattr(ds, "LossyImageCompression", "01")).lossy


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "../../etc/passwd", "1..2", "SECRET"])
def test_mandatory_uids_are_checked_and_not_quoted(ct_series: Maker, keyword: str, value: str | None) -> None:
    def change(ds: Dataset) -> None:
        if value is None:
            del ds[keyword]
        else:
            put(ds, keyword, value)

    with pytest.raises(UnreadableInstance, match=keyword) as caught:
        one(ct_series, change)
    assert not value or value not in str(caught.value)


def test_research_files_may_have_any_uid(ct_series: Maker) -> None:
    """RSNA 2019: UIDs are "ID_...", and there is no SOP class."""

    def as_rsna(ds: Dataset) -> None:
        del ds.SOPClassUID
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            put(ds, keyword, "ID_000039fa0")

    path = ct_series(n=1, change=as_rsna)[0]
    instance = read_instance(path, any_uid=True)
    assert instance.study_uid == instance.sop_instance_uid == "ID_000039fa0"
    assert instance.sop_class_uid == ""
    with pytest.raises(UnreadableInstance):
        read_instance(path)


def test_no_warning_quotes_a_value(ct_series: Maker, capfd: pytest.CaptureFixture[str]) -> None:
    def change(ds: Dataset) -> None:
        put(ds, "PatientBirthDate", "SECRET-1950")
        put(ds, "SeriesDescription", "x" * 100)
        put(ds, "RescaleSlope", "SECRET-slope-of-many-letters")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one(ct_series, change)
    assert [str(w.message) for w in caught if "SECRET" in str(w.message)] == []
    assert "SECRET" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 500, b"\0" * 128 + b"DICM", b"\x89PNG" * 100])
def test_what_is_no_dicom_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UnreadableInstance):
        read_instance(tmp_path / "x")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInstance, match="No such file"):
        read_instance(tmp_path / "x")


def test_every_cut_of_a_file_is_read_or_refused(ct_series: Maker, tmp_path: Path) -> None:
    whole = ct_series(n=1)[0].read_bytes()
    outcomes: set[bool | None] = set()
    for size in range(0, 1400, 3):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        try:
            outcomes.add(read_instance(path).has_pixels)
        except UnreadableInstance:
            outcomes.add(None)
    assert outcomes == {True, False, None}


def test_damaged_bytes_are_read_or_refused(ct_series: Maker, tmp_path: Path) -> None:
    whole = np.frombuffer(ct_series(n=1)[0].read_bytes()[:1400], np.uint8)
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(132, 1300, 8)] = rng.integers(0, 256, 8)
        (tmp_path / "x").write_bytes(damaged.tobytes())
        try:
            read_instance(tmp_path / "x")
        except InstanceError:
            refused += 1
    assert 0 < refused < 300


def test_sequences_nested_without_end(tmp_path: Path) -> None:
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 50_000
    (tmp_path / "x").write_bytes(b"\0" * 128 + b"DICM" + nested)
    with pytest.raises(UnreadableInstance):
        read_instance(tmp_path / "x")


def test_a_length_beyond_the_file(ct_series: Maker, tmp_path: Path) -> None:
    whole = ct_series(n=1)[0].read_bytes()
    at = whole.index(b"LO", 300) - 4
    (tmp_path / "x").write_bytes(whole[:at] + whole[at : at + 4] + b"OB\0\0" + struct.pack("<L", 0xFFFFFFF0))
    with pytest.raises(UnreadableInstance):
        read_instance(tmp_path / "x")


def test_a_deflated_bomb_is_refused(ct_series: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_INFLATED_BYTES", 1 << 20)
    path = write(tmp_path / "x", ct_dataset(Series(), 0), DeflatedExplicitVRLittleEndian)
    assert read_instance(path).has_pixels
    head = path.read_bytes()[: dataset_at(path)]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(head + squeeze.compress(bytes(1 << 24)) + squeeze.flush())
    with pytest.raises(UnreadableInstance):
        read_instance(path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), UnsupportedInstance),
        (lambda ds: ds.__delitem__("PixelData"), MismatchedInstance),
        (lambda ds: setattr(ds, "PixelData", b""), MismatchedInstance),
        (lambda ds: ds.__delitem__("Rows"), MismatchedInstance),
        (lambda ds: setattr(ds, "Columns", 0), MismatchedInstance),
    ],
)
def test_what_is_no_ct_image(ct_series: Maker, change: Change, error: type[InstanceError]) -> None:
    with pytest.raises(error):
        check_ct_image(one(ct_series, change))


def dataset_at(path: Path) -> int:
    with path.open("rb") as file:
        return reading.find_dataset(file).dataset_at


def test_enhanced_ct_states_its_facts_per_frame(tmp_path: Path) -> None:
    instance = read_instance(write(tmp_path / "x", enhanced(12)))
    assert [s.frame for s in instance.slices] == list(range(1, 13))
    assert [s.position_mm for s in instance.slices] == [(-100, -100, 2.5 * k) for k in range(12)]
    last = instance.slices[-1]
    assert (last.spacing_mm, last.thickness_mm, last.instance_number, last.has_rescale) == ((7, 8), 2.5, 12, True)
    assert last.orientation == (1, 0, 0, 0, 1, 0)
    assert (instance.kernel, instance.body_part, instance.scan_options) == ("Hr38", "Head", "SPIRAL")
    assert (instance.rescale_type, instance.contrast_agent) == ("HU", "")


def test_a_frames_own_group_comes_before_the_shared_one(tmp_path: Path) -> None:
    ds = enhanced(3)
    frame = ds.PerFrameFunctionalGroupsSequence[1]
    frame.PixelMeasuresSequence = [item(PixelSpacing=["1", "1"], SliceThickness="9")]
    frame.CTImageFrameTypeSequence = [item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"])]
    instance = read_instance(write(tmp_path / "x", ds))
    assert [s.thickness_mm for s in instance.slices] == [2.5, 9, 2.5]
    assert {"ORIGINAL", "DERIVED", "MAXIMUM"} < set(instance.image_type)


@pytest.mark.parametrize(("administered", "agent"), [("YES", "administered"), ("NO", "")])
def test_contrast_of_enhanced_ct(tmp_path: Path, administered: str, agent: str) -> None:
    ds = enhanced(2)
    usage = [item(ContrastBolusAgentAdministered=administered)]
    ds.SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence = usage
    assert read_instance(write(tmp_path / "x", ds)).contrast_agent == agent


def test_groups_may_be_damaged(tmp_path: Path) -> None:
    ds = enhanced(2)
    ds.SharedFunctionalGroupsSequence = []
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = []
    instance = read_instance(write(tmp_path / "x", ds))
    assert [s.position_mm for s in instance.slices] == [None, (-100, -100, 2.5)]
    assert all(s.orientation is None and s.spacing_mm is None and not s.has_rescale for s in instance.slices)


def test_content_hash_ignores_what_each_receiver_writes_anew(ct_series: Maker, tmp_path: Path) -> None:
    path = ct_series(n=1)[0]
    whole = path.read_bytes()
    at = dataset_at(path)
    (tmp_path / "bare").write_bytes(whole[at:])
    (tmp_path / "no preamble").write_bytes(whole[132:])
    hashes = {content_sha256(p) for p in (path, tmp_path / "bare", tmp_path / "no preamble")}
    assert hashes == {hashlib.sha256(whole[at:]).hexdigest()}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_one_content_in_two_encodings(ct_series: Maker, tmp_path: Path, syntax: Any) -> None:
    other = write(tmp_path / "x", ct_dataset(Series(), 0), syntax)
    assert same_content(ct_series(n=1)[0], other)


def test_one_content_compressed(ct_series: Maker, tmp_path: Path) -> None:
    ds = ct_dataset(Series(), 0)
    ds.file_meta = read_meta(ct_series(n=1)[0])
    ds.compress(RLELossless, generate_instance_uid=False)
    assert same_content(ct_series(n=1)[0], write(tmp_path / "x", ds, RLELossless))


def read_meta(path: Path) -> Any:
    return reading.open_whole(path).ds.file_meta


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "PatientID", "ANOTHER"),
        lambda ds: ds.__delitem__("SliceThickness"),
        lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))),
        lambda ds: setattr(ds, "RequestAttributesSequence", [item(ScheduledProcedureStepID="1")]),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_other_content(ct_series: Maker, tmp_path: Path, change: Change, syntax: Any) -> None:
    ds = ct_dataset(Series(), 0)
    change(ds)
    assert not same_content(ct_series(n=1)[0], write(tmp_path / "x", ds, syntax))


def test_real_encodings_of_one_image_have_one_content(shared_data: Path) -> None:
    def encoded(name: str) -> Path:
        (path,) = (shared_data / "transfer_syntaxes").glob(f"*_{name}.dcm")
        return path

    base = shared_data / "transfer_syntaxes" / "CTImage.dcm"
    lossless = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90",
                "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"]  # fmt: skip
    assert [name for name in lossless if not same_content(base, encoded(name))] == []
    assert not same_content(base, encoded("1.2.840.10008.1.2.4.50"))


def test_real_perfusion_map(shared_data: Path) -> None:
    instance = read_instance(shared_data / "single" / "eCT_Supplemental.dcm")
    assert [s.position_mm for s in instance.slices] == [(99.5, -301.5, -159), (99.5, -301.5, -149)]
    assert [s.thickness_mm for s in instance.slices] == [10, 10]
    assert (instance.contrast_agent, instance.body_part, instance.rescale_type) == ("Iohexol", "Brain", "US")
    assert "PERFUSION" in instance.image_type
