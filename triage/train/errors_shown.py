"""The worst answers of a trial as pictures: keeps a few of each kind while slices go by; judges nothing."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from triage.records import ANY, FloatArray
from triage.train.pictures import grey

MOST = 6
"""Pictures of each source and kind of error."""

MISSED, FALSE = "missed", "false alarm"


@dataclass(frozen=True, slots=True)
class ErrorShown:
    """One slice and what was said of it."""

    source: str
    """The trial it belongs to."""
    name: str
    truth: tuple[str, ...]
    """Subtypes it shows."""
    p: dict[str, float]
    """By label."""
    note: str = ""

    @property
    def kind(self) -> str:
        """MISSED where it bleeds, else FALSE."""
        return MISSED if self.truth else FALSE

    @property
    def severity(self) -> float:
        """How wrong P(any) is, 0 to 1."""
        return 1 - self.p[ANY] if self.truth else self.p[ANY]

    @property
    def study(self) -> str:
        """What its name says before the slice; of each study only the worst slice is kept."""
        return self.name.split(", slice")[0]


@dataclass(slots=True)
class Errors:
    """The worst so far; grows and is pruned as slices are added."""

    kept: dict[tuple[str, str], list[tuple[ErrorShown, npt.NDArray[np.uint8]]]] = field(default_factory=dict)
    """By source and kind, the worst first."""

    def add(self, one: ErrorShown, hu: FloatArray) -> None:
        """Keep a slice if it is among the worst.

        Args:
            one: What was said of it.
            hu: (rows, columns)
        """
        if one.severity < 0.5:
            return
        kept = self.kept.setdefault((one.source, one.kind), [])
        same = next((k for k, (other, _) in enumerate(kept) if other.study == one.study), None)
        if same is not None:
            if kept[same][0].severity >= one.severity:
                return
            del kept[same]
        if len(kept) == MOST and kept[-1][0].severity >= one.severity:
            return
        kept.append((one, grey(np.rint(hu).astype(np.int16))))
        kept.sort(key=lambda pair: -pair[0].severity)
        del kept[MOST:]

    def all(self) -> list[tuple[ErrorShown, npt.NDArray[np.uint8]]]:
        """Everything kept, by source and kind."""
        return [pair for pairs in self.kept.values() for pair in pairs]
