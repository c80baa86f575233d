"""Who made a result: this node, its software and its model, written the same way into every object."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import highdicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

import triage
from triage.dicom import codes
from triage.dicom.uids import device_uid
from triage.records import ModelIdentity, Result

MANUFACTURER = "ICH-Triage Project"

MODEL_NAME = "ich-triage"

IMPLEMENTATION_CLASS_UID = "2.25.117930451857930173409263374839016225473"
"""Ours (PS3.7 D.3.3.2); the libraries' own would name them as the maker of our files."""

IMPLEMENTATION_VERSION_NAME = f"ICHTRIAGE_{triage.__version__}"[:16]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What the deployment decides about results."""

    node_name: str = "node-01"
    """Device serial number."""
    sop_class: str = "comprehensive3d"
    """Kind of SR: "comprehensive3d", "comprehensive" or "enhanced"."""
    max_key_slices: int = 5
    """Key slices captured of a positive study."""
    regions: bool = False
    """Whether a second report tells a region for each finding."""
    captures: bool = True
    """Whether positive studies get Secondary Captures."""
    capture_mode: str = "single"
    """"single": an instance a page; "multiframe": one instance of all pages."""
    key_object: bool = True
    """Whether positive studies get a Key Object Selection of the key slices."""
    presentation_state: bool = False
    activation_map: bool = False
    rejects_superseded: bool = True
    """Whether the captures and the like of an analysis are rejected by the one that supersedes it."""


@dataclass(frozen=True, slots=True)
class Times:
    """When an analysis ran, in the time zone of its objects."""

    started: datetime
    finished: datetime

    @property
    def offset(self) -> str:
        """Value of TimezoneOffsetFromUTC."""
        return self.started.strftime("%z")[:5]


def analysis_times(result: Result, source: Dataset) -> Times:
    """Say when an analysis ran.

    TimezoneOffsetFromUTC holds for every date and time of an object, the copied ones too (PS3.3 C.12.1.1.8), so a
    source that states its zone decides; else it is this computer's.

    Args:
        result: The analysis.
        source: Header of a source image.

    Returns:
        Start and end, with their zone.
    """
    zone = _zone(str(source.get("TimezoneOffsetFromUTC") or ""))
    started = datetime.fromtimestamp(result.started_at, zone)
    finished = datetime.fromtimestamp(result.started_at + result.duration_s, zone)
    if zone is None:
        started, finished = started.astimezone(), finished.astimezone()
    return Times(started, finished.astimezone(started.tzinfo))


def stamp(ds: Dataset, model: ModelIdentity, node: NodeIdentity, times: Times, source: Dataset) -> None:
    """Write equipment, times and file meta information into a finished result.

    Series, content and creation times come from the analysis, so that the same analysis makes the same bytes.

    Args:
        ds: The result; has its SOP Class and Instance UID.
        model: The model that judged.
        node: Who reports.
        times: When.
        source: Header of a source image, for the acquisition equipment.
    """
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    ds.SoftwareVersions = [triage.__version__, f"{model.name} {model.version}"[:64]]
    ds.DeviceSerialNumber = node.node_name
    # Content: when the analysis started (IHE AI Results 6.5.3)
    ds.SeriesDate = ds.ContentDate = times.started.strftime("%Y%m%d")
    ds.SeriesTime = ds.ContentTime = times.started.strftime("%H%M%S.%f")
    ds.InstanceCreationDate = times.finished.strftime("%Y%m%d")
    ds.InstanceCreationTime = times.finished.strftime("%H%M%S.%f")
    ds.TimezoneOffsetFromUTC = times.offset
    ds.ContributingEquipmentSequence = [*_acquisition(source), _processing(model, node, times)]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(ds.SOPClassUID), UID(ds.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta


def code_item(code: Code) -> Dataset:
    """A code as an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _processing(model: ModelIdentity, node: NodeIdentity, times: Times) -> Dataset:
    """The algorithm, as IHE AI Results 6.5.3 wants it; with a purpose that is in PS3.16 CID 7005."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(codes.PROCESSING_EQUIPMENT)]
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    item.SoftwareVersions = [
        triage.__version__, f"{model.name} {model.version}"[:64], f"highdicom {highdicom.__version__}"]  # fmt: skip
    item.DeviceSerialNumber = node.node_name
    item.DeviceUID = device_uid(model.sha256)
    # Without the zone, which TimezoneOffsetFromUTC states: dcmtk's checker of presentation states trips over it
    item.ContributionDateTime = times.started.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = "AI inference: detection of intracranial hemorrhage"
    return item


def _acquisition(source: Dataset) -> list[Dataset]:
    """The scanner, where it names its maker."""
    if not source.get("Manufacturer"):
        return []
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(codes.ACQUISITION_EQUIPMENT)]
    for keyword in ("Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "DeviceSerialNumber",
                    "SoftwareVersions"):  # fmt: skip
        if source.get(keyword):
            item.add(source[keyword])
    item.ContributionDescription = "Acquisition of the source images"
    return [item]


def _zone(offset: str) -> timezone | None:
    if not (match := re.fullmatch(r"([+-])(\d\d)(\d\d)", offset)):
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))
