"""The objects that one analysis sends back, ready to be written; built from a result, without store or network."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.activation_map import build_activation_map
from triage.dicom.capture import build_captures
from triage.dicom.equipment import NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.keyobject import build_key_object, build_rejection
from triage.dicom.presentation import build_presentation
from triage.dicom.regions import build_regions
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
    """Build every object that goes back into the study, in the order in which they are to arrive.

    A correction must not leave two truths without a link. So the report comes first, which names its predecessor; then
    what rejects the superseded pictures; then new pictures. Old pictures stand beside the new report until they are
    rejected, with the new report's link to theirs; beside new pictures they stand only where the rejection failed.

    Args:
        result: What the analysis says.
        sources: Files and pixels it rests on.
        node: Who reports, and which objects are made.

    Returns:
        The SR first; then, as asked for and where there is something to tell: the rejection, regions, key object,
        captures, presentation state and activation map. All but report and rejection for positive studies only.

    Raises:
        StudyError: There is no evidence that can be read, or a probability is none.
    """
    evidence = load_evidence(sources.evidence)
    predecessor = dcmread(sources.predecessor) if sources.predecessor is not None else None
    made: list[tuple[ObjectKind, Dataset | None]] = [
        (ObjectKind.REPORT, build_report(result, evidence, node, predecessor))]  # fmt: skip
    if node.rejects_superseded:
        made.append((ObjectKind.REJECTION, build_rejection(result, evidence, sources.superseded, node)))
    if node.regions:
        made.append((ObjectKind.REGIONS, build_regions(result, evidence, sources, node)))
    if node.key_object:
        made.append((ObjectKind.KEY_OBJECT, build_key_object(result, evidence, node)))
    if node.captures and sources.volume is not None:
        made += [(ObjectKind.CAPTURE, ds) for ds in build_captures(result, evidence, sources, node)]
    if node.presentation_state:
        made.append((ObjectKind.PRESENTATION, build_presentation(result, evidence, sources, node)))
    if node.activation_map:
        made.append((ObjectKind.ACTIVATION_MAP, build_activation_map(result, evidence, sources, node)))
    return [ResultObject(kind, ds) for kind, ds in made if ds is not None]


def describe_file(path: Path) -> tuple[str, str]:
    """Name a received object for a person.

    Args:
        path: A DICOM file.

    Returns:
        Name of its SOP class, and its series description.
    """
    ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesDescription"])
    return str(ds.SOPClassUID.name), str(ds.get("SeriesDescription", ""))
