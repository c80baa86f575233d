"""A node's database and folders for the tests of the store, with a hand that brings instances and finishes analyses."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from triage.records import (
    ANY,
    Finding,
    Instance,
    ModelIdentity,
    Outcome,
    Priority,
    Result,
    SeriesVerdict,
    SetAside,
    Slice,
    SliceScore,
)
from triage.store import analysis, outbox, queries, reception
from triage.store.db import Database, open_database
from triage.store.files import Store

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
T0 = 1_700_000_000.0

NUMBERS = {"report": 96, "capture": 97, "key_object": 98, "rejection": 99, "message": 100}
"""Last part but one of an object's UID."""

MODEL = ModelIdentity("ich-demo", "0.1", "ab" * 32, "demonstration", "resnet18")


@dataclass
class Bench:
    """One node: its folders and its open database."""

    store: Store
    db: Database
    uids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def file(self, content: bytes = b"bytes of a data set") -> Path:
        path = self.store.spool / f"tmp{next(self.uids)}.dcm"
        path.write_bytes(content)
        return path

    def arrive(self, study: str = "1.2.3", now: float = T0, **values: object) -> int:
        """One instance comes in; what is not said of it is new and plain."""
        instance, arrival = self.incoming(study, now, **values)
        return reception.record_instance(self.db, instance, arrival)

    def incoming(self, study: str, now: float, **values: object) -> tuple[Instance, reception.Arrival]:
        """An instance that lies in the store, but in no row yet."""
        given = {
            "series": f"{study}.1", "uid": f"{study}.1.{next(self.uids)}", "position_mm": 0.0, "number": 1,
            "association": "a1", "sha256": "0" * 64, "accession_number": "A1", "description": "HEAD",
        } | values  # fmt: skip
        position_mm = given["position_mm"]
        instance = Instance(
            path=self.store.keep_instance(self.file(), study, str(given["uid"])),
            sop_class_uid=CT,
            sop_instance_uid=str(given["uid"]),
            study_uid=study,
            series_uid=str(given["series"]),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="CT",
            series_number=3,
            series_description=str(given["description"]),
            accession_number=str(given["accession_number"]),
            slices=(Slice(str(given["uid"]), instance_number=given["number"]),),  # type: ignore[arg-type]  # an int
        )
        positions = () if position_mm is None else (float(position_mm),)  # type: ignore[arg-type]  # a float
        arrival = reception.Arrival(str(given["sha256"]), 19, str(given["association"]), positions, now)
        return instance, arrival

    def complete(self, now: float) -> list[int]:
        """All that is receiving has come in whole."""
        for series in analysis.receiving_series(self.db):
            assert analysis.series_complete(self.db, series.series_id, series.last_arrival_at, now)
        return analysis.ready_studies(self.db, now)

    def claim(self, now: float) -> analysis.Claim:
        claim = analysis.claim_study(self.db, now)
        assert claim is not None
        return claim

    def complete_some(self, now: float) -> list[int]:
        """As `complete`, while instances come in."""
        for series in analysis.receiving_series(self.db):
            analysis.series_complete(self.db, series.series_id, series.last_arrival_at, now)
        return analysis.ready_studies(self.db, now)

    def finish(
        self, claim: analysis.Claim, result: Result, now: float, destinations: Sequence[str] = ("pacs",)
    ) -> tuple[analysis.NewObject, ...]:
        """Write an SR and, for a positive result, a capture; then commit."""
        kinds = ["report", "capture"] if result.outcome is Outcome.POSITIVE else ["report"]
        objects = tuple(self.write(claim, kind, tuple(destinations)) for kind in kinds)
        analysis.record_result(self.db, claim, result, analysis.Outgoing(objects, now))
        return objects

    def write(self, claim: analysis.Claim, kind: str, destinations: tuple[str, ...]) -> analysis.NewObject:
        series_uid = f"{claim.study_uid}.{NUMBERS[kind]}"
        uid = f"{series_uid}.{claim.run}"
        path = self.store.write_result(claim.study_uid, uid, writer_of(kind.encode()))
        return analysis.NewObject(kind, SR, uid, path, destinations, series_uid)

    def due(self, now: float, destination: str = "pacs") -> list[outbox.Delivery]:
        return outbox.due_deliveries(self.db, destination, now, 50)

    def take(self, now: float, destination: str = "pacs") -> list[outbox.Delivery]:
        """What is due goes out."""
        return outbox.take_due(self.db, destination, now, 50)

    def deliver(self, now: float, destination: str = "pacs", *, asks_commitment: bool = False) -> list[outbox.Delivery]:
        """What is due goes out and is accepted."""
        sent = self.take(now, destination)
        for d in sent:
            acceptance = outbox.Acceptance(0, asks_commitment=asks_commitment)
            assert outbox.delivery_accepted(self.db, d.id, acceptance, now)
        return sent

    def states(self, study_id: int) -> list[tuple[str, str]]:
        """Destination and state of each delivery."""
        objects = queries.show(self.db, study_id)["objects"]
        return [(d["destination"], d["state"]) for o in objects for d in o["deliveries"]]

    def analysed(self, study: str, now: float, result: Result) -> int:
        """A study of one slice that came in, was analysed and is queued for delivery, all at one time."""
        study_id = self.arrive(study, now)
        assert self.complete(now) == [study_id]
        self.finish(self.claim(now), result, now)
        return study_id


def writer_of(content: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return write


def make_bench(root: Path) -> Bench:
    store = Store(root)
    store.prepare()
    return Bench(store, open_database(f"sqlite:///{root / 'triage.db'}", root))


def make_result(outcome: Outcome = Outcome.POSITIVE, p: float = 0.9, **values: object) -> Result:
    judged = outcome is not Outcome.NOT_ANALYSED
    present = outcome is Outcome.POSITIVE
    findings = [Finding(ANY, p, 0.4, present, (1, 0) if present else ())]
    if present:
        findings += [Finding("epidural", 0.6, 0.5, True, (0,)), Finding("subdural", 0.7, 0.5, True, (1,)),
                     Finding("subarachnoid", 0.1, 0.5, False, ())]  # fmt: skip
    given: dict[str, object] = {
        "study_uid": "1.2.3",
        "outcome": outcome,
        "priority": Priority.URGENT if present else Priority.ROUTINE,
        "reason": "" if judged else "no usable series",
        "model": MODEL,
        "started_at": T0,
        "duration_s": 1.5,
        "findings": tuple(findings) if judged else (),
        "slice_scores": (SliceScore("1.2.3.1.1", 1, {ANY: p}),) if judged else (),
        "verdicts": (SeriesVerdict("1.2.3.1", judged, ("5 mm, soft kernel",), 1, 3, "HEAD", 0.8 if judged else None),),
        "series_uid": "1.2.3.1" if judged else None,
        "device": "cpu" if judged else "",
        "n_slices": 1,
        "set_aside": (SetAside("1.2.3.1.7", 1, "truncated"),) if judged else (),
        "thresholds": {"urgent": 0.8, "review": 0.4},
    }
    return Result(**(given | values))  # type: ignore[arg-type]  # the types are those of Result, checked by use
