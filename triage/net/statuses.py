"""DIMSE statuses that this node answers, and the table of what a sender is told of each refusal."""

from triage.errors import (
    ConflictingInstance,
    InstanceError,
    MismatchedInstance,
    NoResources,
    UnreadableInstance,
    UnsupportedInstance,
)

SUCCESS = 0x0000

PROCESSING_FAILURE = 0x0110
"""PS3.7 C.5.7: any fault of ours; most senders try again."""

NO_SUCH_EVENT_TYPE = 0x0113
"""Of an N-EVENT-REPORT (PS3.7 10.1.1.1.8)."""

INVALID_ARGUMENT = 0x0115
"""Of an N-EVENT-REPORT that makes no sense or whose transaction is none of ours.

The Standard has no status of its own for an unknown transaction (PS3.4 J.3.3.3); a processing failure would have the
peer repeat what can never be taken.
"""

NOT_AUTHORISED = 0x0124
"""PS3.7 C.5.14: the caller may answer storage commitment, but not send images."""

STATUS: dict[type[InstanceError], int] = {
    UnreadableInstance: 0xC000,
    MismatchedInstance: 0xA900,
    UnsupportedInstance: 0x0122,
    ConflictingInstance: 0x0111,
    NoResources: 0xA700,
}
"""What the sender is told of each refusal (PS3.4 B.2.3, PS3.7 C)."""


def status_for(error: InstanceError) -> int:
    """The status that a sender gets.

    Args:
        error: Why an instance is refused.

    Returns:
        DIMSE status of its class or of the nearest class above it.
    """
    return next((STATUS[c] for c in type(error).__mro__ if c in STATUS), PROCESSING_FAILURE)
