"""Deletes images of old studies and all that was made of them but reports, and files that no row names; rows stay."""

import math
from pathlib import Path

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update

from triage.records import UNDER_WAY, ObjectKind, StudyState
from triage.store.db import Database
from triage.store.files import Store
from triage.store.schema import analysis, delivery, identity, instance, result_object, series, study

ENDED = (StudyState.ANALYSED, StudyState.NOT_ANALYSED)


def delete_expired_images(db: Database, store: Store, before: float, now: float) -> int:
    """Delete the images of the studies that have ended, that nothing has arrived for and that are delivered.

    A study's folder is moved away, and what was made of it deleted, within the transaction that forgets its instances:
    after a kill the next call finishes what was begun, and nothing is queued again whose file goes. An instance that
    comes in at this moment is either recorded before, and the study is not old any more, or finds its file gone and is
    refused: its sender tries again.

    Args:
        db: The database.
        store: Has the files.
        before: Studies whose last arrival was before this time, in seconds since the epoch.
        now: Seconds since the epoch.

    Returns:
        How many studies lost their images.
    """
    store.empty_trash()
    with db.reading() as connection:
        ids = list(connection.execute(select(study.c.id).where(_expired(before)).order_by(study.c.id)).scalars())
    deleted = sum(_delete_images(db, store, study_id, before, now) for study_id in ids)
    store.empty_trash()
    return deleted


def _expired(before: float) -> ColumnElement[bool]:
    """Whether a study's images may go; a delivery that nobody has tried for so long (no such destination) is no bar."""
    waiting = exists().where(
        analysis.c.study_id == study.c.id,
        result_object.c.analysis_id == analysis.c.id,
        delivery.c.object_id == result_object.c.id,
        or_(
            and_(delivery.c.state.in_(UNDER_WAY), delivery.c.next_attempt_at >= before),
            delivery.c.commit_due_at >= before,  # accepted; may yet have to be sent again
        ),
    )
    return and_(
        study.c.images_deleted_at.is_(None), study.c.state.in_(ENDED), study.c.last_arrival_at < before, ~waiting
    )


def _delete_images(db: Database, store: Store, study_id: int, before: float, now: float) -> bool:
    with db.writing() as connection:
        study_uid = connection.execute(
            select(identity.c.study_uid)
            .join_from(identity, study)
            .where(study.c.id == study_id, _expired(before))
            .with_for_update()
        ).scalar()
        if study_uid is None:
            return False
        store.discard_study_images(study_uid)
        of_study = select(series.c.id).where(series.c.study_id == study_id)
        connection.execute(delete(instance).where(instance.c.series_id.in_(of_study)))
        connection.execute(update(study).where(study.c.id == study_id).values(images_deleted_at=now))
        pictures_and_messages = connection.execute(
            select(result_object.c.path)
            .join_from(result_object, analysis)
            .where(analysis.c.study_id == study_id, result_object.c.kind != ObjectKind.REPORT)
        ).scalars()
        for path in pictures_and_messages:  # a report stays: a later one names it as its predecessor
            db.absolute(path).unlink(missing_ok=True)
    return True


def _last_written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its study's images were deleted this moment
        return math.inf


def delete_orphans(db: Database, store: Store, before: float) -> int:
    """Delete received files that no row names: their transaction failed, or the process was killed before it.

    They were never acknowledged, so their sender still has them.

    Args:
        db: The database.
        store: Has the files.
        before: Files last written before this time, in seconds since the epoch; well before any running transaction.

    Returns:
        How many files were deleted.
    """
    old = [p for p in store.instances.rglob("*.dcm") if _last_written(p) < before]
    with db.reading() as connection:
        named = set(connection.execute(select(instance.c.path)).scalars())
    orphans = [p for p in old if db.relative(p) not in named]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)
