import subprocess
import sys
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest
from sqlalchemy import func, select, text
from store.store_bench import T0, Bench, make_result

from triage.errors import ConfigError, NoResources
from triage.store import analysis, queries, reception
from triage.store.db import open_database
from triage.store.schema import association, instance, study


@pytest.mark.parametrize(
    "url",
    ["no url at all", "nosuchdialect://host/db", "sqlite:////nonexistent/folder/triage.db", "sqlite://",
     "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"],
)  # fmt: skip
def test_a_database_that_cannot_be_opened_names_the_key(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^database\.url: ") as caught:
        open_database(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_the_key(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy.dialects.oracle")
    with pytest.raises(ConfigError, match=r"^database\.url: .*oracledb"):
        open_database("oracle+oracledb://scott:tiger@host/db", tmp_path)


def test_no_password_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ConfigError) as caught:
        open_database(f"sqlite://user:secret@/{folder}", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "triage.db"
    path.write_bytes(b"not a database, but somebody's letter" * 100)
    with pytest.raises(ConfigError, match=r"database\.url.*not a database"):
        open_database(f"sqlite:///{path}", tmp_path)
    assert path.read_bytes().startswith(b"not a database")


def test_commits_reach_the_disk(bench: Bench) -> None:
    with bench.db.writing() as connection:
        settings = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_what_an_exception_leaves_is_undone(bench: Bench) -> None:
    def write_and_fail() -> None:
        with bench.db.writing() as connection:
            connection.execute(association.insert().values(key="k", calling_ae="CT", opened_at=T0))
            raise KeyError("on purpose")

    with pytest.raises(KeyError):
        write_and_fail()
    with bench.db.reading() as connection:
        assert connection.execute(select(func.count()).select_from(association)).scalar() == 0


def test_a_reader_waits_for_no_writer(bench: Bench) -> None:
    study_id = bench.arrive()
    with bench.db.writing() as connection:
        connection.execute(study.update().values(state="ready"))
        shown: list[object] = []
        reader = Thread(target=lambda: shown.append(queries.show(bench.db, study_id)["study"]["state"]))
        reader.start()
        reader.join(5)
        assert shown == ["receiving"]  # what was committed
    assert queries.show(bench.db, study_id)["study"]["state"] == "ready"


def test_a_locked_database_is_no_resources(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.store.db.BUSY_S", 0.2)
    other = open_database(f"sqlite:///{bench.store.root / 'triage.db'}", bench.store.root)
    incoming, arrival = bench.incoming("1.2.3", T0)
    with bench.db.writing():
        with pytest.raises(NoResources, match="locked"):  # another process, or another engine in this one
            reception.record_instance(other, incoming, arrival)
        caught: list[BaseException] = []

        def record() -> None:
            try:
                reception.record_instance(bench.db, incoming, arrival)
            except NoResources as e:
                caught.append(e)

        thread = Thread(target=record)  # another thread of the same node
        thread.start()
        thread.join(5)
        assert len(caught) == 1
    assert reception.record_instance(other, incoming, arrival) == 1
    other.close()


def test_threads_never_see_a_locked_database(bench: Bench) -> None:
    """Four receivers, a clock and a reader at once: every instance is recorded, nobody is refused."""
    start = Barrier(6)
    done = Event()

    def receive(thread: int) -> None:
        start.wait(10)
        reception.association_opened(bench.db, f"a{thread}", "CT", T0)
        for i in range(20):
            bench.arrive(f"1.2.{i % 5}", T0 + i, association=f"a{thread}", uid=f"1.9.{thread}.{i}")
        reception.association_closed(bench.db, f"a{thread}", T0 + 30)

    def tick() -> None:
        start.wait(10)
        while not done.is_set():
            bench.complete_some(T0 + 50)
            claim = analysis.claim_study(bench.db, T0 + 50)
            if claim is not None:
                bench.finish(claim, make_result(), T0 + 50)

    def look() -> None:
        start.wait(10)
        while not done.is_set():
            for row in queries.worklist(bench.db, T0 + 50):
                queries.show(bench.db, row.study_id)

    receivers = [Thread(target=receive, args=(n,)) for n in range(4)]  # pytest fails on an exception in a thread
    others = [Thread(target=work) for work in (tick, look)]
    for thread in receivers + others:
        thread.start()
    for thread in receivers:
        thread.join(60)
    done.set()
    for thread in others:
        thread.join(60)
    with bench.db.reading() as connection:
        assert connection.execute(select(func.count()).select_from(instance)).scalar() == 80
        assert connection.execute(select(func.count()).select_from(study)).scalar() == 5


COMMAND = """
import sys
from pathlib import Path
from triage.store.db import open_database
from triage.store import queries, reception
url, root, name = sys.argv[1:]
for i in range(15):
    with open_database(url, Path(root)) as db:
        reception.association_opened(db, f"{name}-{i}", "CT", 1.0)
        queries.worklist(db, 2.0)
"""


def test_processes_open_write_and_close_at_once(tmp_path: Path) -> None:
    """From no file at all: three commands create, migrate, write and close, again and again."""
    url = f"sqlite:///{tmp_path / 'triage.db'}"
    children = [
        subprocess.Popen([sys.executable, "-c", COMMAND, url, str(tmp_path), name], stderr=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert errors == ["", "", ""]
    with open_database(url, tmp_path) as db, db.reading() as connection:
        assert connection.execute(select(func.count()).select_from(association)).scalar() == 45


def test_the_folder_can_be_moved(bench: Bench, tmp_path: Path) -> None:
    bench.arrive("1.2.3", uid="1.2.3.4")
    bench.db.close()
    moved = bench.store.root.rename(tmp_path / "elsewhere")
    with open_database(f"sqlite:///{moved / 'triage.db'}", moved) as db:
        stored = reception.find_instance(db, "1.2.3.4")
    assert stored is not None
    assert stored.path.is_relative_to(moved)
    assert stored.path.read_bytes() == b"bytes of a data set"


def test_a_path_outside_the_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subpath"):
        bench.db.relative(tmp_path / "elsewhere.dcm")
