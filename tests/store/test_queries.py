import json
import random
from dataclasses import asdict
from itertools import pairwise

import pytest
from store.store_bench import T0, Bench, make_result

from triage.errors import StudyError
from triage.records import Outcome, Priority, StudyState
from triage.store import analysis, queries

CLASSES = [Priority.URGENT, Priority.REVIEW, Priority.ROUTINE]


def test_a_row_says_what_was_judged(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    assert queries.worklist(bench.db, T0 + 90) == [
        queries.WorklistRow(
            study_id=study_id, priority=Priority.URGENT, p_any=0.9, subtypes=("subdural", "epidural"), waiting_s=90.0,
            state=StudyState.ANALYSED, accession_number="A1", outcome=Outcome.POSITIVE, reason="",
            first_arrival_at=T0, demonstration=True,
        )
    ]  # fmt: skip
    json.dumps([asdict(row) for row in queries.worklist(bench.db, T0 + 90)])


def test_waiting_counts_from_the_first_arrival(bench: Bench) -> None:
    bench.arrive(now=T0)
    bench.arrive(now=T0 + 50)
    (row,) = queries.worklist(bench.db, T0 + 60)
    assert (row.waiting_s, row.state, row.outcome, row.p_any) == (60.0, StudyState.RECEIVING, None, None)
    assert row.priority is Priority.ROUTINE


@pytest.mark.parametrize("seed", range(3))
def test_the_order_never_lowers_a_study(bench: Bench, seed: int) -> None:
    """Random studies in random states: unflagged ones stand by arrival alone, flagged ones before all of them."""
    chance = random.Random(seed)
    for i in range(16):
        now = T0 + chance.choice(range(10))  # some arrive at the same time
        kind = chance.choice(["receiving", "not analysed", "negative", "review", "urgent", "again", "failed again"])
        p = chance.choice([0.05, 0.5, 0.7, 0.9])
        if kind == "receiving":
            bench.arrive(f"1.2.{i}", now)
            continue
        if kind == "not analysed":
            result = make_result(Outcome.NOT_ANALYSED)
        elif kind == "negative":
            result = make_result(Outcome.NEGATIVE, p)
        else:
            result = make_result(p=p, priority=Priority.REVIEW if kind == "review" else Priority.URGENT)
        bench.arrive(f"1.2.{i}", now)
        claim = next(c for c in claims(bench, now) if c.study_uid == f"1.2.{i}")
        bench.finish(claim, result, now)
        if "again" in kind:
            bench.arrive(f"1.2.{i}", now + 1)
        if kind == "failed again":
            claim = next(c for c in claims(bench, now + 1) if c.study_uid == f"1.2.{i}")
            bench.finish(claim, make_result(Outcome.NOT_ANALYSED), now + 1)
    rows = queries.worklist(bench.db, T0 + 100)
    assert len(rows) == 16
    assert [CLASSES.index(r.priority) for r in rows] == sorted(CLASSES.index(r.priority) for r in rows)
    unflagged = [r for r in rows if r.priority is Priority.ROUTINE]
    by_arrival = sorted(unflagged, key=lambda r: (r.first_arrival_at, r.study_id))
    assert unflagged == by_arrival
    for flagged in ([r for r in rows if r.priority is c] for c in CLASSES[:2]):
        for ahead, behind in pairwise(flagged):
            assert (ahead.p_any or 0) >= (behind.p_any or 0)
            if ahead.p_any == behind.p_any:
                assert ahead.first_arrival_at <= behind.first_arrival_at


def claims(bench: Bench, now: float) -> list[analysis.Claim]:
    """Complete and claim all that is there; what the caller does not finish stays under analysis."""
    bench.complete(now)
    taken = []
    while (claim := analysis.claim_study(bench.db, now)) is not None:
        taken.append(claim)
    return taken


def test_a_negative_result_changes_no_place(bench: Bench) -> None:
    first = bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.01))
    second = bench.arrive("1.2.4", T0 + 1)
    third = bench.arrive("1.2.5", T0 + 2)
    assert [r.study_id for r in queries.worklist(bench.db, T0 + 9)] == [first, second, third]


def test_what_was_judged_stands_while_it_is_analysed_again(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.arrive("1.2.3", T0 + 60)
    for stage in ("receiving", "ready", "analysing"):
        (row,) = queries.worklist(bench.db, T0 + 99)
        assert (row.state, row.priority, row.p_any, row.subtypes) == (
            stage, Priority.URGENT, 0.9, ("subdural", "epidural"))  # fmt: skip
        if stage == "receiving":
            bench.complete(T0 + 70)
        elif stage == "ready":
            claim = bench.claim(T0 + 71)
    bench.finish(claim, make_result(Outcome.NOT_ANALYSED), T0 + 72)
    (row,) = queries.worklist(bench.db, T0 + 99)
    assert (row.study_id, row.priority, row.p_any) == (study_id, Priority.URGENT, 0.9)  # a failure takes no flag away
    assert (row.outcome, row.reason) == (Outcome.NOT_ANALYSED, "no usable series")


def test_a_new_judgement_that_finds_less_lowers_no_priority(bench: Bench) -> None:
    bench.analysed("1.2.3", T0, make_result())
    bench.arrive("1.2.3", T0 + 60)
    bench.complete(T0 + 70)
    bench.finish(bench.claim(T0 + 71), make_result(Outcome.NEGATIVE, 0.1), T0 + 72)
    (row,) = queries.worklist(bench.db, T0 + 99)
    assert (row.priority, row.outcome) == (Priority.URGENT, Outcome.NEGATIVE)
    assert row.p_any is not None
    assert row.p_any > 0.1


def test_old_studies_are_shown_on_demand(bench: Bench) -> None:
    old = bench.arrive("1.2.3", T0)
    late = bench.arrive("1.2.4", T0)
    bench.arrive("1.2.4", T0 + 80_000)
    new = bench.arrive("1.2.5", T0 + 80_000)
    now = T0 + 90_000
    assert [r.study_id for r in queries.worklist(bench.db, now)] == [late, new]
    assert [r.study_id for r in queries.worklist(bench.db, now, everything=True)] == [old, late, new]


def test_an_empty_worklist(bench: Bench) -> None:
    assert queries.worklist(bench.db, T0) == []
    assert queries.worklist(bench.db, T0, everything=True) == []


def test_a_study_is_found_by_what_a_person_has(bench: Bench) -> None:
    first = bench.arrive("1.2.3", accession_number="ACC7")
    second = bench.arrive("1.2.4", accession_number="ACC7")
    third = bench.arrive("1.2.5", accession_number="20240101")
    nameless = bench.arrive("1.2.6", accession_number="")
    assert queries.find_study(bench.db, str(first)) == first
    assert queries.find_study(bench.db, " 1.2.3 ") == first
    assert queries.find_study(bench.db, "ACC7") == second  # the newest of the order
    assert queries.find_study(bench.db, "20240101") == third
    assert queries.find_study(bench.db, "1.2.6") == nameless
    for nothing in ("", "77", "9" * 40, "¹", "ACC8", "1.2.3'--", "%"):
        assert queries.find_study(bench.db, nothing) is None


def test_show_is_ready_for_json_and_whole(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    details = json.loads(json.dumps(queries.show(bench.db, study_id)))
    assert details["study"]["study_uid"] == "1.2.3"
    assert details["series"][0]["chosen"] is True
    assert details["series"][0]["n_instances"] == 1
    (told,) = details["analyses"]
    assert (told["model"]["name"], told["device"], told["p_any"]) == ("ich-demo", "cpu", 0.9)
    assert "slice_scores" not in told
    assert [o["kind"] for o in details["objects"]] == ["report", "capture"]
    assert [d["state"] for o in details["objects"] for d in o["deliveries"]] == ["queued", "queued"]


def test_show_of_an_unfinished_study(bench: Bench) -> None:
    study_id = bench.arrive()
    bench.complete(T0 + 5)
    bench.claim(T0 + 6)
    details = queries.show(bench.db, study_id)
    assert details["series"][0]["chosen"] is None
    assert details["analyses"][0]["finished_at"] is None
    assert details["objects"] == []


def test_show_of_no_study(bench: Bench) -> None:
    with pytest.raises(StudyError, match="no study 77"):
        queries.show(bench.db, 77)
