"""Seconds from a result to "accepted by the PACS", and to "committed", on loopback: synthetic studies into a real node.

The node runs as users run it, in a process of its own; the PACS is Orthanc, which stores on disk and answers storage
commitment. Studies go in one after the other, each after the results of the one before have arrived, so that nothing
waits behind another study. Times are the node's own, from its database: when the analysis ended and its objects were
queued, when the SR and when the last object was accepted, when the last one was committed.

    python benchmarks/delivery.py --studies 100
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid
from receive import free_port, process, wait_for_echo
from sqlalchemy import create_engine, text

from triage.config import BUNDLED_PACK, Destination
from triage.net import scu
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series

LIMIT_S = 120.0
"""For one study."""

POLL_S = 0.05

HEADS = {True: (8, ("intraparenchymal",)), False: (7, ())}
"""Seed and bleeds of the studies that are sent in turn; the second has none."""

TIMES = text(
    "SELECT a.id, a.outcome, a.finished_at, o.kind, d.state, d.accepted_at, d.committed_at FROM analysis a "
    "JOIN result_object o ON o.analysis_id = a.id JOIN delivery d ON d.object_id = o.id WHERE a.finished_at IS NOT NULL"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--pack", type=Path, default=Path(__file__).resolve().parents[1] / BUNDLED_PACK)
    arguments = parser.parse_args()
    for tool in ("echoscu", "Orthanc"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing; install Debian's dcmtk and orthanc")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        heads = {bleeds: write_head(folder / "heads", bleeds) for bleeds in HEADS}
        port = free_port()
        with process(["Orthanc", str(write_orthanc(folder, port))], orthanc_port(folder), "ORTHANC") as pacs_port:
            write_config(folder, arguments.pack, port, pacs_port)
            command = [sys.executable, "-c", "from triage.cli import main; main()", "serve"]
            with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as node:
                try:
                    wait_for_echo(port, "ICHTRIAGE")
                    for i in range(arguments.studies):
                        send(heads[i % 2 == 0], folder / "sent", port)
                        wait_for(folder, i + 1)
                finally:
                    node.terminate()
                    node.wait(30)
        report(folder, arguments)


def write_head(folder: Path, bleeds: bool) -> list[Path]:
    seed, subtypes = HEADS[bleeds]
    spec = PhantomSpec(subtypes=subtypes, n_slices=16, spacing_mm=9.0, thickness_mm=9.0, volume_ml=(30.0, 40.0))
    return write_series(generate(seed, spec), folder / str(seed), WriterOptions())


def orthanc_port(folder: Path) -> int:
    return int(json.loads((folder / "orthanc.json").read_text())["DicomPort"])


def write_orthanc(folder: Path, node_port: int) -> Path:
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "DicomAet": "ORTHANC",
        "DicomPort": free_port(), "HttpPort": free_port(), "RemoteAccessAllowed": False, "DicomCheckCalledAet": False,
        "DicomModalities": {"node": ["ICHTRIAGE", "127.0.0.1", node_port]},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return folder / "orthanc.json"


def write_config(folder: Path, pack: Path, port: int, pacs_port: int) -> None:
    (folder / "config.toml").write_text(
        f'[node]\nport = {port}\n[model]\npack = "{pack}"\n[completion]\nquiet_s = 0.5\n'
        "[reception]\ndisk_reserve_mb = 0\n[[destinations]]\n"
        f'name = "pacs"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {pacs_port}\n'
    )


def send(paths: Sequence[Path], folder: Path, port: int) -> None:
    """Send a head as a study that the node has not seen."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    study_uid, series_uid = generate_uid(None), generate_uid(None)
    copies = []
    for path in paths:
        ds = dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study_uid, series_uid, generate_uid(None)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / path.name)
        copies.append(folder / path.name)
    node = Destination(name="node", ae_title="ICHTRIAGE", host="127.0.0.1", port=port)
    if bad := [r for r in scu.send("BENCH", node, copies) if r.status != 0]:
        raise SystemExit(f"the node refused an instance: {bad[0].detail}")


def wait_for(folder: Path, studies: int) -> None:
    """Wait until so many studies have a result and every object of theirs is committed."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        rows = read(folder)
        if len({row.id for row in rows}) == studies and all(row.state == "committed" for row in rows):
            return
        time.sleep(POLL_S)
    raise SystemExit(f"study {studies}: not everything was committed within {LIMIT_S:.0f} s")


def read(folder: Path) -> list[Any]:
    engine = create_engine(f"sqlite:///{folder / 'data' / 'triage.db'}")
    with engine.connect() as connection:
        rows = list(connection.execute(TIMES))
    engine.dispose()
    return rows


def report(folder: Path, arguments: argparse.Namespace) -> None:
    studies: dict[int, list[Any]] = {}
    for row in read(folder):
        studies.setdefault(row.id, []).append(row)
    positive = sum(rows[0].outcome == "positive" for rows in studies.values())
    objects = sum(map(len, studies.values()))
    print(
        f"{arguments.pack.name}, {len(studies)} studies ({positive} positive, {objects} objects) to Orthanc on "
        f"loopback, {os.cpu_count()} cores; seconds from the result, p50 and p95"
    )
    says = {
        "SR accepted": [min(r.accepted_at for r in rows if r.kind == "report") for rows in studies.values()],
        "everything accepted": [max(r.accepted_at for r in rows) for rows in studies.values()],
        "everything committed": [max(r.committed_at for r in rows) for rows in studies.values()],
    }
    began = [rows[0].finished_at for rows in studies.values()]
    for what, ended in says.items():
        seconds = sorted(e - b for e, b in zip(ended, began, strict=True))
        print(f"{what:22} {statistics.median(seconds):6.2f} {seconds[int(0.95 * (len(seconds) - 1))]:6.2f}")


if __name__ == "__main__":
    main()
