"""Synthetic CT slices as DICOM files, for the tests of what is read from received files."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

ROOT_UID = "1.2.826.0.1.3680043.8.498.77"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SIZE = 32

Change = Callable[[Dataset], object]
"""Alters a slice, known by its InstanceNumber (from 1), before it is written."""


def unchanged(ds: Dataset) -> None:
    """Leave a slice as it is."""


@dataclass(frozen=True)
class Series:
    """What to write: n slices, `step_mm` apart along z, leaning by `tilt_deg`."""

    n: int = 28
    step_mm: float = 5.0
    tilt_deg: float = 0.0
    number: int = 2
    description: str = "Head 5.0 H31s"
    change: Change = field(default=unchanged)


def head_hu() -> np.ndarray[Any, np.dtype[np.int16]]:
    """(SIZE, SIZE) air, a ring of bone, brain."""
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = np.hypot(x - SIZE / 2 + 0.5, y - SIZE / 2 + 0.5)
    hu = np.full((SIZE, SIZE), -1000, np.int16)
    hu[radius < 0.4 * SIZE] = 1100
    hu[radius < 0.35 * SIZE] = 35
    return hu


def set_stored(ds: Dataset, values: Any, **elements: int) -> None:
    """Replace the pixels by stored values, written little endian in 16 bits (8 for bytes), and set elements."""
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    array = np.asarray(values)
    ds.Rows, ds.Columns = array.shape
    ds.PixelData = array.astype("<i2" if array.min() < 0 else "<u2").tobytes()


def put(ds: Dataset, keyword: str, value: str | bytes) -> None:
    """Set an element to bytes that its VR need not allow; for files in Explicit VR Little Endian."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    data = value if isinstance(value, bytes) else value.encode()
    data += b" " * (len(data) % 2)
    vr = dictionary_VR(keyword)
    ds[tag] = RawDataElement(Tag(tag), "LO" if vr in ("IS", "UI") else vr, len(data), data, 0, False, True)


def ct_dataset(series: Series, k: int) -> Dataset:
    """Slice k of a series."""
    lean = np.deg2rad(series.tilt_deg)
    ds = Dataset()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE, f"{ROOT_UID}.{series.number}.{k + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT_UID, f"{ROOT_UID}.{series.number}"
    ds.Modality, ds.Manufacturer = "CT", "SYNTHETIC"
    ds.StudyDescription, ds.SeriesDescription = "CT HEAD WO CONTRAST", series.description
    ds.PatientName, ds.PatientID = "SYNTHETIC^Secret", "TEST-SECRET"
    ds.BodyPartExamined, ds.SliceThickness, ds.ConvolutionKernel = "HEAD", f"{series.step_mm:g}", "H31s"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = str(series.number), "1", str(k + 1)
    ds.ImagePositionPatient = ["-115", "-115", f"{-40 + k * series.step_mm:.6g}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", f"{np.cos(lean):.8f}", f"{-np.sin(lean):.8f}"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelSpacing = ["7.1875", "7.1875"]
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    set_stored(ds, head_hu() + 1024, BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0)
    return ds


def item(**elements: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(n: int, step_mm: float = 2.5) -> Dataset:
    """Enhanced CT of n frames, the plane position per frame and everything else shared."""
    ds = ct_dataset(Series(), 0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "BodyPartExamined", "ConvolutionKernel"):  # fmt: skip
        del ds[keyword]
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED_CT, n
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PixelData = (head_hu() + 1024).astype("<u2").tobytes() * n
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])],
        PixelMeasuresSequence=[item(PixelSpacing=["7", "8"], SliceThickness=f"{step_mm:g}")],
        PixelValueTransformationSequence=[item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")],
        CTReconstructionSequence=[item(ConvolutionKernel="Hr38")],
        FrameAnatomySequence=[item(AnatomicRegionSequence=[item(CodeMeaning="Head")])],
        CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
        CTAcquisitionTypeSequence=[item(AcquisitionType="SPIRAL")],
    )
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=["-100", "-100", str(step_mm * k)])],
            FrameContentSequence=[item(FrameAcquisitionNumber=1, InStackPositionNumber=k + 1)],
        )
        for k in range(n)
    ]
    return ds


def write(path: Path, ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Write a data set as a Part 10 file; pixel data that is encapsulated stays as it is."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = UID(CT_IMAGE), UID(ROOT_UID)
    ds.file_meta.TransferSyntaxUID = syntax
    if "PixelData" in ds:
        ds["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
        ds["PixelData"].is_undefined_length = syntax.is_encapsulated
    path.parent.mkdir(parents=True, exist_ok=True)
    if not syntax.is_little_endian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()  # dcmwrite leaves OW as it is
    ds.preamble = b"\0" * 128
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are written on purpose
        dcmwrite(path, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return path
