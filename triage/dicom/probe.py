"""The object that a check of the way to a PACS stores there: always the same one, of nobody, and of no use."""

from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from triage.dicom.equipment import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MODEL_NAME,
)

SOP_CLASS_UID = str(SecondaryCaptureImageStorage)
"""Single-frame, as the captures are."""

SOP_INSTANCE_UID = "2.25.177529248469020783825590645497465793356"
SERIES_UID = "2.25.95953252426231269698604866590603071658"
STUDY_UID = "2.25.50342482574667136864457519674463086038"
"""Constant, so that a PACS keeps one such object for good, however often it is checked."""

PATIENT_NAME, PATIENT_ID = "ICH-TRIAGE^TEST", "ICHTRIAGE-TEST"
"""Nobody's."""

DESCRIPTION = "TEST of the way to this PACS - may be deleted"

SIZE_PX = 16


def write_probe(path: Path) -> None:
    """Write the test object: a small grey Secondary Capture (PS3.3 A.8.1) with the same bytes each time.

    Args:
        path: Where to.
    """
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS_UID, SOP_INSTANCE_UID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, SERIES_UID
    ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
    ds.PatientBirthDate, ds.PatientSex = None, "O"
    ds.StudyDate, ds.StudyTime = "20000101", "000000"
    ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = None
    ds.StudyDescription = ds.SeriesDescription = ds.ImageComments = DESCRIPTION
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Laterality = ds.PatientOrientation = None
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.ContentDate, ds.ContentTime = ds.StudyDate, ds.StudyTime
    ds.BurnedInAnnotation = "NO"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = SIZE_PX
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", bytes([0x80]) * SIZE_PX * SIZE_PX)
    meta = ds.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(SOP_CLASS_UID), UID(SOP_INSTANCE_UID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.save_as(path, enforce_file_format=True)
