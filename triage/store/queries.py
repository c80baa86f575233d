"""Questions that change nothing: worklist, one study in full, deliveries, finding a study."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, or_, select

from triage.errors import StudyError
from triage.records import ANY, UNDER_WAY, DeliveryState, Outcome, Priority, StudyState
from triage.store.db import Database
from triage.store.schema import (
    analysis,
    delivery,
    finding,
    identity,
    instance,
    result_object,
    series,
    set_aside,
    study,
    verdict,
)
from triage.store.steps import STANDS

RECENT_S = 86400.0
"""The worklist shows the studies that something arrived for within a day, unless it is asked for all."""

RANK = {Priority.URGENT: 0, Priority.REVIEW: 1, Priority.ROUTINE: 2}

ROW_ID_DIGITS = 18
"""A longer number is no row id: it would not fit 64 bits."""

RESULT_KEYS = (
    "started_at", "duration_s", "series_uid", "device", "n_slices", "tilt_deg", "spacing_mm", "missing", "repairs",
    "lossy", "thresholds", "model",
)  # fmt: skip
"""What `show` tells of a Result beyond its columns; the scores of single slices stay out."""

NO_COMMITMENT = "accepted; the peer offers no storage commitment"
"""Detail of a delivery whose acceptance is all the proof there can be."""

NEVER_COMMITTED = "accepted; commitment did not come"
"""Begins the detail of a delivery that nobody is asked about any more, though there might be more proof."""


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One study to read."""

    study_id: int
    priority: Priority
    """ROUTINE for every study that no analysis has flagged."""
    p_any: float | None
    subtypes: tuple[str, ...]
    """Those judged present, most probable first."""
    waiting_s: float
    """Since its first instance came in."""
    state: StudyState
    accession_number: str
    outcome: Outcome | None
    """Of the newest analysis; None before the first."""
    reason: str
    """Why that one ended as not analysed."""
    first_arrival_at: float
    demonstration: bool
    """A model that is not for patients has judged."""


def worklist(db: Database, now: float, everything: bool = False) -> list[WorklistRow]:
    """List the studies to read, first one first.

    Urgent before review before routine; urgent and review by score, then arrival; routine by arrival alone, whatever
    its score or state: nobody is put behind for being negative, not analysed or not analysed yet. While a study is
    analysed again, and when that fails or finds less, the priority it once had still stands: nobody has read it yet.

    Args:
        db: The database.
        now: Seconds since the epoch.
        everything: Also studies for which nothing has arrived within a day.

    Returns:
        The rows in order.
    """
    recent = study.c.last_arrival_at >= (0.0 if everything else now - RECENT_S)
    with db.reading() as connection:
        studies = connection.execute(
            select(study.c.id, study.c.state, study.c.first_arrival_at, identity.c.accession_number)
            .join_from(study, identity)
            .where(recent)
        ).all()
        analyses = connection.execute(
            select(
                analysis.c.id,
                analysis.c.study_id,
                analysis.c.outcome,
                analysis.c.priority,
                analysis.c.p_any,
                analysis.c.reason,
                analysis.c.demonstration,
            )
            .join_from(analysis, study)
            .where(recent, analysis.c.finished_at.is_not(None))
            .order_by(analysis.c.study_id, analysis.c.run)
        ).all()
        present = connection.execute(
            select(finding.c.analysis_id, finding.c.label)
            .select_from(finding.join(analysis).join(study))
            .where(recent, finding.c.present, finding.c.label != ANY, analysis.c.finished_at.is_not(None))
            .order_by(finding.c.analysis_id, finding.c.p.desc(), finding.c.label)
        ).all()
    newest = {a.study_id: a for a in analyses}
    judged: dict[int, Any] = {}
    for a in analyses:
        before = judged.get(a.study_id)
        if a.outcome != Outcome.NOT_ANALYSED and (before is None or RANK[a.priority] <= RANK[before.priority]):
            judged[a.study_id] = a
    subtypes: dict[int, tuple[str, ...]] = {}
    for f in present:
        subtypes[f.analysis_id] = (*subtypes.get(f.analysis_id, ()), f.label)
    rows = [_worklist_row(s, newest.get(s.id), judged.get(s.id), subtypes, now) for s in studies]
    return sorted(rows, key=_place)


def _worklist_row(
    s: Any, newest: Any, judged: Any, subtypes: dict[int, tuple[str, ...]], now: float
) -> WorklistRow:
    return WorklistRow(
        study_id=s.id,
        priority=Priority(judged.priority) if judged is not None else Priority.ROUTINE,
        p_any=judged.p_any if judged is not None else None,
        subtypes=subtypes.get(judged.id, ()) if judged is not None else (),
        waiting_s=max(0.0, now - s.first_arrival_at),
        state=StudyState(s.state),
        accession_number=s.accession_number,
        outcome=Outcome(newest.outcome) if newest is not None else None,
        reason=newest.reason if newest is not None else "",
        first_arrival_at=s.first_arrival_at,
        demonstration=any(a is not None and a.demonstration for a in (newest, judged)),
    )


def _place(row: WorklistRow) -> tuple[int, float, float, int]:
    """Sorts the worklist; the score counts for flagged studies only."""
    score = 0.0 if row.priority is Priority.ROUTINE else row.p_any or 0.0
    return RANK[row.priority], -score, row.first_arrival_at, row.study_id


def find_study(db: Database, text: str) -> int | None:
    """Find a study by what a person has at hand.

    Args:
        db: The database.
        text: Row id, StudyInstanceUID or accession number, tried in this order.

    Returns:
        Row id; of several studies under one accession number the newest. None where nothing fits.
    """
    text = text.strip()
    with db.reading() as connection:
        if text.isascii() and text.isdigit() and len(text) <= ROW_ID_DIGITS:
            found = connection.execute(select(study.c.id).where(study.c.id == int(text))).scalar()
            if found is not None:
                return int(found)
        for column in (identity.c.study_uid, identity.c.accession_number):
            newest = select(func.max(identity.c.study_id)).where(column == text, column != "")
            found = connection.execute(newest).scalar()
            if found is not None:
                return int(found)
    return None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One object at one destination; says nothing of the patient."""

    study_id: int
    kind: str
    """One of ObjectKind."""
    destination: str
    state: DeliveryState
    since: float
    """When it entered its state; seconds since the epoch, as the other times."""
    attempts: int
    """Failed ones."""
    next_attempt_at: float | None
    """Of sending it, or of asking for commitment; None: nothing more will be tried."""
    status: int | None
    detail: str
    accepted_at: float | None
    committed_at: float | None
    superseded: bool
    """A later analysis of the study stands in place of the one it belongs to."""


def deliveries(db: Database, configured: Collection[str], everything: bool = False) -> list[DeliveryRow]:
    """List the deliveries that want looking at, in the order of their studies.

    Args:
        db: The database.
        configured: Names of the outputs that there are: what is queued for another one waits for ever.
        everything: Also those in order.

    Returns:
        What is given up and still stands, is failing, or is accepted by a destination that has not committed to it.
    """
    unproven = and_(
        delivery.c.state == DeliveryState.ACCEPTED,
        or_(delivery.c.commit_due_at.is_not(None), delivery.c.detail.startswith(NEVER_COMMITTED)),
    )
    is_wanted = or_(
        and_(delivery.c.state == DeliveryState.GIVEN_UP, STANDS),
        delivery.c.state == DeliveryState.FAILED,
        and_(delivery.c.state == DeliveryState.QUEUED, delivery.c.destination.not_in(configured)),
        unproven,
    )
    query = (
        select(delivery, result_object.c.kind, analysis.c.study_id, analysis.c.superseded_by)
        .select_from(delivery.join(result_object).join(analysis))
        .order_by(analysis.c.study_id, delivery.c.object_id, delivery.c.destination)
    )
    with db.reading() as connection:
        rows = connection.execute(query if everything else query.where(is_wanted)).all()
    return [_delivery_row(row) for row in rows]


def _delivery_row(row: Any) -> DeliveryRow:
    state = DeliveryState(row.state)
    return DeliveryRow(
        study_id=row.study_id,
        kind=row.kind,
        destination=row.destination,
        state=state,
        since=row.state_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at if state in UNDER_WAY else row.commit_due_at,
        status=row.status,
        detail=row.detail,
        accepted_at=row.accepted_at,
        committed_at=row.committed_at,
        superseded=row.superseded_by is not None,
    )


def pending_deliveries(db: Database) -> int:
    """Count the deliveries that are still to arrive.

    Args:
        db: The database.

    Returns:
        How many, to all destinations.
    """
    return _count(db, UNDER_WAY)


def given_up_deliveries(db: Database) -> int:
    """Count the deliveries that nobody tries any more, of what still stands.

    Args:
        db: The database.

    Returns:
        How many, to all destinations.
    """
    return _count(db, (DeliveryState.GIVEN_UP,), STANDS)


def _count(db: Database, states: Collection[DeliveryState], *conditions: ColumnElement[bool]) -> int:
    of_analysis = delivery.join(result_object).join(analysis)
    with db.reading() as connection:
        return connection.execute(
            select(func.count()).select_from(of_analysis).where(delivery.c.state.in_(states), *conditions)
        ).scalar_one()


def show(db: Database, study_id: int) -> dict[str, Any]:
    """Tell everything that is stored of one study, but for the scores of single slices.

    Args:
        db: The database.
        study_id: The study.

    Returns:
        "study", "series" with the newest verdict on each, "analyses" with findings and slices set aside (newest
        first), "objects" with their deliveries; ready for JSON.

    Raises:
        StudyError: There is no such study.
    """
    with db.reading() as connection:
        head = _all(
            connection,
            select(study, identity.c.study_uid, identity.c.accession_number)
            .join_from(study, identity)
            .where(study.c.id == study_id),
        )
        if not head:
            raise StudyError(f"there is no study {study_id}")
        return {
            "study": head[0],
            "series": _series(connection, study_id),
            "analyses": _analyses(connection, study_id),
            "objects": _objects(db, connection, study_id),
        }


def _series(connection: Connection, study_id: int) -> list[dict[str, Any]]:
    verdicts: dict[str, dict[str, Any]] = {}
    for v in _all(
        connection,
        select(verdict)
        .join_from(verdict, analysis)
        .where(analysis.c.study_id == study_id)
        .order_by(analysis.c.run.desc(), verdict.c.chosen.desc(), verdict.c.id),
    ):
        verdicts.setdefault(v["series_uid"], v)
    rows = _all(
        connection,
        select(series, func.count(instance.c.id).label("n_instances"))
        .select_from(series.outerjoin(instance))
        .where(series.c.study_id == study_id)
        .group_by(series.c.id)
        .order_by(series.c.series_number, series.c.id),
    )
    for row in rows:
        v = verdicts.get(row["series_uid"], {})
        row |= {"chosen": v.get("chosen"), "reasons": v.get("reasons", []), "score": v.get("score")}
        del row["study_id"]
    return rows


def _analyses(connection: Connection, study_id: int) -> list[dict[str, Any]]:
    of_study = analysis.c.study_id == study_id
    findings = _by_analysis(connection, finding, study_id)
    bad_slices = _by_analysis(connection, set_aside, study_id)
    rows = _all(connection, select(analysis).where(of_study).order_by(analysis.c.run.desc()))
    for row in rows:
        result = row.pop("result") or {}
        row |= {key: result.get(key) for key in RESULT_KEYS}
        row["n_instances"] = len(row.pop("instance_uids"))
        row["findings"] = sorted(findings.get(row["id"], []), key=lambda f: (f["label"] != ANY, -f["p"], f["label"]))
        row["set_aside"] = bad_slices.get(row["id"], [])
        del row["study_id"]
    return rows


def _by_analysis(connection: Connection, table: Table, study_id: int) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = {}
    query = select(table).join_from(table, analysis).where(analysis.c.study_id == study_id)
    query = query.order_by(*table.primary_key.columns)
    for row in _all(connection, query):
        grouped.setdefault(row.pop("analysis_id"), []).append(row)
    return grouped


def _objects(db: Database, connection: Connection, study_id: int) -> list[dict[str, Any]]:
    rows = _all(
        connection,
        select(result_object, analysis.c.run)
        .join_from(result_object, analysis)
        .where(analysis.c.study_id == study_id)
        .order_by(result_object.c.id),
    )
    deliveries: dict[int, list[dict[str, Any]]] = {}
    for d in _all(
        connection,
        select(delivery)
        .select_from(delivery.join(result_object).join(analysis))
        .where(analysis.c.study_id == study_id)
        .order_by(delivery.c.destination),
    ):
        deliveries.setdefault(d.pop("object_id"), []).append(d)
    for row in rows:
        row["path"] = str(db.absolute(row["path"]))
        row["deliveries"] = deliveries.get(row["id"], [])
    return rows


def _all(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    rows: Iterable[Any] = connection.execute(query).mappings()
    return [dict(row) for row in rows]
