import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import pytest
from store.store_bench import Bench, writer_of

from triage.errors import ConfigError, NoResources, UnreadableInstance
from triage.store.files import Store


def test_an_instance_is_moved_out_of_the_spool_unchanged(bench: Bench) -> None:
    temporary = bench.file(b"abc" * 1000)
    path = bench.store.keep_instance(temporary, "1.2.3", "1.2.3.4")
    assert path.read_bytes() == b"abc" * 1000
    assert path.is_relative_to(bench.store.instances)
    assert not temporary.exists()


def test_no_path_shows_a_uid(bench: Bench) -> None:
    kept = bench.store.keep_instance(bench.file(), "1.2.840.99", "1.2.840.99.7")
    written = bench.store.write_result("1.2.840.99", "2.25.77", writer_of(b"x"))
    for path in (kept, written):
        assert "1.2.840" not in str(path.relative_to(bench.store.root))
        assert "2.25.77" not in str(path.relative_to(bench.store.root))


def test_a_received_file_replaces_no_other_one(bench: Bench) -> None:
    """A crash between file and row, or two associations at once: the second file must not touch the first."""
    first = bench.store.keep_instance(bench.file(b"first"), "1.2.3", "1.2.3.4")
    second = bench.store.keep_instance(bench.file(b"second"), "1.2.3", "1.2.3.4")
    assert first.read_bytes() == b"first"
    assert second.read_bytes() == b"second"


@pytest.mark.parametrize(
    "uid", ["", "..", ".", "1..2", "1.2/../../etc", "1.2.a", "1.2\n", "/1.2", "1" * 65, "1.2\0", "¹.²"]
)
def test_what_is_no_uid_never_reaches_a_path(bench: Bench, uid: str) -> None:
    temporary = bench.file()
    before = sorted(bench.store.root.rglob("*"))
    for pair in ((uid, "1.2.3"), ("1.2.3", uid)):
        with pytest.raises(UnreadableInstance):
            bench.store.keep_instance(temporary, *pair)
        with pytest.raises(UnreadableInstance):
            bench.store.write_result(*pair, writer_of(b"x"))
    assert sorted(bench.store.root.rglob("*")) == before


def test_an_instance_that_cannot_be_kept_is_to_be_sent_again(bench: Bench) -> None:
    with pytest.raises(NoResources) as caught:
        bench.store.keep_instance(bench.store.spool / "gone.dcm", "1.2.3", "1.2.3.4")
    assert "1.2.3" not in str(caught.value)
    assert list(bench.store.instances.rglob("*.dcm")) == []


def test_a_result_is_written_again_in_place(bench: Bench) -> None:
    first = bench.store.write_result("1.2.3", "2.25.1", writer_of(b"first try"))
    with first.open("rb") as sending:
        second = bench.store.write_result("1.2.3", "2.25.1", writer_of(b"second"))
        assert sending.read() == b"first try"  # replaced as a whole, never written over
    assert first == second
    assert second.read_bytes() == b"second"


def test_files_and_their_folders_are_synced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the caller goes on, and so before 0x0000: content, entry, and the entry of a new folder."""
    synced: set[str] = set()
    fsync = os.fsync

    def recording(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recording)
    cases: tuple[tuple[Callable[[], Path], str], ...] = (
        (lambda: bench.store.keep_instance(bench.file(), "1.2.3", "1.2.3.4"), "instances"),
        (lambda: bench.store.write_result("1.2.3", "2.25.1", writer_of(b"x")), "results"),
    )
    for keep, top in cases:
        synced.clear()
        path = keep()
        content = {path.name, path.with_suffix(".part").name}  # synced under its last name or the one before
        assert synced & content
        assert synced - content == {path.parent.name, top}


def test_a_failed_writer_leaves_nothing(bench: Bench) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        bench.store.write_result("1.2.3", "2.25.1", fail)
    assert [p for p in bench.store.results.rglob("*") if p.is_file()] == []


HALF_A_RESULT = """
import sys, time
from pathlib import Path
from triage.store.files import Store

def write(file):
    file.write(b"half" * 100000)
    file.flush()
    print("half", flush=True)
    sys.stdin.read()

Store(Path(sys.argv[1])).write_result("1.2.3", "2.25.1", write)
"""


def test_a_writer_killed_half_way_leaves_no_result(bench: Bench) -> None:
    complete = bench.store.write_result("1.2.3", "2.25.1", writer_of(b"the first, complete"))
    command = [sys.executable, "-c", HALF_A_RESULT, str(bench.store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert complete.read_bytes() == b"the first, complete"
    assert bench.store.write_result("1.2.3", "2.25.1", writer_of(b"again")).read_bytes() == b"again"
    assert [p.name for p in complete.parent.iterdir()] == [complete.name]


def test_threads_keep_instances_of_a_new_study_at_once(bench: Bench) -> None:
    files = [bench.file(str(i).encode()) for i in range(40)]
    kept: dict[int, Path] = {}

    def keep(indices: range) -> None:
        for i in indices:
            kept[i] = bench.store.keep_instance(files[i], "1.2.3", f"1.2.3.{i}")

    threads = [Thread(target=keep, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: p.read_bytes() for i, p in kept.items()} == {i: str(i).encode() for i in range(40)}


def test_folders_are_for_the_node_only(bench: Bench) -> None:
    for folder in (bench.store.root, bench.store.spool, bench.store.instances, bench.store.results):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"node\.data_dir.*cannot be written"):
        Store(tmp_path / "file" / "data").prepare()


def test_one_node_a_folder(bench: Bench) -> None:
    code = "import sys; from pathlib import Path; from triage.store.files import Store\n"
    code += "with Store(Path(sys.argv[1])).locked(): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(bench.store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=r"node\.data_dir.*another node"), bench.store.locked():
            pass
        other.kill()
    with bench.store.locked():  # the kill has freed it
        pass


def test_free_bytes_is_what_the_file_system_says(bench: Bench) -> None:
    status = os.statvfs(bench.store.root)
    total = status.f_blocks * status.f_frsize
    assert 0 < bench.store.free_bytes() <= total


def test_discarded_images_are_gone_and_others_stay(bench: Bench) -> None:
    gone = bench.store.keep_instance(bench.file(), "1.2.3", "1.2.3.4")
    stays = bench.store.keep_instance(bench.file(), "1.2.4", "1.2.4.4")
    result = bench.store.write_result("1.2.3", "2.25.1", writer_of(b"x"))
    bench.store.discard_study_images("1.2.3")
    bench.store.discard_study_images("1.2.3")  # as after a kill: nothing left to do
    assert not gone.exists()
    assert stays.exists()
    assert result.exists()
    bench.store.empty_trash()
    assert list(bench.store.trash.iterdir()) == []
    again = bench.store.keep_instance(bench.file(), "1.2.3", "1.2.3.4")
    assert again.exists()
