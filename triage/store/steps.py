"""Parts of the analysis transitions, each within its caller's transaction; opens none and changes no study."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, exists, func, or_, select, update

from triage.records import ANY, DeliveryState, ObjectKind, Result, SeriesVerdict
from triage.store.db import Database, insert_row
from triage.store.schema import analysis, delivery, instance, result_object, series

LINKED = (ObjectKind.REPORT, ObjectKind.MESSAGE, ObjectKind.REJECTION)
"""Kinds that a later analysis does not reject: its report names the former, its messages replace the former's."""


STANDS = or_(analysis.c.superseded_by.is_(None), result_object.c.kind == ObjectKind.REJECTION)
"""Whether an object is still to reach its destinations: what no later analysis has superseded, and every rejection,
for what it rejects stays rejected."""


@dataclass(frozen=True, slots=True)
class EarlierObject:
    """An object of an analysis that is, or is about to be, superseded."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    """Empty where it was not stored yet."""
    path: Path


@dataclass(frozen=True, slots=True)
class PreviousAnalysis:
    """The newest finished analysis of a study, which the next one will supersede."""

    analysis_id: int
    run: int
    result_json: dict[str, Any]
    """Its Result."""
    report_path: Path | None
    """The study's newest SR that a destination has or may yet get; else its newest one."""
    instance_uids: tuple[str, ...]
    """What it had chosen."""
    unrejected: tuple[EarlierObject, ...]
    """Objects, of this and earlier analyses, that the next one makes untrue, and that nothing has rejected yet; a
    rejection that was given up somewhere has rejected nothing."""


def open_analysis(connection: Connection, study_id: int, now: float) -> tuple[int, int]:
    """Find the study's unfinished analysis, or begin one under the next run number.

    Args:
        connection: In a transaction that writes.
        study_id: The study.
        now: Seconds since the epoch.

    Returns:
        Row id and run number.
    """
    row = connection.execute(
        select(analysis.c.id, analysis.c.run).where(analysis.c.study_id == study_id, analysis.c.finished_at.is_(None))
    ).first()
    if row is not None:
        return row.id, row.run
    last = connection.execute(select(func.max(analysis.c.run)).where(analysis.c.study_id == study_id)).scalar()
    run = (last or 0) + 1
    values = {"fault": "", "reason": "", "demonstration": False, "instance_uids": []}
    return insert_row(connection, analysis, study_id=study_id, run=run, claimed_at=now, **values), run


def previous_analysis(db: Database, connection: Connection, study_id: int) -> PreviousAnalysis | None:
    """Find what the next analysis of a study will supersede.

    Args:
        db: Makes stored paths absolute.
        connection: In a transaction.
        study_id: The study.

    Returns:
        The newest finished analysis; its report is the newest one there is, also where that analysis itself has none,
        or where it was given up: whoever lacks it must find what came before it named.
    """
    row = connection.execute(
        select(analysis)
        .where(analysis.c.study_id == study_id, analysis.c.finished_at.is_not(None))
        .order_by(analysis.c.run.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    report = connection.execute(
        select(result_object.c.path)
        .join_from(result_object, analysis)
        .where(analysis.c.study_id == study_id, result_object.c.kind == ObjectKind.REPORT)
        .order_by(case((_has_delivery(delivery.c.state != DeliveryState.GIVEN_UP), 0), else_=1), analysis.c.run.desc())
        .limit(1)
    ).scalar()
    return PreviousAnalysis(
        analysis_id=row.id,
        run=row.run,
        result_json=row.result,
        report_path=None if report is None else db.absolute(report),
        instance_uids=tuple(row.instance_uids),
        unrejected=_unrejected(db, connection, study_id),
    )


def _has_delivery(which: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether an object of the query has such a delivery."""
    return exists().where(delivery.c.object_id == result_object.c.id, which)


def _unrejected(db: Database, connection: Connection, study_id: int) -> tuple[EarlierObject, ...]:
    is_lost = _has_delivery(delivery.c.state == DeliveryState.GIVEN_UP).label("is_lost")
    objects = connection.execute(
        select(result_object, analysis.c.run, is_lost)
        .join_from(result_object, analysis)
        .where(analysis.c.study_id == study_id, analysis.c.finished_at.is_not(None))
        .order_by(result_object.c.id)
    ).all()
    rejections = [o.run for o in objects if o.kind == ObjectKind.REJECTION and not o.is_lost]
    last = max(rejections, default=0)  # it rejected what was before it
    return tuple(
        EarlierObject(o.sop_class_uid, o.sop_instance_uid, o.series_uid, db.absolute(o.path))
        for o in objects
        if o.kind not in LINKED and o.run >= last
    )


def hasten_superseded(connection: Connection, study_id: int, run: int, now: float) -> None:
    """Have what waits for another attempt go before what supersedes it, and not when its long pause is over.

    Their attempts count from here together; an earlier one that makes the peer cut the line is then overtaken as any.

    Args:
        connection: In a transaction that writes.
        study_id: The study.
        run: Of the analysis that supersedes.
        now: Seconds since the epoch.
    """
    objects = (
        select(result_object.c.id)
        .join_from(result_object, analysis)
        .where(analysis.c.study_id == study_id, analysis.c.run < run, result_object.c.kind != ObjectKind.MESSAGE)
    )
    connection.execute(
        update(delivery)
        .where(
            delivery.c.object_id.in_(objects), delivery.c.state.in_((DeliveryState.QUEUED, DeliveryState.FAILED))
        )
        .values(state=DeliveryState.QUEUED, attempts=0, next_attempt_at=now)
    )


def holdings(connection: Connection, study_id: int, run: int) -> dict[str, frozenset[str]]:
    """List what was sent, or is on its way, of the analyses before one.

    Args:
        connection: In a transaction.
        study_id: The study.
        run: Of the analysis.

    Returns:
        Destination -> kinds of objects.
    """
    rows = connection.execute(
        select(delivery.c.destination, result_object.c.kind)
        .select_from(delivery.join(result_object).join(analysis))
        .where(analysis.c.study_id == study_id, analysis.c.run < run)
        .distinct()
    ).all()
    return {name: frozenset(r.kind for r in rows if r.destination == name) for name in {r.destination for r in rows}}


def instances_of_series(connection: Connection, study_id: int, series_uid: str | None, last_id: int) -> list[str]:
    """List what a claim covers of one series.

    Args:
        connection: In a transaction.
        study_id: The study.
        series_uid: Its series; None has no instances.
        last_id: Row id of the last instance that the claim covers.

    Returns:
        SOP Instance UIDs, in order of arrival.
    """
    if series_uid is None:
        return []
    return list(
        connection.execute(
            select(instance.c.sop_instance_uid)
            .join_from(instance, series)
            .where(series.c.study_id == study_id, series.c.series_uid == series_uid, instance.c.id <= last_id)
            .order_by(instance.c.id)
        ).scalars()
    )


def columns_of_result(result: Result) -> dict[str, Any]:
    """Columns of `analysis` that a result fills."""
    any_finding = result.finding(ANY)
    return {
        "outcome": result.outcome,
        "priority": result.priority,
        "p_any": None if any_finding is None else any_finding.p,
        "reason": result.reason,
        "demonstration": result.model.is_demonstration,
        "result": asdict(result),
    }


def rows_of_findings(result: Result, analysis_id: int) -> list[dict[str, Any]]:
    """Rows of `finding`."""
    return [
        {
            "analysis_id": analysis_id,
            "label": f.label,
            "p": f.p,
            "threshold": f.threshold,
            "present": f.present,
            "key_slices": list(f.key_slices),
        }
        for f in result.findings
    ]


def rows_of_verdicts(verdicts: Sequence[SeriesVerdict], analysis_id: int) -> list[dict[str, Any]]:
    """Rows of `verdict`."""
    return [
        {
            "analysis_id": analysis_id,
            "series_uid": v.series_uid,
            "chosen": v.chosen,
            "reasons": list(v.reasons),
            "n_instances": v.n_instances,
            "score": v.score,
        }
        for v in verdicts
    ]


def rows_of_set_aside(result: Result, analysis_id: int) -> list[dict[str, Any]]:
    """Rows of `set_aside`."""
    return [
        {"analysis_id": analysis_id, "sop_instance_uid": s.sop_instance_uid, "frame": s.frame, "reason": s.reason}
        for s in result.set_aside
    ]


def rows_of_deliveries(object_id: int, destinations: Sequence[str], now: float) -> list[dict[str, Any]]:
    """Rows of `delivery`: one object, due now at each destination."""
    return [{"object_id": object_id, "destination": name, **values_of_delivery(now)} for name in destinations]


def values_of_delivery(now: float) -> dict[str, Any]:
    """Columns of a delivery that is due now, for the first time or anew."""
    return {
        "state": DeliveryState.QUEUED,
        "state_at": now,
        "queued_at": now,
        "next_attempt_at": now,
        "attempts": 0,
        "status": None,
        "detail": "",
        "accepted_at": None,
        "committed_at": None,
        "commit_due_at": None,
        "commit_attempts": 0,
    }
