import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
from sqlalchemy import func, select
from store.store_bench import T0, Bench, make_result

from triage.errors import ConflictingInstance, NoResources
from triage.records import StudyState
from triage.store import analysis, queries, reception
from triage.store.schema import association, identity, instance


def longest_pause_s(bench: Bench) -> float:
    (series,) = analysis.receiving_series(bench.db)
    return series.longest_pause_s


def state(bench: Bench, study_id: int) -> StudyState:
    return StudyState(queries.show(bench.db, study_id)["study"]["state"])


def test_an_instance_is_found_again(bench: Bench) -> None:
    incoming, arrival = bench.incoming("1.2.3", T0, uid="1.2.3.4", sha256="f" * 64)
    study_id = reception.record_instance(bench.db, incoming, arrival)
    assert reception.find_instance(bench.db, "1.2.3.4") == reception.StoredInstance(
        id=1, path=incoming.path, sha256="f" * 64, study_id=study_id, transfer_syntax_uid="1.2.840.10008.1.2.1"
    )
    assert reception.find_instance(bench.db, "1.2.3.5") is None


def test_series_and_studies_are_kept_apart(bench: Bench) -> None:
    first = bench.arrive("1.2.3", series="1.2.3.1")
    assert bench.arrive("1.2.3", series="1.2.3.2") == first
    assert bench.arrive("1.2.3", series="1.2.3.1") == first
    other = bench.arrive("1.2.4", series="1.2.3.1")  # a series UID used twice, as some archives do
    assert other != first
    assert [s.study_id for s in analysis.receiving_series(bench.db)] == [first, first, other]


def test_the_longest_pause_is_of_the_series_own_arrivals(bench: Bench) -> None:
    for now in (T0, T0 + 4, T0 + 5):
        bench.arrive(now=now)
    assert longest_pause_s(bench) == 4.0


def test_arrivals_that_commit_out_of_order_turn_no_clock_back(bench: Bench) -> None:
    for now in (T0, T0 + 2, T0 + 1):
        bench.arrive(now=now)
    (series,) = analysis.receiving_series(bench.db)
    assert (series.longest_pause_s, series.last_arrival_at) == (2.0, T0 + 2)


def test_a_late_instance_begins_the_series_again(bench: Bench) -> None:
    study_id = bench.arrive(now=T0)
    bench.arrive(now=T0 + 9)
    assert bench.complete(T0 + 20) == [study_id]
    bench.arrive(now=T0 + 500)
    assert state(bench, study_id) is StudyState.RECEIVING
    assert longest_pause_s(bench) == 0.0  # neither the old 9 s nor the 491 s since
    bench.arrive(now=T0 + 503)
    assert longest_pause_s(bench) == 3.0


@pytest.mark.parametrize("stage", ["ready", "analysing", "analysed"])
def test_an_instance_reopens_a_study_in_any_state(bench: Bench, stage: str) -> None:
    study_id = bench.arrive(now=T0)
    bench.complete(T0 + 5)
    if stage != "ready":
        claim = bench.claim(T0 + 6)
    if stage == "analysed":
        bench.finish(claim, make_result(), T0 + 7)
    assert state(bench, study_id) == stage
    bench.arrive(now=T0 + 60, series="1.2.3.2")
    assert state(bench, study_id) is StudyState.RECEIVING


def test_open_associations_count_for_the_series_they_carried(bench: Bench) -> None:
    for key in ("a1", "a2", "a3"):
        reception.association_opened(bench.db, key, "CT01", T0)
    bench.arrive("1.2.3", association="a1")
    bench.arrive("1.2.3", association="a2")
    bench.arrive("1.2.3", association="a2")
    bench.arrive("1.2.4", association="a2")
    assert [s.open_associations for s in analysis.receiving_series(bench.db)] == [2, 1]
    reception.association_closed(bench.db, "a2", T0 + 1)
    assert [s.open_associations for s in analysis.receiving_series(bench.db)] == [1, 0]
    reception.close_all_associations(bench.db, T0 + 2)
    assert [s.open_associations for s in analysis.receiving_series(bench.db)] == [0, 0]


def test_closed_associations_are_forgotten_after_a_day(bench: Bench) -> None:
    for key, now in (("a1", T0), ("a2", T0 + 80_000), ("a3", T0 + 90_000)):
        reception.association_opened(bench.db, key, "MONITOR", now)
        reception.association_closed(bench.db, key, now + 1)
    with bench.db.reading() as connection:
        assert set(connection.execute(select(association.c.key)).scalars()) == {"a2", "a3"}


def test_a_series_remembers_who_sent_it(bench: Bench) -> None:
    reception.association_opened(bench.db, "a1", "CT01", T0)
    study_id = bench.arrive(association="a1")
    assert [s["calling_ae"] for s in queries.show(bench.db, study_id)["series"]] == ["CT01"]


def test_positions_come_back_in_order_with_their_numbers(bench: Bench) -> None:
    for position_mm, number in ((10.0, 3), (0.0, 1), (5.0, 2), (None, 9)):
        bench.arrive(position_mm=position_mm, number=number)
    (series,) = analysis.receiving_series(bench.db)
    assert series.positions_mm == (0.0, 5.0, 10.0)
    assert series.instance_numbers == (1, 2, 3)  # the scout's 9 has no position to go with


def test_frames_of_one_file_are_never_incomplete(bench: Bench) -> None:
    incoming, arrival = bench.incoming("1.2.3", T0, uid="1.2.3.4")
    frames = tuple(replace(incoming.slices[0], frame=n) for n in (1, 2, 3))
    arrival = replace(arrival, positions_mm=(0.0, 5.0, 50.0))
    reception.record_instance(bench.db, replace(incoming, slices=frames), arrival)
    (series,) = analysis.receiving_series(bench.db)
    assert (series.positions_mm, series.instance_numbers) == ((), ())


def race(bench: Bench, *incoming: tuple[object, reception.Arrival]) -> list[object]:
    """Record instances at the same time, each from a thread of its own; their study ids or errors."""
    outcomes: list[object] = [None] * len(incoming)
    start = Barrier(len(incoming))

    def record(i: int) -> None:
        start.wait(10)
        try:
            outcomes[i] = reception.record_instance(bench.db, *incoming[i])  # type: ignore[arg-type]  # an Instance
        except ConflictingInstance as e:
            outcomes[i] = type(e)

    threads = [Thread(target=record, args=(i,)) for i in range(len(incoming))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def kept_files(bench: Bench) -> set[Path]:
    return set(bench.store.instances.rglob("*.dcm"))


def test_the_same_instance_twice_at_once_is_one_instance(bench: Bench) -> None:
    both = [bench.incoming("1.2.3", T0, uid="1.2.3.4") for _ in range(2)]
    assert race(bench, *both) == [1, 1]
    stored = reception.find_instance(bench.db, "1.2.3.4")
    assert stored is not None
    assert kept_files(bench) == {stored.path}


def test_of_two_instances_under_one_uid_one_is_refused(bench: Bench) -> None:
    both = [bench.incoming("1.2.3", T0, uid="1.2.3.4", sha256=c * 64) for c in "ab"]
    outcomes = race(bench, *both)
    assert sorted(outcomes, key=str) == [1, ConflictingInstance]
    stored = reception.find_instance(bench.db, "1.2.3.4")
    assert stored is not None
    assert stored.sha256 == "ab"[outcomes.index(1)] * 64
    assert kept_files(bench) == {stored.path}


def test_a_uid_of_another_study_is_refused(bench: Bench) -> None:
    bench.arrive("1.2.3", uid="1.2.3.4")
    with pytest.raises(ConflictingInstance) as caught:
        bench.arrive("1.2.9", uid="1.2.3.4")
    assert "1.2" not in str(caught.value)
    with bench.db.reading() as connection:
        assert list(connection.execute(select(identity.c.study_uid)).scalars()) == ["1.2.3"]  # no empty study


def test_new_studies_come_in_at_once(bench: Bench) -> None:
    outcomes = race(bench, *(bench.incoming("1.2.3", T0, uid=f"1.2.3.{i}") for i in range(6)))
    assert outcomes == [1] * 6


def test_a_file_that_is_gone_is_not_recorded(bench: Bench) -> None:
    """Retention took the folder between file and row: the sender must send again."""
    incoming, arrival = bench.incoming("1.2.3", T0)
    incoming.path.unlink()
    with pytest.raises(NoResources):
        reception.record_instance(bench.db, incoming, arrival)
    with bench.db.reading() as connection:
        assert connection.execute(select(func.count()).select_from(instance)).scalar() == 0


def test_text_that_no_database_takes_is_mended(bench: Bench) -> None:
    study_id = bench.arrive(description="HEAD\0 \udcff5MM", accession_number="A\0" + "7" * 100)
    details = queries.show(bench.db, study_id)
    assert details["series"][0]["description"] == "HEAD ?5MM"
    assert details["study"]["accession_number"] == "A" + "7" * 63


def test_an_error_tells_no_uid(bench: Bench) -> None:
    incoming, arrival = bench.incoming("1.2.3", T0, uid="1.2.3.4")
    reception.record_instance(bench.db, incoming, arrival)
    with pytest.raises(ConflictingInstance) as caught:
        reception.record_instance(bench.db, replace(incoming, study_uid="1.2.9"), arrival)
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or error.__context__
    assert "1.2.3" not in " ".join(chain)


def test_a_kill_at_any_step_loses_nothing_stored(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "reception", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    *killed, last = lives
    assert len(killed) >= 10
    assert all(life["killed"] for life in killed)
    assert last == {"killed": False, "stored": True, "intact": True, "rows": 1}
    assert not killed[0]["stored"]
    assert all(life["intact"] and life["rows"] == 1 for life in lives)
