"""SOP classes and transfer syntaxes: what the listener accepts and what the sender proposes; opens no connection."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext

VERIFICATION = UID("1.2.840.10008.1.1")

STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
"""Storage Commitment Push Model (PS3.4 J.3)."""

STORAGE_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
"""Its well-known instance (PS3.4 J.3.5)."""

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
"""Storage SOP classes this node takes (PS3.4 B.5)."""

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)

LOSSLESS = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    RLELossless,
)

LOSSY = (JPEGLSNearLossless, JPEG2000, HTJ2K)
"""Accepted, and marked as lossy in the result; JPEG Extended 12 bit is not here: nothing we may ship decodes it."""

TRANSFER_SYNTAXES = (*UNCOMPRESSED, *LOSSLESS, *LOSSY)
"""In order of preference: the first one that a proposed context contains is accepted for it.

Explicit VR Big Endian (retired) is not accepted.
"""

MAX_CONTEXTS = 128
"""PS3.8 9.3.2.2: context IDs are the odd numbers from 1 to 255."""


@dataclass(frozen=True, slots=True)
class Kind:
    """SOP class and transfer syntax of one file; what a presentation context is proposed for."""

    sop_class_uid: str
    transfer_syntax_uid: str

    @property
    def is_convertible(self) -> bool:
        """Whether the data set can be sent in the default transfer syntax instead."""
        return self.transfer_syntax_uid in UNCOMPRESSED


def accepted_contexts() -> list[PresentationContext]:
    """What the listener accepts: verification, answers to storage commitment, and the CT classes.

    The CT classes come in every transfer syntax that can be decoded. Of storage commitment the peer that opens the
    association is the provider, which it says by role selection (PS3.7 D.3.3.4).

    Returns:
        Contexts with their transfer syntaxes in order of preference.
    """
    storage = [build_context(c, list(TRANSFER_SYNTAXES)) for c in CT_CLASSES]
    commitment = build_context(STORAGE_COMMITMENT, list(UNCOMPRESSED))
    commitment.scu_role, commitment.scp_role = False, True  # as proposed: the requestor's
    return [build_context(VERIFICATION), commitment, *storage]


def proposed_contexts(kinds: Iterable[Kind]) -> list[PresentationContext]:
    """One context for each SOP class and transfer syntax, so that each file can go out as it is.

    For uncompressed data the default transfer syntax is offered as well, as every peer takes it (PS3.5 10.1).

    Args:
        kinds: Of the files to send; repetitions do not matter.

    Returns:
        At most 128 contexts; a kind that found no room is not proposed.
    """
    wanted: dict[Kind, None] = {}
    for kind in kinds:
        wanted[kind] = None
        if kind.is_convertible:
            wanted[Kind(kind.sop_class_uid, ImplicitVRLittleEndian)] = None
    return [build_context(k.sop_class_uid, k.transfer_syntax_uid) for k in list(wanted)[:MAX_CONTEXTS]]


def accepted_kinds(association: Any) -> frozenset[Kind]:
    """What the peer agreed to take.

    Args:
        association: An established pynetdicom association.

    Returns:
        SOP class and transfer syntax of every accepted context.
    """
    return frozenset(
        Kind(str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in association.accepted_contexts
    )
