"""The demonstration: node, stand-in PACS and synthetic head CTs on loopback, end to end over TCP; no patient."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from triage.config import MESSAGE_SECTIONS, Completion, Config, Destination, Node, Reception
from triage.dicom.objects import describe_file
from triage.errors import TriageError
from triage.net import scu
from triage.net.standin import StandInPacs
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series
from triage.records import DeliveryState, SendOutcome, StudyState
from triage.service import Service
from triage.store.queries import WorklistRow, deliveries, pending_deliveries, worklist

ENDED = frozenset({StudyState.ANALYSED, StudyState.NOT_ANALYSED})

SENDER_AE = "PHANTOMCT"
PACS_AE = "STANDINPACS"

TIME_LIMIT_S = 300.0
"""After it a demonstration has failed; a slow machine needs about a tenth."""

DEMO_SEEDS = (7, 8)
"""Seeds of the phantom without and of the phantom with a bleed."""

DEMO_SUBTYPE = "intraparenchymal"

DEMO_VOLUME_ML = (25.0, 40.0)
"""A large bleed: what the demonstration shows is the way through the node, not how small a bleed the model sees."""


class DemoFailed(TriageError):
    """The demonstration did not come to its end; the message says where."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demonstration."""

    service: Service
    pacs: StandInPacs
    folder: Path
    arrived: threading.Event
    """Set at each object that reaches the stand-in PACS."""

    def rows(self) -> list[WorklistRow]:
        """The worklist now."""
        return worklist(self.service.db, time.time(), everything=True)


def demo_config(base: Config, folder: Path, port: int, pacs_port: int) -> Config:
    """The configuration of the demonstration: the given model, everything else on loopback and in one folder.

    Args:
        base: Gives model and analysis settings.
        folder: For all data.
        port: Of the node.
        pacs_port: Of the stand-in PACS.

    Returns:
        A configuration that reaches nothing but this machine.
    """
    pacs = Destination(name="stand-in-pacs", ae_title=PACS_AE, host="127.0.0.1", port=pacs_port)
    return base.model_copy(
        update={
            "node": Node(port=port, name="demo", data_dir=folder / "node"),
            "reception": Reception(disk_reserve_mb=64),
            "completion": Completion(quiet_s=1.0, max_wait_s=10.0),
            "destinations": (pacs,),
            **dict.fromkeys(MESSAGE_SECTIONS, ()),
            "database": type(base.database)(),
        }
    )


@contextmanager
def running_demo(base: Config, folder: Path, port: int) -> Iterator[Demo]:
    """Start node and stand-in PACS; stop both at the end.

    Args:
        base: Gives model and analysis settings.
        folder: For all data.
        port: Of the node; 0 lets the operating system choose.

    Yields:
        The running demonstration.

    Raises:
        ConfigError: The node cannot start.
    """
    (folder / "demo.toml").write_text('[node]\ndata_dir = "node"\n')  # for `triage worklist --config`
    arrived = threading.Event()
    pacs = StandInPacs(PACS_AE, folder / "pacs", lambda _path: arrived.set())
    pacs_port = pacs.start()
    service = Service(demo_config(base, folder, port, pacs_port))
    try:
        service.start()
        try:
            yield Demo(service, pacs, folder, arrived)
        finally:
            service.stop()
    finally:
        pacs.stop()


def send_phantom(demo: Demo, seed: int, subtypes: tuple[str, ...]) -> int:
    """Make one synthetic head CT and send it to the node by C-STORE.

    Args:
        demo: The running demonstration.
        seed: Of the phantom.
        subtypes: Bleeds it has; empty for none.

    Returns:
        Number of instances sent.

    Raises:
        DemoFailed: The node did not accept an instance.
    """
    study = generate(seed, PhantomSpec(subtypes=subtypes, volume_ml=DEMO_VOLUME_ML))
    paths = write_series(study, demo.folder / f"phantom-{seed}", WriterOptions())
    host, port = demo.service.address
    node = Destination(name="node", ae_title=demo.service.config.node.ae_title, host=host, port=port)
    reports = scu.send(SENDER_AE, node, paths)
    for report in reports:
        if report.outcome is not SendOutcome.ACCEPTED:
            raise DemoFailed(f"the node did not accept an instance: {report.outcome} {report.detail}")
    return len(reports)


def arrivals(demo: Demo) -> list[tuple[str, str]]:
    """What has reached the stand-in PACS.

    Args:
        demo: The running demonstration.

    Returns:
        Name of the SOP class and series description of each object.
    """
    return [describe_file(path) for path in demo.pacs.stored]


def delivery_summary(demo: Demo) -> str:
    """Say where the objects stand, in words.

    Args:
        demo: The running demonstration.

    Returns:
        Such as "9 objects committed".
    """
    states = [row.state for row in deliveries(demo.service.db, _outputs(demo), everything=True)]
    return ", ".join(f"{states.count(s)} objects {s}" for s in DeliveryState if s in states)


def _outputs(demo: Demo) -> list[str]:
    return [o.name for o in demo.service.config.outputs]


def wait_for_results(demo: Demo, n_studies: int, tell: Callable[[str], None]) -> None:
    """Wait until every study is judged and every object has arrived at the stand-in PACS and is proven to have.

    Args:
        demo: The running demonstration.
        n_studies: How many studies were sent.
        tell: Called with each change of state, in words.

    Raises:
        DemoFailed: It took longer than the time limit.
    """
    deadline = time.monotonic() + TIME_LIMIT_S
    told = ""
    while time.monotonic() < deadline:
        states = [row.state for row in demo.rows()]
        summary = ", ".join(f"{states.count(s)} {s}" for s in StudyState if s in states)
        if summary != told:
            tell(summary)
            told = summary
        ended = len(states) >= n_studies and all(s in ENDED for s in states)
        if ended and not pending_deliveries(demo.service.db) and not deliveries(demo.service.db, _outputs(demo)):
            return
        demo.arrived.wait(0.2)
        demo.arrived.clear()
    raise DemoFailed(f"no result within {TIME_LIMIT_S:.0f} s; the studies are: {told}")
