"""Files to Hounsfield units: every encoding, every odd file, and a decoding child that hangs or dies."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.intake_data import SIZE, Change, Series, ct_dataset, enhanced, head_hu, set_stored, write
from openjpeg.utils import encode_array
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from triage.dicom.geometry import order
from triage.dicom.headers import read_instance
from triage.dicom.pixels import Decoder, read_slice, read_volume
from triage.dicom.selection import select
from triage.errors import InstanceError, SliceError, StudyError
from triage.records import Slice, Volume

Maker = Callable[..., list[Path]]

HTJ2K_UNSIGNED = bytes.fromhex(
    "ff4fff5100294000000000200000001800000000000000000000002000000018000000000000000000010f0101ff50000800020000000a"
    "ff52000c00020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e"
    "32362e332eff90000a0000000000a10001ff93c00026a7f805077400c000134000128048fe03077400e600877400c00013c0001180228b"
    "fc02827400063300c00015500005408e1d3bfea082320276005a6bfdc1c9beb500c00015b0000558c0c0c0c0c0c0e78a7a718277004c92"
    "24fa127bf649ecb800c0002d680005a446a3d168341a8d46a3d1f8f9fe0a7a7a7a7a71027b0004000000feff71857bf75efdd7bf75ecbd"
    "00ffd9"
)
"""24 rows of 32 columns, 100 x column + 3 x row, encoded without loss by OpenJPH 0.26.3."""

HTJ2K_SIGNED = bytes.fromhex(
    "ff4fff5100294000000000200000001800000000000000000000002000000018000000000000000000018f0101ff50000800020000000a"
    "ff52000c00020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e"
    "32362e332eff90000a0000000000be0001ff93c000266ffd02877400c000134000130090f8030774000bfc03077400c00013c000130048"
    "20f10282740064f200223400c0001550000558224488f8a0823202760033cf3cf3ccc04201beb600c00015b00005a40c0c0c0c0c0ce78a"
    "7a718277009327272727272727fa0c607bf63181ecba00c0002d480005d100b66ddbb66ddbb66ddbf9fe0a7a7a7a7a70827b00b3b3d96c"
    "369bcd66b3d96c369bcdfeff71808407bf62101efd88407bf62101ecb301ffd9"
)
"""The same size, 60 x column - 90 x row - 500, signed."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(60.0) as decoder:
        yield decoder


def volume_of(paths: list[Path], decoder: Decoder) -> Volume:
    instances = [read_instance(p) for p in paths]
    stack = order([s for i in instances for s in i.slices])
    return read_volume(stack, {i.sop_instance_uid: i.path for i in instances}, decoder)


def read(path: Path, decoder: Decoder, frame: int = 1) -> tuple[Any, tuple[str, ...]]:
    return read_slice(path, Slice("1.2", frame=frame), decoder)


def compressed(folder: Path, syntax: Any) -> Path:
    """A synthetic slice, compressed without loss by another program's encoder."""
    ds = dcmread(write(folder / "plain.dcm", ct_dataset(Series(), 0)))
    if syntax == JPEG2000Lossless:
        return write(folder / "compressed.dcm", in_jpeg_2000(ds), syntax)
    ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(folder / "compressed.dcm")
    return folder / "compressed.dcm"


def in_jpeg_2000(ds: Dataset) -> Dataset:
    codestream = encode_array(ds.pixel_array, bits_stored=ds.BitsStored, photometric_interpretation=2)
    ds.PixelData = encapsulate([codestream])
    return ds


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_native_syntaxes(tmp_path: Path, decoder: Decoder, syntax: Any) -> None:
    hu, repairs = read(write(tmp_path / "x", ct_dataset(Series(), 0), syntax), decoder)
    assert np.array_equal(hu, head_hu())
    assert hu.dtype == np.float32
    assert repairs == ()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_syntaxes(tmp_path: Path, decoder: Decoder, syntax: Any) -> None:
    assert np.array_equal(read(compressed(tmp_path, syntax), decoder)[0], head_hu())


def test_a_file_that_was_rewritten_is_read_anew(tmp_path: Path, decoder: Decoder) -> None:
    path = compressed(tmp_path, RLELossless)
    assert np.array_equal(read(path, decoder)[0], head_hu())
    ds = ct_dataset(Series(), 0)
    set_stored(ds, head_hu()[::-1, ::2] + 1024)
    ds = dcmread(write(path, ds))
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path)
    assert np.array_equal(read(path, decoder)[0], head_hu()[::-1, ::2])


@pytest.mark.parametrize("lying", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_high_throughput_jpeg_2000(tmp_path: Path, decoder: Decoder, signed: bool, lying: bool) -> None:
    row, column = np.mgrid[:24, :32]
    truth = 60 * column - 90 * row - 500 if signed else 100 * column + 3 * row
    if lying:  # the data set says otherwise than the codestream: its bits are read as the data set says
        truth = truth % 65536 if signed else truth
    ds = ct_dataset(Series(), 0)
    ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 16, 15, "0"
    ds.PixelRepresentation = int(signed != lying)
    ds.Rows, ds.Columns = 24, 32
    ds.PixelData = encapsulate([HTJ2K_SIGNED if signed else HTJ2K_UNSIGNED])
    path = write(tmp_path / "x", ds, HTJ2KLossless)
    if signed and lying:
        with pytest.raises(SliceError, match="no CT image has"):
            read(path, decoder)
        return
    hu, repairs = read(path, decoder)
    assert np.array_equal(hu, np.where(truth < -1100, -1024, np.clip(truth, -1024, 3071)))
    assert ("sign" in repairs) is lying


def test_the_frames_of_one_file(tmp_path: Path, decoder: Decoder) -> None:
    frames = [head_hu() + 1024 + k for k in range(3)]
    ds = ct_dataset(Series(), 0)
    ds.NumberOfFrames, ds.PixelData = 3, np.stack(frames).astype("<u2").tobytes()
    native = write(tmp_path / "native", ds)
    ds = dcmread(native)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(tmp_path / "rle")
    for path in (native, tmp_path / "rle"):
        for k, frame in enumerate(frames):
            assert np.array_equal(read(path, decoder, k + 1)[0], frame - 1024)
        with pytest.raises(SliceError, match="frame 4 of a file that says it has 3"):
            read(path, decoder, 4)


def test_eight_bits_and_a_shifted_pixel(tmp_path: Path, decoder: Decoder) -> None:
    byte = ct_dataset(Series(), 0)
    byte.BitsAllocated, byte.BitsStored, byte.HighBit = 8, 8, 7
    byte.RescaleSlope, byte.PixelData = "16", ((head_hu() + 1024) // 16).astype("u1").tobytes()
    hu, _ = read(write(tmp_path / "byte", byte), decoder)
    assert np.abs(hu - head_hu()).max() < 16
    shifted = ct_dataset(Series(), 0)
    set_stored(shifted, (head_hu().astype(int) + 1024) << 4, HighBit=15)
    hu, _ = read(write(tmp_path / "shifted", shifted), decoder)
    assert np.array_equal(hu, head_hu())


def test_a_matrix_need_not_be_square(tmp_path: Path, decoder: Decoder) -> None:
    ds = ct_dataset(Series(), 0)
    set_stored(ds, head_hu()[4:-4] + 1024)
    assert read(write(tmp_path / "x", ds), decoder)[0].shape == (SIZE - 8, SIZE)


def test_monochrome1_changes_the_display_and_not_the_value(tmp_path: Path, decoder: Decoder) -> None:
    ds = ct_dataset(Series(), 0)
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(read(write(tmp_path / "x", ds), decoder)[0], head_hu())


def test_per_frame_rescale_of_enhanced_ct(shared_data: Path, decoder: Decoder) -> None:
    path = shared_data / "single" / "eCT_Supplemental.dcm"
    frames = dcmread(path).pixel_array
    for k in (1, 2):
        assert np.array_equal(read(path, decoder, k)[0], frames[k - 1].astype(float) - 1024)


def set_to(**values: Any) -> Change:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def cut(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-100]


FAULTS: list[tuple[Change, str]] = [
    (cut, "the pixel data are too short: 1948 of 2048 bytes"),
    (lambda ds: ds.__delitem__("PixelData"), "no pixel data"),
    (lambda ds: ds.__delitem__("RescaleIntercept"), "no RescaleSlope and RescaleIntercept"),
    (set_to(RescaleSlope="0"), "no RescaleSlope and RescaleIntercept"),
    (set_to(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "RGB, 3 samples a pixel: not a CT image"),
    (set_to(PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    (set_to(Rows=65535, Columns=65535), "beyond the limits"),
    (set_to(NumberOfFrames=2_000_000_000), "beyond the limits"),
    (set_to(Rows=0), "beyond the limits"),
    (set_to(BitsStored=17), "do not fit together"),
    (set_to(BitsAllocated=12), "do not fit together"),
    (set_to(PixelData=bytes(2048)), "every pixel has the same value"),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_what_cannot_be_used_says_why(ct_series: Maker, decoder: Decoder, change: Change, reason: str) -> None:
    with pytest.raises(SliceError, match=reason):
        read(ct_series(n=1, change=change)[0], decoder)


def test_a_codestream_of_another_size_is_refused(tmp_path: Path, decoder: Decoder) -> None:
    ds = dcmread(compressed(tmp_path, JPEG2000Lossless))
    ds.Rows = SIZE * 2
    ds.save_as(tmp_path / "x")
    with pytest.raises(SliceError):
        read(tmp_path / "x", decoder)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_damaged_codestreams_never_stop_the_node(tmp_path: Path, decoder: Decoder, syntax: Any) -> None:
    whole = compressed(tmp_path, syntax).read_bytes()
    rng = np.random.default_rng(11)
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole) - 400, len(whole) - 10, 6):
            damaged[at] = rng.integers(256)
        (tmp_path / "x").write_bytes(damaged)
        try:
            hu, _ = read(tmp_path / "x", decoder)
        except SliceError:
            continue
        assert hu.shape == (SIZE, SIZE)
    assert np.array_equal(read(tmp_path / "compressed.dcm", decoder)[0], head_hu())


def test_an_encapsulation_that_is_none(tmp_path: Path, decoder: Decoder) -> None:
    path = compressed(tmp_path, RLELossless)
    native = str(ExplicitVRLittleEndian).encode() + b"\0"
    path.write_bytes(path.read_bytes().replace(str(RLELossless).encode() + b"\0", native.ljust(20, b"\0")[:20]))
    with pytest.raises(SliceError, match="encapsulated although"):
        read(path, decoder)


def test_a_decoding_that_takes_too_long_ends_and_the_next_one_works(tmp_path: Path) -> None:
    path = compressed(tmp_path, JPEG2000Lossless)
    with Decoder(3.0) as decoder:
        read(path, decoder)
        first = decoder.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # as good as an endless loop
        with pytest.raises(SliceError, match="took longer than 3 s"):
            read(path, decoder)
        assert decoder.pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert np.array_equal(read(path, decoder)[0], head_hu())
        assert decoder.pid != first


def test_the_time_limit_holds_for_a_large_image(tmp_path: Path) -> None:
    ds = ct_dataset(Series(), 0)
    set_stored(ds, np.random.default_rng(0).integers(0, 4096, (2048, 2048)))
    write(tmp_path / "x", in_jpeg_2000(dcmread(write(tmp_path / "native", ds))), JPEG2000Lossless)
    with Decoder(0.01) as decoder, pytest.raises(SliceError, match=r"took longer than 0\.01 s \(JPEG 2000"):
        read(tmp_path / "x", decoder)


def test_a_child_that_dies_on_an_image_is_replaced(tmp_path: Path) -> None:
    path = compressed(tmp_path, JPEG2000Lossless)
    with Decoder(60.0) as decoder:
        read(path, decoder)
        child = decoder.pid
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        errors: list[SliceError] = []

        def decode() -> None:
            try:
                read(path, decoder)
            except SliceError as e:
                errors.append(e)

        thread = threading.Thread(target=decode)
        thread.start()
        wait_for_request(child)
        os.kill(child, signal.SIGKILL)
        thread.join(30)
        assert ["crashed" in str(e) for e in errors] == [True]
        assert np.array_equal(read(path, decoder)[0], head_hu())


def wait_for_request(pid: int) -> None:
    """Wait until the stopped child's standard input holds a request."""
    import fcntl
    import select
    import termios

    with Path(f"/proc/{pid}/fd/0").open("rb", buffering=0) as pipe:
        ready, _, _ = select.select([pipe], [], [], 30)
        assert ready
        assert fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0") != b"\0\0\0\0"


def test_a_child_that_died_idle_costs_no_image(tmp_path: Path) -> None:
    path = compressed(tmp_path, JPEG2000Lossless)
    with Decoder(60.0) as decoder:
        read(path, decoder)
        child = decoder.pid
        assert child is not None
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert np.array_equal(read(path, decoder)[0], head_hu())


def test_the_child_ends_with_its_decoder(tmp_path: Path) -> None:
    with Decoder(60.0) as decoder:
        read(compressed(tmp_path, JPEG2000Lossless), decoder)
        child = decoder.pid
        assert child is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_nothing_a_parser_says_gets_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ds = dcmread(compressed(tmp_path, JPEG2000Lossless))
    ds.PixelData = encapsulate([ds.PixelData[:400]])
    ds.save_as(tmp_path / "x")
    with Decoder(60.0) as decoder, pytest.raises(SliceError) as caught:
        read(tmp_path / "x", decoder)
    assert "".join(capfd.readouterr()) == ""
    assert "SECRET" not in str(caught.value).upper()


def test_a_volume_is_ordered_and_knows_its_series(ct_series: Maker, decoder: Decoder) -> None:
    def mark(ds: Dataset) -> None:
        image = head_hu() + 1024
        image[16, 16] = 1024 + int(ds.InstanceNumber)
        set_stored(ds, image)

    volume = volume_of(ct_series(change=mark)[::-1], decoder)
    assert volume.hu.shape == (28, SIZE, SIZE)
    assert volume.hu[:, 16, 16].tolist() == list(range(1, 29))
    assert volume.positions_mm == tuple(-40 + 5.0 * k for k in range(28))
    assert (volume.spacing_mm, volume.thickness_mm) == ((7.1875, 7.1875), 5)
    assert (volume.set_aside, volume.repairs, volume.lossy) == ((), (), False)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_an_enhanced_ct_is_chosen_and_read_like_any_other(tmp_path: Path, decoder: Decoder, syntax: Any) -> None:
    ds = enhanced(28, 5.0)
    ds.PixelData = np.stack([head_hu() + 1024 + k for k in range(28)][::-1]).astype("<u2").tobytes()
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):  # stored from the head down
        frame.PlanePositionSequence[0].ImagePositionPatient = ["-100", "-100", str(5 * (27 - k))]
    path = write(tmp_path / "x", ds)
    if syntax.is_encapsulated:
        ds = dcmread(path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    selection = select([read_instance(path)])
    assert selection.stack is not None, selection.reason
    volume = read_volume(selection.stack, {i.sop_instance_uid: i.path for i in selection.instances}, decoder)
    assert [s.frame for s in volume.slices] == list(range(28, 0, -1))
    assert np.array_equal(volume.hu[:, 16, 16], 35 + np.arange(28))


def break_slices(*numbers: int) -> Change:
    def change(ds: Dataset) -> None:
        if int(ds.InstanceNumber) in numbers:
            ds.PixelData = ds.PixelData[:100]

    return change


def test_a_bad_slice_is_set_aside_and_the_others_go_on(ct_series: Maker, decoder: Decoder) -> None:
    volume = volume_of(ct_series(change=break_slices(3, 17)), decoder)
    assert len(volume.slices) == len(volume.hu) == len(volume.positions_mm) == 26
    assert [s.instance_number for s in volume.slices] == [k for k in range(1, 29) if k not in (3, 17)]
    assert [s.reason for s in volume.set_aside] == ["the pixel data are too short: 100 of 2048 bytes"] * 2


@pytest.mark.parametrize(
    ("n", "bad", "usable"), [(28, 5, True), (28, 6, False), (28, 20, False), (12, 2, True), (11, 2, False)]
)
def test_too_few_usable_slices(ct_series: Maker, decoder: Decoder, n: int, bad: int, usable: bool) -> None:
    paths = ct_series(n=n, change=break_slices(*range(1, bad + 1)))
    if usable:
        assert len(volume_of(paths, decoder).slices) == n - bad
    else:
        hopeless = "6 so far of 28"  # it ends there: each further slice might cost the decoder's whole time limit
        told = rf"({hopeless}|only {n - bad} of {n} slices can be used) .* too short"
        with pytest.raises(StudyError, match=told):
            volume_of(paths, decoder)


def test_a_slice_of_another_size_is_set_aside(ct_series: Maker, decoder: Decoder) -> None:
    def change(ds: Dataset) -> None:
        if int(ds.InstanceNumber) == 1:
            set_stored(ds, head_hu()[:16] + 1024)

    volume = volume_of(ct_series(change=change), decoder)
    assert [s.reason for s in volume.set_aside] == ["32x16 pixels, unlike the others (32x32)"]
    assert len(volume.slices) == 27


def test_repairs_are_told_once_and_lossy_is_told(ct_series: Maker, decoder: Decoder) -> None:
    def change(ds: Dataset) -> None:
        set_stored(ds, head_hu().astype(int) % 4096)
        ds.RescaleIntercept, ds.LossyImageCompression = "0", "01"

    volume = volume_of(ct_series(change=change), decoder)
    assert np.array_equal(volume.hu[7], head_hu())
    assert (volume.repairs, volume.lossy) == (("wrap12",), True)


def test_a_deleted_file_is_set_aside(ct_series: Maker, decoder: Decoder) -> None:
    paths = ct_series()
    instances = [read_instance(p) for p in paths]
    paths[4].unlink()
    stack = order([s for i in instances for s in i.slices])
    volume = read_volume(stack, {i.sop_instance_uid: i.path for i in instances}, decoder)
    assert [s.reason for s in volume.set_aside] == ["the file cannot be read (No such file or directory)"]


def test_real_head(shared_data: Path, decoder: Decoder) -> None:
    volume = volume_of(sorted((shared_data / "ge_head").glob("*.dcm"))[::-1], decoder)
    assert volume.hu.shape == (28, 512, 512)
    assert volume.tilt_deg == pytest.approx(18.5, abs=0.1)
    assert volume.set_aside == ()
    assert volume.hu.min() == -1024
    brain = volume.hu[14][(volume.hu[14] > 0) & (volume.hu[14] < 80)]
    assert 25 < np.median(brain) < 45


LOSSLESS = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.57",
            "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5",
            "1.2.840.10008.1.2"]  # fmt: skip
LOSSY_WITHIN_HU = {"1.2.840.10008.1.2.4.50": 65, "1.2.840.10008.1.2.4.81": 1, "1.2.840.10008.1.2.4.91": 5}
UNDECODABLE = {"1.2.840.10008.1.2.4.51": "with 12 bits", "1.2.840.10008.1.2.4.53": "no decoder for JPEG Spectral",
               "1.2.840.10008.1.2.4.55": "no decoder for JPEG Full Progression"}  # fmt: skip


def encoded(shared_data: Path, syntax: str) -> Path:
    (path,) = (shared_data / "transfer_syntaxes").glob(f"*_{syntax}.dcm")
    return path


@pytest.fixture(scope="module")
def original_hu(shared_data: Path, decoder: Decoder) -> Any:
    return read(shared_data / "transfer_syntaxes" / "CTImage.dcm", decoder)[0]


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_real_lossless_encodings_are_identical(
    shared_data: Path, decoder: Decoder, original_hu: Any, syntax: str
) -> None:
    assert np.array_equal(read(encoded(shared_data, syntax), decoder)[0], original_hu)


@pytest.mark.parametrize(("syntax", "within_hu"), LOSSY_WITHIN_HU.items())
def test_real_lossy_encodings_are_close(
    shared_data: Path, decoder: Decoder, original_hu: Any, syntax: str, within_hu: float
) -> None:
    path = encoded(shared_data, syntax)
    assert np.abs(read(path, decoder)[0] - original_hu).max() <= within_hu
    assert read_instance(path).lossy


@pytest.mark.parametrize(("syntax", "reason"), UNDECODABLE.items())
def test_real_encodings_without_permissive_decoder(
    shared_data: Path, decoder: Decoder, syntax: str, reason: str
) -> None:
    with pytest.raises(SliceError, match=reason):
        read(encoded(shared_data, syntax), decoder)


def test_every_real_encoding_is_covered(shared_data: Path) -> None:
    found = {p.name.split("_")[-1].removesuffix(".dcm") for p in (shared_data / "transfer_syntaxes").glob("*_*.dcm")}
    assert found == {*LOSSLESS, *LOSSY_WITHIN_HU, *UNDECODABLE}


ODD = {
    "CT-MONO2-16-ankle": (-992, 3056),
    "FreezePattern.dcm": "no SOPInstanceUID",
    "GH178.dcm": "no pixel data",
    "GH342.dcm": (-1024, 1400),
    "JPEGLossless_1s_1f_i_16_16_bad.dcm": "33 % of the pixels hold values that no CT image has",
    "MR_truncated.dcm": "no RescaleSlope and RescaleIntercept",
    "bad_sequence.dcm": "SOPInstanceUID is no valid UID",
    "meta_missing_tsyntax.dcm": "no DICOM data set",
    "no-pixel-data.dcm": "beyond the limits|no pixel data",
    "no_meta.dcm": "no DICOM data set",
}
"""What becomes of each odd file: the range of its image in HU, or the reason of its refusal."""


def received_and_read(path: Path, decoder: Decoder) -> Any:
    read_instance(path)
    return read(path, decoder)[0]


@pytest.mark.parametrize(("name", "expected"), ODD.items(), ids=list(ODD))
def test_odd_files(shared_data: Path, decoder: Decoder, name: str, expected: tuple[int, int] | str) -> None:
    path = shared_data / "odd" / name
    if isinstance(expected, str):
        with pytest.raises((InstanceError, SliceError), match=expected):
            received_and_read(path, decoder)
    else:
        hu = received_and_read(path, decoder)
        assert (hu.min(), hu.max()) == expected


def test_every_odd_file_is_covered(shared_data: Path) -> None:
    assert {p.name for p in (shared_data / "odd").iterdir() if not p.name.startswith("LICENSE")} == set(ODD)


def test_real_codestream_that_lies_about_its_sign(shared_data: Path, decoder: Decoder) -> None:
    hu, repairs = read(shared_data / "single" / "J2K_pixelrep_mismatch.dcm", decoder)
    assert repairs == ("sign", "pad2000")
    assert (hu.min(), hu.max()) == (-1024, 1896)
    assert hu[0, 0] == -1024


def test_real_fragmented_twelve_bit_jpeg_is_refused_clearly(shared_data: Path, decoder: Decoder) -> None:
    path = shared_data / "single" / "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"
    for plane in read_instance(path).slices:
        with pytest.raises(SliceError, match="no decoder for this encoding with 12 bits"):
            read_slice(path, plane, decoder)
