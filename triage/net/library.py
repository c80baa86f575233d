"""pynetdicom's process-wide switches and what this node says of itself on the wire; opens no connection.

pynetdicom keeps its options in one module for the whole process; they are set here, in one place, whenever a listener
or a sender starts, and always to the same values.
"""

import logging
import re
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, _config

import triage

IMPLEMENTATION_CLASS_UID = "2.25.117930451857930173409263374839016225473"
"""PS3.7 D.3.3.2; the same as in the objects this node makes (a test holds them together)."""

IMPLEMENTATION_VERSION_NAME = f"ICHTRIAGE_{triage.__version__}"[:16]

UID_PATTERN = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*")
"""A UID (PS3.5 9.1), but for leading zeros, which some scanners write; what is none is refused before anything else."""

MAX_PDU_BYTES = 131072
"""Longest PDU that a peer may send to the sender."""

LOG_FLOORS = {
    "pynetdicom": logging.WARNING,
    "pynetdicom.utils": logging.ERROR,
    "pynetdicom.transport": logging.CRITICAL,
    "pynetdicom.acse": logging.CRITICAL,
}
"""Below WARNING it logs data sets; the warnings of its `utils` quote the UIDs that are wrong; what its `transport`
and `acse` say of a peer that cannot be reached or rejects us stands in our own record of the attempt."""


def prepare_library() -> None:
    """Set pynetdicom's options: data sets go from and to files unread, nothing of them is logged."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # Else every PDU is formatted for a log that nobody reads.
    _config.LOG_HANDLER_LEVEL = "none"
    # An invalid UID must reach our handler to be answered; the default drops the whole association instead.
    _config.VALIDATORS["UI"] = _any_uid
    for name, floor in LOG_FLOORS.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(floor, logger.level))


def application_entity(ae_title: str) -> Any:
    """An application entity that names this implementation.

    Args:
        ae_title: Its title.

    Returns:
        A pynetdicom AE without contexts.
    """
    ae = AE(ae_title=ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return ae


def uid_in(ds: Dataset, keyword: str) -> str:
    """Read a UID from the bytes as they came, for pydicom quotes a wrong one in a warning.

    Args:
        ds: Has it, or not.
        keyword: Of the element.

    Returns:
        The UID; empty where there is none, or what is none.
    """
    if keyword not in ds:
        return ""
    value = ds.get_item(keyword).value
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text if UID_PATTERN.fullmatch(text := text.strip(" \0")) else ""


def _any_uid(_value: object) -> tuple[bool, str]:
    return True, ""
