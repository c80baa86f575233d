"""What the objects of one analysis refer to and show; reads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triage.records import ActivationMap, Volume


@dataclass(frozen=True, slots=True)
class SentObject:
    """An object of an earlier analysis, by its UIDs: its file may be gone."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """When the images came in; seconds since the epoch."""

    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Sources:
    """What the objects refer to and show."""

    evidence: Sequence[Path]
    """Files of the slices analysed, or of the whole study where nothing was analysed."""
    volume: Volume | None
    """None where nothing was analysed."""
    predecessor: Path | None = None
    """SR of the analysis that this one supersedes."""
    activations: tuple[ActivationMap, ...] = ()
    superseded: tuple[SentObject, ...] = ()
    """Objects other than reports of superseded analyses that nothing has rejected yet."""
    arrival: Arrival | None = None
    """None where images did not come over the network."""
