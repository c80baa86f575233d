"""The objects that one analysis sends back, ready to be written; built from a result, without store or network."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.capture import build_captures
from triage.dicom.equipment import NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.report import build_report
from triage.dicom.sources import Sources
from triage.records import ObjectKind, Result


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One finished composite instance."""

    kind: ObjectKind
    dataset: Dataset

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID of the instance."""
        return str(self.dataset.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the instance."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def series_uid(self) -> str:
        """Series Instance UID of the instance."""
        return str(self.dataset.SeriesInstanceUID)

    def write(self, file: BinaryIO) -> None:
        """Write the instance as a DICOM Part 10 file (PS3.10 7.1)."""
        dcmwrite(file, self.dataset, enforce_file_format=True)


def build_objects(result: Result, sources: Sources, node: NodeIdentity) -> list[ResultObject]:
    """Build every object that goes back into the study.

    Args:
        result: What the analysis says.
        sources: Files and pixels it rests on.
        node: Who reports, and which objects are made.

    Returns:
        The SR first; for a positive study the summary capture and the key slices follow.
    """
    evidence = load_evidence(sources.evidence)
    predecessor = dcmread(sources.predecessor) if sources.predecessor is not None else None
    objects = [ResultObject(ObjectKind.REPORT, build_report(result, evidence, node, predecessor))]
    if node.captures and sources.volume is not None:
        captures = build_captures(result, evidence, sources.volume, node)
        objects += [ResultObject(ObjectKind.CAPTURE, ds) for ds in captures]
    return objects


def describe_file(path: Path) -> tuple[str, str]:
    """Name a received object for a person.

    Args:
        path: A DICOM file.

    Returns:
        Name of its SOP class, and its series description.
    """
    ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesDescription"])
    return str(ds.SOPClassUID.name), str(ds.get("SeriesDescription", ""))
