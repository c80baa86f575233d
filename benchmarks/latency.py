"""Seconds from the last acknowledgement of a study to its SR accepted by the destination: phantom of 32 slices.

The node runs as users run it (a process of its own, shipped configuration: quiet_s = 3), sender and destination in this
process. The waiting time that the configuration asks for is part of the figure and is told beside it.

    python benchmarks/latency.py --runs 10
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pydicom import dcmread
from receive import free_port, wait_for_echo

from triage.config import BUNDLED_PACK, Destination
from triage.net import scu
from triage.net.standin import StandInPacs
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series
from triage.records import SUBTYPES

LIMIT_S = 120.0
SLICES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--pack", type=Path, default=Path(__file__).resolve().parents[1] / BUNDLED_PACK)
    arguments = parser.parse_args()
    accepted = threading.Event()

    def tell(path: Path) -> None:
        if is_report(path):
            accepted.set()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pacs = StandInPacs("PACS", folder / "pacs", tell)
        port, pacs_port = free_port(), pacs.start()
        (folder / "config.toml").write_text(
            f'[node]\nport = {port}\n[model]\npack = "{arguments.pack}"\n[[destinations]]\n'
            f'name = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs_port}\n'
        )
        command = [sys.executable, "-c", "from triage.cli import main; main()", "serve"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as node:
            try:
                wait_for_echo(port, "ICHTRIAGE")
                seconds = [one_run(folder, port, seed, accepted) for seed in range(1000, 1000 + arguments.runs)]
            finally:
                node.terminate()
                node.wait(30)
                pacs.stop()
    print(
        f"{arguments.pack.name}, {SLICES} slices, {arguments.runs} studies, {os.cpu_count()} cores, quiet_s 3: last "
        f"acknowledgement to SR accepted, median {statistics.median(seconds):.1f} s "
        f"({min(seconds):.1f}-{max(seconds):.1f})"
    )


def is_report(path: Path) -> bool:
    return str(dcmread(path, specific_tags=["Modality"]).Modality) == "SR"


def one_run(folder: Path, port: int, seed: int, accepted: threading.Event) -> float:
    """Send one phantom; the SR is the first object of its result to arrive."""
    subtypes = (SUBTYPES[seed % len(SUBTYPES)],)
    paths = write_series(
        generate(seed, PhantomSpec(subtypes=subtypes, n_slices=SLICES)), folder / str(seed), WriterOptions()
    )
    node = Destination(name="node", ae_title="ICHTRIAGE", host="127.0.0.1", port=port)
    accepted.clear()
    reports = scu.send("BENCH", node, paths)
    begin = time.perf_counter()
    if bad := [r for r in reports if r.status != 0]:
        raise SystemExit(f"the node refused an instance: {bad[0].detail}")
    if not accepted.wait(LIMIT_S):
        raise SystemExit(f"no result within {LIMIT_S:.0f} s")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
