"""Transitions of reception: associations open and close, instances come in; one transaction each.

`record_instance` is on the way to every 0x0000: one transaction of four statements, one sync.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from triage.errors import ConflictingInstance, NoResources
from triage.records import Instance, StudyState
from triage.store.db import Database, insert_row
from triage.store.schema import (
    ACCESSION_CHARACTERS,
    SeriesState,
    association,
    identity,
    instance,
    series,
    study,
)

KEEP_ASSOCIATIONS_S = 86400.0
"""Closed associations are forgotten after a day: a scanner may open one a slice, a monitor one a second."""

AE_CHARACTERS = 16
"""PS3.5 6.2, VR AE."""

TRIES = 3
"""Two associations may bring the first instances of one study at once; the second then starts again."""


STUDY_COLUMNS = (
    study.c.id.label("study_id"),
    study.c.state.label("study_state"),
    study.c.state_at.label("study_state_at"),
    study.c.first_arrival_at.label("study_first_arrival_at"),
    study.c.last_arrival_at.label("study_last_arrival_at"),
    study.c.images_deleted_at,
)
"""What `_study_receives` must know."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A received instance as it is stored."""

    id: int
    path: Path
    sha256: str
    study_id: int
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """How one instance came in."""

    sha256: str
    """Of the data set, as triage.dicom.headers.content_sha256 gives it."""
    size: int
    """Bytes of the file."""
    association: str
    """Key of the association that brought it."""
    positions_mm: tuple[float, ...]
    """Position of each slice along its normal; empty where a gap between slices means nothing."""
    now: float


def association_opened(db: Database, key: str, calling_ae: str, now: float) -> None:
    """A peer opened an association: no series that it carries is complete before it closes.

    Args:
        db: The database.
        key: Names the association.
        calling_ae: AE title of the peer.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(
            insert(association).values(key=key, calling_ae=calling_ae[:AE_CHARACTERS], opened_at=now, closed_at=None)
        )


def association_closed(db: Database, key: str, now: float) -> None:
    """An association was released, aborted or lost.

    Args:
        db: The database.
        key: Names the association.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(update(association).where(association.c.key == key).values(closed_at=now))
        connection.execute(delete(association).where(association.c.closed_at < now - KEEP_ASSOCIATIONS_S))


def close_all_associations(db: Database, now: float) -> None:
    """At the start: whatever was open died with the process that had it.

    Args:
        db: The database.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(update(association).where(association.c.closed_at.is_(None)).values(closed_at=now))


def find_instance(db: Database, sop_instance_uid: str) -> StoredInstance | None:
    """Look an instance up.

    Args:
        db: The database.
        sop_instance_uid: Its UID.

    Returns:
        What is stored under it, if anything.
    """
    with db.reading() as connection:
        row = (
            connection.execute(
                select(
                    instance.c.id,
                    instance.c.path,
                    instance.c.sha256,
                    instance.c.transfer_syntax_uid,
                    series.c.study_id,
                )
                .join_from(instance, series)
                .where(instance.c.sop_instance_uid == sop_instance_uid)
            )
            .mappings()
            .first()
        )
    if row is None:
        return None
    return StoredInstance(
        id=row["id"],
        path=db.absolute(row["path"]),
        sha256=row["sha256"],
        study_id=row["study_id"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
    )


def record_instance(db: Database, received: Instance, arrival: Arrival) -> int:
    """Commit one received instance; its series and study are receiving again from here on.

    Args:
        db: The database.
        received: Its header facts; `path` where the store keeps it. The file is removed where it is not needed:
            the very same instance came over another association at the same time, or another one with its UID.
        arrival: How it came in.

    Returns:
        Row id of its study.

    Raises:
        ConflictingInstance: The UID came in with other content, or in another study, since the caller looked.
        NoResources: The database is locked, or the file was deleted meanwhile: the sender tries again.
    """
    for _ in range(TRIES):
        try:
            with db.writing() as connection:
                return _record(db, connection, received, arrival)
        except IntegrityError:
            known = find_instance(db, received.sop_instance_uid)
        if known is not None:
            return _resolve(db, known, received, arrival)
    raise NoResources("the database refuses this instance")


def _resolve(db: Database, known: StoredInstance, received: Instance, arrival: Arrival) -> int:
    """Another association was faster: the same instance is fine, another one under its UID is not."""
    if known.path != received.path:
        received.path.unlink(missing_ok=True)
    with db.reading() as connection:
        study_uid = connection.execute(
            select(identity.c.study_uid).where(identity.c.study_id == known.study_id)
        ).scalar_one()
    if known.sha256 == arrival.sha256 and study_uid == received.study_uid:
        return known.study_id
    raise ConflictingInstance("this SOP Instance UID is stored with other content; the first one is kept")


def _record(db: Database, connection: Connection, received: Instance, arrival: Arrival) -> int:
    row = _row(
        connection,
        select(*STUDY_COLUMNS, series.c.id, series.c.state, series.c.last_arrival_at, series.c.longest_pause_s)
        .select_from(series.join(study).join(identity, identity.c.study_id == study.c.id))
        .where(series.c.series_uid == received.series_uid, identity.c.study_uid == received.study_uid),
    )
    if row is not None:
        study_id, series_id = row["study_id"], row["id"]
        _series_receives(connection, row, arrival.now)
        _study_receives(connection, row, arrival.now)
    else:
        study_id = _study_of_new_series(connection, received, arrival.now)
        series_id = _new_series(connection, study_id, received, arrival)
    if not received.path.exists():  # retention renames folders within such a transaction: seen here or not at all
        raise NoResources("the file was deleted before it was recorded")
    # Frames of one file come together: only between single-frame instances can one be missing.
    positions = list(arrival.positions_mm) if len(received.slices) == 1 else []
    connection.execute(
        insert(instance).values(
            series_id=series_id,
            sop_instance_uid=received.sop_instance_uid,
            sop_class_uid=received.sop_class_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
            path=db.relative(received.path),
            sha256=arrival.sha256,
            size=arrival.size,
            received_at=arrival.now,
            association=arrival.association,
            positions_mm=positions,
            instance_numbers=[s.instance_number for s in received.slices] if positions else [],
        )
    )
    return int(study_id)


def _row(connection: Connection, query: Select[Any]) -> RowMapping | None:
    return connection.execute(query.with_for_update()).mappings().first()


def _series_receives(connection: Connection, row: RowMapping, now: float) -> None:
    """Another instance of a known series. Threads commit out of order: time must not run backwards here."""
    is_late = row["state"] == SeriesState.COMPLETE
    values = {
        "last_arrival_at": max(row["last_arrival_at"], now),
        "longest_pause_s": 0.0 if is_late else max(row["longest_pause_s"], now - row["last_arrival_at"]),
    }
    if is_late:
        values |= {"state": SeriesState.RECEIVING, "state_at": now}
    connection.execute(update(series).where(series.c.id == row["id"]).values(values))


def _study_receives(connection: Connection, row: RowMapping, now: float) -> None:
    """Another instance of a known study, whatever its state; one whose images were deleted arrives anew."""
    was_receiving = row["study_state"] == StudyState.RECEIVING
    is_new = row["images_deleted_at"] is not None
    connection.execute(
        update(study)
        .where(study.c.id == row["study_id"])
        .values(
            state=StudyState.RECEIVING,
            state_at=row["study_state_at"] if was_receiving else now,
            first_arrival_at=now if is_new else row["study_first_arrival_at"],
            last_arrival_at=max(row["study_last_arrival_at"], now),
            images_deleted_at=None,
        )
    )


def _study_of_new_series(connection: Connection, received: Instance, now: float) -> int:
    query = select(*STUDY_COLUMNS).join_from(study, identity).where(identity.c.study_uid == received.study_uid)
    row = _row(connection, query)
    if row is None:
        return _new_study(connection, received, now)
    _study_receives(connection, row, now)
    return int(row["study_id"])


def _new_study(connection: Connection, received: Instance, now: float) -> int:
    study_id = insert_row(
        connection,
        study,
        state=StudyState.RECEIVING,
        state_at=now,
        first_arrival_at=now,
        last_arrival_at=now,
        attempts=0,
        forced=False,
    )
    connection.execute(
        insert(identity).values(
            study_id=study_id,
            study_uid=received.study_uid,
            accession_number=_text(received.accession_number)[:ACCESSION_CHARACTERS],
        )
    )
    return study_id


def _new_series(connection: Connection, study_id: int, received: Instance, arrival: Arrival) -> int:
    calling_ae = connection.execute(
        select(association.c.calling_ae).where(association.c.key == arrival.association)
    ).scalar()
    return insert_row(
        connection,
        series,
        study_id=study_id,
        series_uid=received.series_uid,
        series_number=received.series_number,
        description=_text(received.series_description),
        modality=_text(received.modality),
        calling_ae=calling_ae or "",
        state=SeriesState.RECEIVING,
        state_at=arrival.now,
        first_arrival_at=arrival.now,
        last_arrival_at=arrival.now,
        longest_pause_s=0.0,
    )


def _text(text: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
