"""Frozen records that cross stages; no behaviour beyond what follows from their own fields.

Conventions: millimetres and degrees in the DICOM patient coordinate system (PS3.3 C.7.6.2.1.1), Hounsfield units,
probabilities in 0..1, times as seconds since the epoch (UTC) in fields that end in `_at`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

ANY = "any"
"""Label of the study- or slice-level finding "an intracranial hemorrhage of any kind"."""

SUBTYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""The five subtype labels, in the order of the heads (RSNA 2019's alphabetical order)."""

LABELS = (ANY, *SUBTYPES)

HU_MIN, HU_MAX = -1024.0, 3071.0
"""Range every HU array is clipped to: air outside the field of view, 12-bit maximum."""

FloatArray = npt.NDArray[np.float32]


class StudyState(StrEnum):
    """Where a study stands; stored in the database."""

    RECEIVING = "receiving"
    """Instances are still arriving, or may be."""
    READY = "ready"
    """Complete; waits for the worker."""
    ANALYSING = "analysing"
    ANALYSED = "analysed"
    NOT_ANALYSED = "not analysed"
    """Ended without a judgement; the reason is stored."""


class Outcome(StrEnum):
    """What an analysis says about a study."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NOT_ANALYSED = "not analysed"


class Priority(StrEnum):
    """Priority class; it only ever raises a study above its place by arrival."""

    URGENT = "urgent"
    REVIEW = "review"
    ROUTINE = "routine"


class DeliveryState(StrEnum):
    """Where one object stands on its way to one destination."""

    QUEUED = "queued"
    """Waiting for its first attempt, or for a new one that a person asked for."""
    SENT = "sent"
    """On its way: no answer is recorded yet. Whatever a stopped process left so is sent again."""
    ACCEPTED = "accepted"
    """The destination answered that it has it: C-STORE success or warning, HL7 AA, HTTP 2xx, SMTP 250."""
    COMMITTED = "committed"
    """The destination has answered storage commitment: it is safely stored (PS3.4 J)."""
    FAILED = "failed"
    """The last attempt failed, or commitment was refused; sent again at its time."""
    GIVEN_UP = "given up"
    """Tried until the time limit; `triage resend` starts again."""


UNDER_WAY = (DeliveryState.QUEUED, DeliveryState.SENT, DeliveryState.FAILED)
"""States of a delivery that is still to arrive."""


class ObjectKind(StrEnum):
    """What an outgoing object is; destinations choose by it."""

    REPORT = "report"
    """The Structured Report."""
    REGIONS = "regions"
    """A second Structured Report, with the regions that the networks looked at."""
    CAPTURE = "capture"
    """Secondary Capture, single- or multi-frame."""
    KEY_OBJECT = "key_object"
    """Key Object Selection "Of Interest"."""
    PRESENTATION = "presentation"
    """Grayscale Softcopy Presentation State."""
    ACTIVATION_MAP = "activation_map"
    """Parametric Map of the activation."""
    REJECTION = "rejection"
    """Key Object Selection "Rejected for Quality Reasons" for what a later analysis supersedes."""
    MESSAGE = "message"
    """No DICOM object: a message for one output, such as HL7 or FHIR."""


class SendOutcome(StrEnum):
    """How one attempt to send one object ended."""

    ACCEPTED = "accepted"
    """The peer has it: success, or a warning that says it is stored (PS3.4 B.2.3)."""
    REFUSED = "refused"
    """The peer answered: association rejected, context not accepted, or a failure status."""
    UNREACHABLE = "unreachable"
    """No connection, no answer in time, or the line was cut."""
    UNSUPPORTED = "unsupported"
    """The peer does not offer the service at all; of storage commitment only."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One image plane: a single-frame CT instance, or one frame of an Enhanced CT instance."""

    sop_instance_uid: str
    frame: int = 1
    """Frame number from 1; always 1 for a single-frame instance."""
    position_mm: tuple[float, float, float] | None = None
    """ImagePositionPatient: centre of the first pixel."""
    orientation: tuple[float, float, float, float, float, float] | None = None
    """ImageOrientationPatient: direction cosines of the row (increasing column) and of the column (increasing row)."""
    spacing_mm: tuple[float, float] | None = None
    """PixelSpacing: between rows, between columns."""
    thickness_mm: float | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    has_rescale: bool = False
    """RescaleSlope and RescaleIntercept are both there."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Header facts of one received file: all that selection, grouping and completion need; no pixels, no patient."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    image_type: tuple[str, ...] = ()
    scan_options: str = ""
    """Values joined by a backslash."""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    body_part: str = ""
    contrast_agent: str = ""
    kernel: str = ""
    """First value of ConvolutionKernel."""
    manufacturer: str = ""
    series_number: int | None = None
    accession_number: str = ""
    rows: int = 0
    columns: int = 0
    has_pixels: bool = False
    """A PixelData element is there (its content is not looked at)."""
    lossy: bool = False
    """LossyImageCompression is 01, or the transfer syntax is a lossy one."""
    slices: tuple[Slice, ...] = ()
    """One for a single-frame image, one a frame for Enhanced CT, at least one for every instance with Rows."""
    rescale_type: str = ""
    """RescaleType (PS3.3 C.11.1.1.2); empty, HU and US (unspecified) may be Hounsfield units."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A slice or instance that takes no part in the analysis, and why."""

    sop_instance_uid: str
    frame: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stack:
    """The slices of one series ordered along the slice normal, caudal to cranial, with what geometry says of them."""

    slices: tuple[Slice, ...]
    positions_mm: tuple[float, ...]
    """Projection of each slice's position on the normal, ascending."""
    normal: tuple[float, float, float]
    """Unit normal of the slices, pointing cranially (positive z)."""
    spacing_mm: float
    """Median distance between neighbours."""
    coverage_mm: float
    tilt_deg: float
    """Angle between the normal and the line from the first slice's origin to the last one's: the gantry tilt."""
    axial_deg: float
    """Angle between the normal and the patient's z axis."""
    duplicates: tuple[Slice, ...] = ()
    """Slices left out because another one lies at the same position."""
    missing: int = 0
    """Slices missing by position and InstanceNumber."""
    irregular: int = 0
    """Steps that differ from the median, missing or not."""


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """Why a series of a study was or was not chosen for analysis."""

    series_uid: str
    chosen: bool
    reasons: tuple[str, ...]
    """For a series not chosen: every rule it failed, or "ranked below ..."; for the chosen one: what spoke for it."""
    n_instances: int
    series_number: int | None = None
    description: str = ""
    score: float | None = None
    """Rank score of a usable series; None for a rejected one."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The series to analyse, if any, with a verdict on every series of the study."""

    series_uid: str | None
    instances: tuple[Instance, ...]
    """Instances of the chosen series."""
    stack: Stack | None
    verdicts: tuple[SeriesVerdict, ...]

    @property
    def reason(self) -> str:
        """One line that says why nothing was chosen; empty when something was."""
        if self.series_uid is not None:
            return ""
        if not self.verdicts:
            return "no series received"
        parts = [
            f"series {v.series_number if v.series_number is not None else '?'}: {'; '.join(v.reasons)}"
            for v in self.verdicts
        ]
        return "no usable series: " + " | ".join(parts)


@dataclass(frozen=True, slots=True)
class Volume:
    """One series as Hounsfield units, ordered caudal to cranial."""

    hu: FloatArray
    """(n, rows, columns), clipped to HU_MIN..HU_MAX."""
    slices: tuple[Slice, ...]
    """The n slices of `hu`, same order."""
    positions_mm: tuple[float, ...]
    """Projection of each slice on the normal, ascending; all 0 when geometry is unknown."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    thickness_mm: float
    tilt_deg: float = 0.0
    set_aside: tuple[SetAside, ...] = ()
    repairs: tuple[str, ...] = ()
    """Vendor faults mended on the way to HU, such as "wrap12"; each at most once."""
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One label judged at study level."""

    label: str
    """One of LABELS."""
    p: float
    """Calibrated study probability."""
    threshold: float
    present: bool
    key_slices: tuple[int, ...]
    """Indices into the volume's slices, highest slice probability first; empty when absent."""


@dataclass(frozen=True, slots=True)
class ActivationMap:
    """Where in one slice a network looked for one label: its class activation map (Zhou 2016, arXiv 1512.04150)."""

    label: str
    """One of LABELS."""
    index: int
    """Of the slice, into the volume's."""
    values: FloatArray
    """(rows, columns) of the slice, brought to the slice's own pixels: what each place speaks for the label, either its
    contribution to the logit without the bias or, of a network that judges places, how likely the label is there, not
    calibrated; 0 where the network does not see the slice."""


@dataclass(frozen=True, slots=True)
class SliceScore:
    """Calibrated probabilities of one slice."""

    sop_instance_uid: str
    frame: int
    p: dict[str, float]
    """By label: "any" always, the subtypes where the subtype model ran."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model pack judged."""

    name: str
    version: str
    sha256: str
    """Of the pack: over the card and every file it names."""
    intended_use: str
    """"demonstration" or "site-validated"; the former is stamped on every output."""
    architecture: str

    @property
    def is_demonstration(self) -> bool:
        """Whether every output must say DEMONSTRATION."""
        return self.intended_use != "site-validated"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the networks say of one volume."""

    priority: Priority
    outcome: Outcome
    """POSITIVE or NEGATIVE."""
    findings: tuple[Finding, ...]
    """"any" first; then the five subtypes when the binary model was positive, else nothing more."""
    slice_scores: tuple[SliceScore, ...]
    """One a slice of the volume, same order (slices averaged together share their scores)."""
    device: str
    """Where it ran: "cpu", or "cuda:0 (NAME)"."""
    model: ModelIdentity
    activations: tuple[ActivationMap, ...] = ()
    """Of every present finding on each of its key slices; empty where the networks' kind has no such map."""


@dataclass(frozen=True, slots=True)
class Result:
    """Everything one analysis of one study says; the source of the SR, the captures and the worklist."""

    study_uid: str
    outcome: Outcome
    priority: Priority
    reason: str
    """Why the study was not analysed; empty when it was."""
    model: ModelIdentity
    started_at: float
    duration_s: float
    verdicts: tuple[SeriesVerdict, ...] = ()
    series_uid: str | None = None
    findings: tuple[Finding, ...] = ()
    slice_scores: tuple[SliceScore, ...] = ()
    device: str = ""
    n_slices: int = 0
    tilt_deg: float = 0.0
    spacing_mm: float = 0.0
    missing: int = 0
    set_aside: tuple[SetAside, ...] = ()
    repairs: tuple[str, ...] = ()
    lossy: bool = False
    run: int = 1
    """Number of this analysis of the study, from 1; later runs supersede earlier ones. 0: made without a node."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Every threshold that was applied, by name: "urgent", "review" and the subtype labels."""

    def finding(self, label: str) -> Finding | None:
        """The finding with that label, or None where it was not judged."""
        return next((f for f in self.findings if f.label == label), None)


@dataclass(frozen=True, slots=True)
class SendReport:
    """How the attempt to send one object ended."""

    sop_instance_uid: str
    outcome: SendOutcome
    status: int | None = None
    """DIMSE status, where the peer gave one."""
    detail: str = ""
    """One line for a person; no patient."""
    was_tried: bool = True
    """False for an object that had no turn, because the association was lost at an earlier one."""
