"""Instances a second: 300 CT slices of 0.5 MB over one and four associations, beside DCMTK storescp and Orthanc.

One sender for all (DCMTK storescu, TCP_NODELAY=1, a new SOP Instance UID for each image), the receivers in turn within
each round, medians over the rounds. This node and Orthanc store durably and keep a database; storescp does neither.

    python benchmarks/receive.py --rounds 3
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from triage.config import BUNDLED_PACK
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series

START_LIMIT_S = 60.0

NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}
"""Makes DCMTK, sender and receiver, not wait 40 ms for each acknowledgement."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for_echo(port: int, ae_title: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    command = ["echoscu", "-aec", ae_title, "127.0.0.1", str(port)]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"{ae_title} did not start within {START_LIMIT_S:.0f} s")
        time.sleep(0.2)


@contextmanager
def process(command: list[str], port: int, ae_title: str) -> Iterator[int]:
    with subprocess.Popen(command, env=NO_DELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait_for_echo(port, ae_title)
            yield port
        finally:
            running.terminate()
            running.wait(30)


def triage_node(folder: Path) -> AbstractContextManager[int]:
    port = free_port()
    root = Path(__file__).resolve().parents[1]
    (folder / "config.toml").write_text(
        f'[node]\nport = {port}\ndata_dir = "data"\n[model]\npack = "{root / BUNDLED_PACK}"\n'
        "[completion]\nquiet_s = 3600.0\nmax_wait_s = 3600.0\n[reception]\ndisk_reserve_mb = 0\n"
    )
    command = [sys.executable, "-c", "from triage.cli import main; main()", "serve", "-c", str(folder / "config.toml")]
    return process(command, port, "ICHTRIAGE")


def storescp(folder: Path) -> AbstractContextManager[int]:
    port = free_port()
    return process(["storescp", "-pdu", "131072", "-od", str(folder), str(port)], port, "STORESCP")


def orthanc(folder: Path) -> AbstractContextManager[int]:
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "DicomAet": "ORTHANC",
        "DicomPort": port, "HttpPort": free_port(), "RemoteAccessAllowed": False, "DicomCheckCalledAet": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return process(["Orthanc", str(folder / "orthanc.json")], port, "ORTHANC")


RECEIVERS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[int]]]] = {
    "ich-triage": ("ICHTRIAGE", triage_node),
    "storescp": ("STORESCP", storescp),
    "Orthanc": ("ORTHANC", orthanc),
}


def send(paths: list[Path], port: int, ae_title: str, associations: int) -> float:
    """Seconds to send all paths over so many associations at once."""
    share = -(-len(paths) // associations)
    command = ["storescu", "-pdu", "131072", "+II", "-aec", ae_title, "127.0.0.1", str(port)]
    begin = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, *map(str, paths[i : i + share])],
            env=NO_DELAY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(0, len(paths), share)
    ]
    answers = [(s.communicate()[1], s.returncode) for s in senders]
    took = time.perf_counter() - begin
    if bad := [error for error, code in answers if code]:
        raise SystemExit(f"{ae_title}: storescu failed: {bad[0].decode(errors='replace').strip()[:400]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=300)
    arguments = parser.parse_args()
    for tool in ("storescu", "echoscu", "storescp", "Orthanc"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing; install Debian's dcmtk and orthanc")
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        study = generate(1, PhantomSpec(subtypes=(), n_slices=30))
        paths = write_series(study, folder / "sent", WriterOptions()) * (arguments.slices // 30)
        size_mb = paths[0].stat().st_size / 1e6
        ports = {}
        for name, (_, start) in RECEIVERS.items():
            (folder / name).mkdir()
            ports[name] = stack.enter_context(start(folder / name))
        for _ in range(arguments.rounds):
            for associations in (1, 4):
                for name, (ae_title, _) in RECEIVERS.items():
                    took = send(paths, ports[name], ae_title, associations)
                    rates.setdefault((name, associations), []).append(len(paths) / took)
    print(f"{len(paths)} slices of {size_mb:.2f} MB, {arguments.rounds} rounds, instances/s: median (min-max)")
    for (name, associations), values in rates.items():
        median = statistics.median(values)
        print(f"{name:12} {associations} associations: {median:6.0f} ({min(values):.0f}-{max(values):.0f})")


if __name__ == "__main__":
    main()
