"""A phantom as CT Image Storage files (PS3.3 A.3), plain or with the faults of real scanners; changes no truth."""

import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from triage.phantom.spec import PhantomSpec
from triage.phantom.study import VERSION, PhantomStudy

Stored = npt.NDArray[np.int32]

NAMESPACE = uuid.UUID("6d0f2f0e-5f0b-5c0e-9d55-3a6b7a3b8f10")
"""Of the name-based UUIDs (RFC 4122, version 5) behind every UID written here."""

FIRST_DATE = date(2020, 1, 1)
"""Study dates are this and up to four years on, by seed: no phantom is dated by the clock."""

AIR_BELOW = -1024
PADDING = -2000
"""Stored outside the reconstruction circle by some scanners."""

OVERFLOW = 32767
"""Stored in a few pixels of broken images."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How the files are written."""

    quirks: tuple[str, ...] = ()
    """Names from QUIRKS, applied together where that makes sense; () for a clean series."""
    series_number: int = 2
    kernel: str = "STANDARD"

    def __post_init__(self) -> None:
        """Refuse an unknown quirk."""
        if unknown := set(self.quirks) - set(QUIRKS):
            raise ValueError(f"unknown quirk {min(unknown)}; known: {', '.join(sorted(QUIRKS))}")


@dataclass(slots=True)
class _Plane:
    """One slice on its way to a file; quirks change it in place."""

    ds: Dataset
    hu: Stored
    """(rows, columns) before encoding."""
    name: str
    bits: int = 12
    signed: bool = False
    intercept: int = AIR_BELOW
    padding: int | None = None
    encode: Callable[[Stored], Stored] | None = None
    cut: int = 0
    """Bytes missing at the end of the pixels."""
    implicit: bool = False


def phantom_uid(*parts: object) -> str:
    """A UID that the parts alone decide (PS3.5 B.2: 2.25. and a UUID as a number)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(str(p) for p in parts)).int}"


def _study_uid(study: PhantomStudy) -> str:
    """One for each head and its truth, whatever way it is cut into slices."""
    plain = PhantomSpec()
    truth = replace(study.spec, n_slices=plain.n_slices, size_px=plain.size_px, spacing_mm=plain.spacing_mm,
                    thickness_mm=plain.thickness_mm, fov_mm=plain.fov_mm, tilt_deg=plain.tilt_deg)  # fmt: skip
    return phantom_uid(VERSION, study.seed, truth, "study")


def _series_uid(study: PhantomStudy, options: WriterOptions, *more: object) -> str:
    return phantom_uid(VERSION, study.seed, study.spec, options, "series", *more)


def _patient_and_study(study: PhantomStudy) -> Dataset:
    """Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1); everything says what it is."""
    day = (FIRST_DATE + timedelta(days=study.seed % 1461)).strftime("%Y%m%d")
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"PHANTOM^SYNTHETIC^{study.seed}"
    ds.PatientID = f"PHANTOM{study.seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.QualityControlSubject = "YES"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "SYNTHETIC: no patient"
    ds.StudyInstanceUID = _study_uid(study)
    ds.StudyID = str(study.seed % 10**10)
    ds.AccessionNumber = f"PHANTOM{study.seed % 10**9}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "SYNTHETIC HEAD CT"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    return ds


def _series(study: PhantomStudy, options: WriterOptions) -> Dataset:
    """General Series, Frame of Reference, Equipment and the acquisition part of CT Image (PS3.3 C.8.2.1)."""
    ds = _patient_and_study(study)
    ds.Modality = "CT"
    ds.SeriesInstanceUID = _series_uid(study, options)
    ds.SeriesNumber = options.series_number
    ds.SeriesDescription = f"SYNTHETIC HEAD {study.thickness_mm:g}MM"
    ds.ProtocolName = "SYNTHETIC HEAD"
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = phantom_uid(ds.StudyInstanceUID, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "ICH-TRIAGE SYNTHETIC"
    ds.ManufacturerModelName = "HEAD PHANTOM"
    ds.DeviceSerialNumber = str(study.seed)
    ds.SoftwareVersions = f"phantom {VERSION}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.KVP = 120
    ds.XRayTubeCurrent = 250
    ds.ExposureTime = 1000
    ds.ConvolutionKernel = options.kernel
    ds.SliceThickness = _decimal(study.thickness_mm)
    ds.ReconstructionDiameter = _decimal(study.spacing_mm[1] * study.spec.size_px)
    ds.GantryDetectorTilt = _decimal(study.tilt_deg)
    ds.ImageComments = "SYNTHETIC: computed, no patient"
    return ds


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2)."""
    return f"{round(value, 6):.10g}"


def _plane(study: PhantomStudy, k: int, common: Dataset) -> _Plane:
    """Slice k with its place in the patient (PS3.3 C.7.6.2)."""
    ds = deepcopy(common)  # an update would share its elements
    tilt = np.deg2rad(study.tilt_deg)
    c, s = float(np.cos(tilt)), float(np.sin(tilt))
    rows, columns = study.hu.shape[1:]
    up = (rows - 1) / 2 * study.spacing_mm[0]
    z = study.positions_mm[k] / c
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = phantom_uid(ds.SeriesInstanceUID, k)
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [_decimal(v) for v in (-(columns - 1) / 2 * study.spacing_mm[1], -up * c, z + up * s)]
    ds.ImageOrientationPatient = [_decimal(v) for v in (1, 0, 0, 0, c, -s)]
    ds.PixelSpacing = [_decimal(v) for v in study.spacing_mm]
    ds.SliceLocation = _decimal(z)
    ds.WindowCenter, ds.WindowWidth = 40, 80
    return _Plane(ds, study.hu[k].astype(np.int32), f"{k + 1:04d}.dcm")


def _encode(plane: _Plane) -> FileDataset:
    """Pixels and their description (PS3.3 C.7.6.3, C.8.2.1.1)."""
    ds, bits = plane.ds, plane.bits
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if plane.signed else (0, (1 << bits) - 1)
    stored = np.clip(plane.hu - plane.intercept, low, high)
    if plane.encode is not None:
        stored = plane.encode(stored)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(plane.signed)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(plane.intercept), "1", "HU"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    if plane.padding is not None:
        ds.PixelPaddingValue = plane.padding
    raw = (stored & 0xFFFF).astype("<u2").tobytes()
    ds.PixelData = raw[: len(raw) - plane.cut]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if plane.implicit else ExplicitVRLittleEndian
    return FileDataset(plane.name, ds, preamble=b"\0" * 128, file_meta=meta)


Planes = list[_Plane]


def _outside_circle(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    outside: npt.NDArray[np.bool_] = (y[:, None] / shape[0]) ** 2 + (x[None, :] / shape[1]) ** 2 > 0.25
    return outside


def _wrap12(planes: Planes) -> Planes:
    """Unsigned 12 bit with intercept 0: HU modulo 4096, air stored as 3096."""
    for p in planes:
        hu = np.maximum(p.hu, -1000)
        p.intercept, p.encode = 0, lambda _, hu=hu: hu & 0xFFF
    return planes


def _pad2000(planes: Planes) -> Planes:
    """Signed 16 bit, intercept -1024, -2000 stored outside the circle."""
    for p in planes:
        outside = _outside_circle(p.hu.shape)
        p.bits, p.signed, p.padding = 16, True, PADDING
        p.encode = lambda stored, outside=outside: np.where(outside, PADDING, stored)
    return planes


def _signed(planes: Planes) -> Planes:
    """Signed 16 bit, intercept 0."""
    for p in planes:
        p.bits, p.signed, p.intercept = 16, True, 0
    return planes


def _sign12(planes: Planes) -> Planes:
    """Signed 12 bit whose sign was not extended into the upper four bits (the sign bit is HighBit)."""
    for p in planes:
        p.bits, p.signed, p.intercept, p.encode = 12, True, 0, lambda stored: stored & 0xFFF
    return planes


def _overflow(planes: Planes) -> Planes:
    """Signed 16 bit with a few pixels at 32767."""
    for p in _signed(planes):
        rows, columns = p.hu.shape
        p.hu[rows // 8, columns // 8 : columns // 8 + 4] = OVERFLOW
    return planes


def _short(planes: Planes) -> Planes:
    """The middle slice's pixels end early."""
    middle = planes[len(planes) // 2]
    middle.cut = middle.hu.size
    return planes


def _constant(planes: Planes) -> Planes:
    """The middle slice has one value everywhere."""
    planes[len(planes) // 2].hu[:] = -1000
    return planes


def _missing(planes: Planes) -> Planes:
    """The slice after the middle was never sent; instance numbers jump."""
    del planes[len(planes) // 2 + 1]
    return planes


def _dup(planes: Planes) -> Planes:
    """One position twice, under another UID."""
    first = planes[len(planes) // 3]
    ds = deepcopy(first.ds)
    ds.SOPInstanceUID = phantom_uid(ds.SOPInstanceUID, "again")
    ds.InstanceNumber = int(planes[-1].ds.InstanceNumber) + 1
    return [*planes, replace(first, ds=ds, hu=first.hu.copy(), name="again.dcm")]


def _multiwindow(planes: Planes) -> Planes:
    """Several display windows in each header."""
    for p in planes:
        p.ds.WindowCenter, p.ds.WindowWidth = [40, 80], [80, 200]
        p.ds.WindowCenterWidthExplanation = ["BRAIN", "SUBDURAL"]
    return planes


def _nonsquare(planes: Planes) -> Planes:
    """Fewer columns than rows."""
    for p in planes:
        off = p.hu.shape[1] // 16
        p.hu = p.hu[:, off:-off]
        x, y, z = p.ds.ImagePositionPatient
        p.ds.ImagePositionPatient = [_decimal(float(x) + off * float(p.ds.PixelSpacing[1])), y, z]
    return planes


def _implicit(planes: Planes) -> Planes:
    """Implicit VR Little Endian."""
    for p in planes:
        p.implicit = True
    return planes


def _renumbered(planes: Planes) -> Planes:
    """Instance numbers run from the vertex down."""
    for p in planes:
        p.ds.InstanceNumber = len(planes) + 1 - int(p.ds.InstanceNumber)
    return planes


def _localizer(planes: Planes) -> Planes:
    """A localizer in a series of its own."""
    hu = np.stack([p.hu.mean(axis=0).astype(np.int32) for p in reversed(planes)])
    ds = deepcopy(planes[0].ds)
    ds.SeriesInstanceUID = phantom_uid(ds.SeriesInstanceUID, "localizer")
    ds.SOPInstanceUID = phantom_uid(ds.SeriesInstanceUID, 0)
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.SeriesDescription = "SYNTHETIC LOCALIZER"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    ds.ImagePositionPatient = [planes[-1].ds.ImagePositionPatient[0], "0", planes[-1].ds.SliceLocation]
    return [_Plane(ds, hu, "localizer.dcm"), *planes]


QUIRKS: dict[str, Callable[[Planes], Planes]] = {
    "nonsquare": _nonsquare,
    "constant": _constant,
    "overflow": _overflow,
    "signed": _signed,
    "sign12": _sign12,
    "pad2000": _pad2000,
    "wrap12": _wrap12,
    "short": _short,
    "multiwindow": _multiwindow,
    "implicit": _implicit,
    "renumbered": _renumbered,
    "localizer": _localizer,
    "missing": _missing,
    "dup": _dup,
}
"""Faults and habits of real scanners by name, in the order in which they are applied: pixels, encoding, header, stack.

Gantry tilt is `PhantomSpec.tilt_deg`.
"""


def write_series(study: PhantomStudy, folder: Path, options: WriterOptions | None = None) -> list[Path]:
    """Write a phantom as DICOM files; the same study and options give the same data sets.

    Args:
        study: The phantom.
        folder: Made where it is missing.
        options: Quirks and series attributes.

    Returns:
        The files, caudal to cranial (extra ones at the ends).
    """
    options = options or WriterOptions()
    folder.mkdir(parents=True, exist_ok=True)
    common = _series(study, options)
    planes = [_plane(study, k, common) for k in range(study.hu.shape[0])]
    for name, change in QUIRKS.items():
        if name in options.quirks:
            planes = change(planes)
    paths = []
    for plane in planes:
        path = folder / plane.name
        _encode(plane).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
