"""One received file: header -> checks -> durable file -> committed row; what it raises becomes the sender's status.

Nothing is acknowledged before the bytes are synced and the row is committed; both are done when `receive` returns.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from triage.dicom.geometry import projection_mm
from triage.dicom.headers import check_ct_image, content_sha256, read_instance, same_content
from triage.errors import ConflictingInstance, MismatchedInstance, NoResources
from triage.net.scp import Received
from triage.records import Instance
from triage.store import reception
from triage.store.db import Database
from triage.store.files import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where received instances go."""

    db: Database
    store: Store
    disk_reserve_bytes: int
    is_stopping: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time


def receive(receiver: Receiver, received: Received) -> None:
    """Keep one received instance durably.

    Args:
        receiver: Store and database.
        received: A complete Part 10 file in the spool.

    Raises:
        NoResources: The node is stopping, the disk is nearly full or the database is locked.
        UnreadableInstance: No DICOM data set, or a mandatory UID is missing or invalid.
        MismatchedInstance: The data set names another SOP class or instance than the command, or is no image.
        ConflictingInstance: The SOP Instance UID is known with other content.
    """
    if receiver.is_stopping():
        raise NoResources("the node is stopping")
    free = receiver.store.free_bytes()
    if free < receiver.disk_reserve_bytes:
        raise NoResources(
            f"{free >> 20} MiB free, below reception.disk_reserve_mb = {receiver.disk_reserve_bytes >> 20}"
        )
    instance = read_instance(received.path)
    if (instance.sop_class_uid, instance.sop_instance_uid) != (received.sop_class_uid, received.sop_instance_uid):
        raise MismatchedInstance("SOP Class or Instance UID of the data set differs from the command's")
    check_ct_image(instance)
    sha256 = content_sha256(received.path)
    if _is_known(receiver, received.path, instance, sha256):
        return
    size = received.path.stat().st_size
    path = receiver.store.keep_instance(received.path, instance.study_uid, instance.sop_instance_uid)
    arrival = reception.Arrival(
        sha256=sha256,
        size=size,
        association=received.association,
        positions_mm=_positions(instance),
        now=receiver.clock(),
    )
    study_id = reception.record_instance(receiver.db, replace(instance, path=path), arrival)
    log.debug("instance_stored study=%d bytes=%d", study_id, size)


def _is_known(receiver: Receiver, path: Path, instance: Instance, sha256: str) -> bool:
    """Whether the very same instance is stored already.

    Raises:
        ConflictingInstance: Something else is stored under its UID.
    """
    known = reception.find_instance(receiver.db, instance.sop_instance_uid)
    if known is None:
        return False
    if known.sha256 == sha256 or (known.path.exists() and same_content(known.path, path)):
        log.info("duplicate_ignored study=%d", known.study_id)
        return True
    log.warning("conflict_refused study=%d", known.study_id)
    raise ConflictingInstance("this SOP Instance UID is stored with other content; the first one is kept")


def _positions(instance: Instance) -> tuple[float, ...]:
    """Positions along the normal that a gap in the series shows up in; none for localizers and non-axial images."""
    if "LOCALIZER" in instance.image_type:
        return ()
    return tuple(p for p in map(projection_mm, instance.slices) if p is not None)
