"""Which destination gets which object; pure, so that a first delivery and a resend cannot differ."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from triage.config import Destination
from triage.records import ObjectKind, Outcome
from triage.store.steps import LINKED


@dataclass(frozen=True, slots=True)
class Situation:
    """What an object comes with."""

    outcome: Outcome
    """Of its analysis."""
    sent_before: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Destination -> kinds of objects that it was sent of the analyses superseded by this one."""
    kinds: frozenset[str] = frozenset()
    """Of every object of its analysis."""


def destinations_of(kind: str, situation: Situation, destinations: Iterable[Destination]) -> tuple[str, ...]:
    """Choose the DICOM destinations of one object.

    As they are configured, but for corrections: whoever has the report of a superseded analysis gets the one that
    names it as its predecessor, whoever has other objects of it gets their rejection, or the report where there is no
    rejection. Nobody is left with an earlier truth alone.

    Args:
        kind: One of ObjectKind.
        situation: What it comes with.
        destinations: Those configured.

    Returns:
        Their names.
    """
    return tuple(d.name for d in destinations if _gets(d, kind, situation))


def _gets(destination: Destination, kind: str, situation: Situation) -> bool:
    before = situation.sent_before.get(destination.name, frozenset())
    has_unlinked = not before <= set(LINKED)
    if kind == ObjectKind.REJECTION:
        return has_unlinked
    if kind == ObjectKind.REPORT and ObjectKind.REPORT in before:
        return True
    if kind == ObjectKind.REPORT and has_unlinked and ObjectKind.REJECTION not in situation.kinds:
        return True
    return kind in destination.objects and (not destination.only_positive or situation.outcome is Outcome.POSITIVE)
