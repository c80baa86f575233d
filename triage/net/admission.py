"""Who may open an association, and the log of those who may not; counts nothing and answers nobody itself."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from triage.config import Node, Reception

log = logging.getLogger(__name__)

Rejection = tuple[int, int, int]
"""Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

CALLING_NOT_RECOGNIZED: Rejection = (1, 1, 3)
CALLED_NOT_RECOGNIZED: Rejection = (1, 1, 7)

TEMPORARY_CONGESTION: Rejection = (2, 3, 1)
"""Result 2 is transient: the sender may try again."""

LOCAL_LIMIT_EXCEEDED: Rejection = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association, by its own word but for the address."""

    calling_ae: str
    called_ae: str
    peer: str
    """IP address."""


def caller_of(association: Any) -> Caller:
    """Who asks.

    Args:
        association: A pynetdicom association whose request has arrived.

    Returns:
        The caller, fit for comparing and logging.
    """
    request = association.requestor.primitive
    return Caller(_shown(request.calling_ae_title), _shown(request.called_ae_title), association.requestor.address)


def objection(
    caller: Caller, node: Node, reception: Reception, commitment_aets: Collection[str] = ()
) -> Rejection | None:
    """What the configuration has against a caller.

    Args:
        caller: Who asks.
        node: Its AE title is always called by peers that answer storage commitment, by others where
            reception.called_aets is empty.
        reception: The lists of AE titles.
        commitment_aets: Peers that may always call to answer storage commitment.

    Returns:
        The rejection, or None.
    """
    is_answering = caller.calling_ae in commitment_aets
    called_aets = reception.called_aets or (node.ae_title,)
    if caller.called_ae not in called_aets and not (is_answering and caller.called_ae == node.ae_title):
        return CALLED_NOT_RECOGNIZED
    if not (may_store(caller, reception) or is_answering):
        return CALLING_NOT_RECOGNIZED
    return None


def may_store(caller: Caller, reception: Reception) -> bool:
    """Whether a caller may send images.

    Args:
        caller: Who asks.
        reception: The list of AE titles; an empty one admits anyone.

    Returns:
        Whether its C-STORE is taken.
    """
    return not reception.calling_aets or caller.calling_ae in reception.calling_aets


def log_rejection(association: Any) -> None:
    """Log who was rejected and why, which pynetdicom does not.

    Args:
        association: A pynetdicom association that has been rejected.
    """
    caller, answer = caller_of(association), association.acceptor.primitive
    log.warning(
        "association_rejected calling=%r called=%r peer=%s result=%r reason=%r",
        *(caller.calling_ae, caller.called_ae, caller.peer, answer.result_str, answer.reason_str),
    )


def _shown(ae_title: Any) -> str:
    """Without padding (PS3.5 6.2) and control characters."""
    return "".join(c for c in str(ae_title) if c.isprintable()).strip()
