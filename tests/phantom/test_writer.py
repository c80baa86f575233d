"""Files read back: geometry, density, identity, each quirk, and dciodvfy's verdict."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.phantom.writer import QUIRKS, WriterOptions, write_series

SMALL = PhantomSpec(size_px=96, n_slices=12, spacing_mm=10, subtypes=("epidural",))


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return generate(21, SMALL)


def naive_hu(path: Path) -> npt.NDArray[np.float64]:
    ds = pydicom.dcmread(path)
    hu: npt.NDArray[np.float64] = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return hu


def one(study: PhantomStudy, folder: Path, *quirks: str) -> list[Path]:
    return write_series(study, folder, WriterOptions(quirks=quirks))


def test_plain_series_reads_back(study: PhantomStudy, tmp_path: Path) -> None:
    paths = write_series(study, tmp_path)
    assert len(paths) == 12
    for k, path in enumerate(paths):
        assert np.array_equal(naive_hu(path), study.hu[k])
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert [float(ds.ImagePositionPatient[2]) for ds in headers] == pytest.approx(study.positions_mm)
    first = headers[0]
    assert list(first.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (first.Modality, first.BodyPartExamined, first.PatientPosition) == ("CT", "HEAD", "HFS")
    assert str(first.PatientName).startswith("PHANTOM^")
    assert all("SYNTHETIC" in text for text in (first.SeriesDescription, first.StudyDescription, first.Manufacturer))
    assert first.AccessionNumber == "PHANTOM21"
    assert len({ds.SOPInstanceUID for ds in headers}) == 12


def test_same_input_same_bytes(study: PhantomStudy, tmp_path: Path) -> None:
    a, b = write_series(study, tmp_path / "a"), write_series(study, tmp_path / "b")
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_uids_differ_where_content_does(study: PhantomStudy, tmp_path: Path) -> None:
    def uids(path: Path) -> tuple[str, str, str]:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        return ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID

    plain = uids(write_series(study, tmp_path / "a")[0])
    quirk = uids(one(study, tmp_path / "b", "signed")[0])
    other_truth = uids(write_series(generate(21, PhantomSpec(size_px=96, n_slices=12, subtypes=())), tmp_path / "c")[0])
    assert plain[0] == quirk[0]
    assert not set(plain[1:]) & set(quirk[1:])
    assert not set(plain) & set(other_truth)
    assert all(len(uid) <= 64 for uid in plain)


def test_tilt_is_in_the_geometry(tmp_path: Path) -> None:
    paths = write_series(generate(2, PhantomSpec(size_px=64, n_slices=8, tilt_deg=18.5)), tmp_path)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    row, column = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    positions = np.array([ds.ImagePositionPatient for ds in headers], float)
    along = positions[-1] - positions[0]
    tilt = np.degrees(np.arccos(along @ normal / np.linalg.norm(along)))
    assert tilt == pytest.approx(18.5, abs=0.01)
    assert np.diff(positions @ normal) == pytest.approx(5.0, abs=1e-3)


def test_head_stays_in_place_under_tilt() -> None:
    """The slices of a tilted gantry shear against the table, the head lies still on it."""
    study = generate(2, PhantomSpec(size_px=96, n_slices=24, tilt_deg=20, subtypes=()))
    drift = 5.0 * np.tan(np.deg2rad(20)) / study.spacing_mm[0]
    fronts = [int(np.argmax((plane > 300).any(axis=1))) for plane in study.hu[10:16]]
    straight = generate(2, PhantomSpec(size_px=96, n_slices=24, subtypes=()))
    before = [int(np.argmax((plane > 300).any(axis=1))) for plane in straight.hu[10:16]]
    moved = np.polyfit(range(6), np.subtract(fronts, before), 1)[0]
    assert moved == pytest.approx(drift, abs=0.5)


def test_wrap12_stores_hu_modulo_4096(study: PhantomStudy, tmp_path: Path) -> None:
    path = one(study, tmp_path, "wrap12")[6]
    ds = pydicom.dcmread(path)
    assert (ds.BitsStored, ds.PixelRepresentation, int(ds.RescaleIntercept)) == (12, 0, 0)
    stored = ds.pixel_array.astype(int)
    assert 3050 < stored[0, 0] < 3150
    assert np.array_equal((stored + 1000) % 4096 - 1000, np.maximum(study.hu[6], -1000))


def test_pad2000_outside_the_circle(study: PhantomStudy, tmp_path: Path) -> None:
    path = one(study, tmp_path, "pad2000")[6]
    hu = naive_hu(path)
    assert hu[0, 0] == -3024
    assert pydicom.dcmread(path).PixelPaddingValue == -2000
    assert np.array_equal(hu[40:56, 40:56], study.hu[6, 40:56, 40:56])


def test_sign12_leaves_the_upper_bits_empty(study: PhantomStudy, tmp_path: Path) -> None:
    ds = pydicom.dcmread(one(study, tmp_path, "sign12")[6])
    raw = np.frombuffer(ds.PixelData, "<u2").astype(int)
    assert raw.max() <= 0xFFF
    extended = np.where(raw >= 0x800, raw - 0x1000, raw).reshape(96, 96)
    assert np.array_equal(extended, np.minimum(study.hu[6], 2047))


def test_quirks_of_single_slices(study: PhantomStudy, tmp_path: Path) -> None:
    short = pydicom.dcmread(one(study, tmp_path / "short", "short")[6])
    assert len(short.PixelData) == 96 * 96
    constant = naive_hu(one(study, tmp_path / "constant", "constant")[6])
    assert constant.min() == constant.max()
    overflow = naive_hu(one(study, tmp_path / "overflow", "overflow")[6])
    assert overflow.max() == 32767


def test_quirks_of_the_stack(study: PhantomStudy, tmp_path: Path) -> None:
    def numbers(*quirks: str) -> list[int]:
        paths = one(study, tmp_path / "-".join(quirks), *quirks)
        return [int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber) for path in paths]

    assert numbers("missing") == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert numbers("dup") == [*range(1, 13), 13]
    assert numbers("renumbered") == list(range(12, 0, -1))
    twice = [pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient for p in one(study, tmp_path, "dup")]
    assert list(twice[-1]) == list(twice[4])


def test_quirks_of_the_header(study: PhantomStudy, tmp_path: Path) -> None:
    window = pydicom.dcmread(one(study, tmp_path / "w", "multiwindow")[0])
    assert list(window.WindowCenter) == [40, 80]
    narrow = pydicom.dcmread(one(study, tmp_path / "n", "nonsquare")[0])
    assert (narrow.Rows, narrow.Columns) == (96, 84)
    implicit = pydicom.dcmread(one(study, tmp_path / "i", "implicit")[0])
    assert implicit.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    localizer = pydicom.dcmread(one(study, tmp_path / "l", "localizer")[0])
    assert "LOCALIZER" in localizer.ImageType
    assert localizer.SeriesInstanceUID != pydicom.dcmread(tmp_path / "l" / "0001.dcm").SeriesInstanceUID


@pytest.mark.parametrize("quirk", sorted(QUIRKS))
def test_every_quirk_writes_files(study: PhantomStudy, tmp_path: Path, quirk: str) -> None:
    assert all(path.is_file() for path in one(study, tmp_path, quirk))


def test_quirks_combine(study: PhantomStudy, tmp_path: Path) -> None:
    paths = one(study, tmp_path, "pad2000", "nonsquare", "dup", "missing", "localizer", "renumbered", "implicit")
    assert len(paths) == 13
    ds = pydicom.dcmread(paths[6])
    assert (ds.Rows, ds.Columns, ds.PixelPaddingValue) == (96, 84, -2000)
    assert ds.pixel_array[0, 0] == -2000


def test_unknown_quirk_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown quirk"):
        WriterOptions(quirks=("wrap13",))


@pytest.mark.parametrize("quirks", [(), ("signed",), ("pad2000",), ("multiwindow",), ("nonsquare",)])
def test_dciodvfy_finds_nothing(study: PhantomStudy, tmp_path: Path, quirks: tuple[str, ...]) -> None:
    tool = shutil.which("dciodvfy")
    if tool is None:
        if os.environ.get("REQUIRE_PEERS") == "1":
            pytest.fail("dciodvfy is not installed (Debian: dicom3tools)")
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    path = one(study, tmp_path, *quirks)[5]
    ran = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
    lines = (ran.stdout + ran.stderr).splitlines()
    assert "CTImage" in lines
    assert not [line for line in lines if line.startswith(("Error", "Warning"))]
