"""A node without its network, for tests of what happens between reception and delivery."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from triage.config import Completion, Destination
from triage.net.scp import Received
from triage.reception import Receiver, receive
from triage.store import outbox, queries, reception
from triage.store.db import Database
from triage.store.files import Store
from triage.worker import Worker, complete_series

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
COMPLETION = Completion(quiet_s=3.0, max_wait_s=60.0)


@dataclass
class Bench:
    """A node without its network, and its clock."""

    db: Database
    store: Store
    worker: Worker
    receiver: Receiver
    now: float = 1_000_000.0

    def send(self, paths: list[Path], pause_s: float = 0.1) -> None:
        """All files over one association."""
        key = f"assoc-{self.now}"
        reception.association_opened(self.db, key, "CT01", self.now)
        for path in paths:
            self.now += pause_s
            self.arrive(path, key)
        reception.association_closed(self.db, key, self.now)

    def arrive(self, path: Path, key: str = "assoc") -> None:
        ds = dcmread(path, stop_before_pixels=True)
        spooled = self.store.spool / f"tmp-{path.name}"
        spooled.write_bytes(path.read_bytes())
        received = Received(spooled, str(ds.SOPClassUID), str(ds.SOPInstanceUID), key, "CT01")
        receive(self.receiver, received)

    def complete(self, after_s: float) -> int:
        self.now += after_s
        return complete_series(self.db, COMPLETION, self.now)

    def row(self) -> queries.WorklistRow:
        (row,) = queries.worklist(self.db, self.now, everything=True)
        return row

    def due(self, destination: str = "pacs") -> list[outbox.Delivery]:
        return outbox.due_deliveries(self.db, destination, self.now, 100)
