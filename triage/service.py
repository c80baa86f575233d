"""Startup -> main loop -> shutdown: wires configuration, listener, worker, outbox and clock; decides nothing itself.

Signals only set a flag. The scheduler only ticks: what is due stands in the database, so a tick that comes late or
twice does no harm, and a node that was killed goes on where its database says it stood.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

from apscheduler.schedulers.background import BackgroundScheduler

from triage import __version__
from triage.config import Config, Destination, MessageOutput
from triage.dicom.equipment import NodeIdentity
from triage.dicom.pixels import Decoder
from triage.net.scp import Callbacks, Listener, Received, sweep_spool
from triage.nn.pack import load_pack
from triage.nn.predict import pick_device
from triage.outbox import Sender, commit_due, deliver_due, take_answer
from triage.pipeline import Tools
from triage.reception import Receiver, receive
from triage.store import analysis, outbox, reception
from triage.store.db import Database, open_database
from triage.store.files import Store
from triage.store.queries import given_up_deliveries, pending_deliveries
from triage.store.retention import delete_expired_images, delete_orphans
from triage.worker import Worker, complete_series, loop, run_one

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How often the database is asked what is due."""

SWEEP_S = 600.0
"""How often broken transfers and expired images are looked for."""

SPOOL_AGE_S = 600.0
"""Age from which a file in the spool is the remains of a broken transfer."""

ORPHAN_AGE_S = 3600.0
"""Age from which a received file without a row was never acknowledged."""

POLL_S = 0.2
"""How often the main thread looks whether a signal has come."""

DAY_S = 86400.0

END_S = 1.0
"""Time that a thread without work gets to end, also when the grace is used up."""

STOP_GRACE_S = 10.0
"""Time that running associations and a running analysis get at the stop."""


def node_identity(config: Config) -> NodeIdentity:
    """Who signs the results, as configured.

    Args:
        config: The configuration.

    Returns:
        The identity that every object carries.
    """
    results = config.results
    return NodeIdentity(
        node_name=config.node.name,
        sop_class=results.sop_class,
        max_key_slices=results.max_key_slices,
        regions=results.regions,
        captures=results.captures,
        capture_mode=results.capture_mode,
        key_object=results.key_object,
        presentation_state=results.presentation_state,
        activation_map=results.activation_map,
        rejects_superseded=results.superseded == "reject",
    )


def load_tools(config: Config, decoder: Decoder) -> Tools:
    """Load the model pack onto its device.

    Args:
        config: The configuration.
        decoder: A started decoder.

    Returns:
        What an analysis works with.

    Raises:
        PackError: The pack is missing, altered or inconsistent.
        ConfigError: The configured device is not there.
    """
    pack = load_pack(config.model.pack, pick_device(config.model.device))
    return Tools(pack, decoder, config.model.precision)


class Service:
    """A running node, from `start` to `stop`."""

    def __init__(self, config: Config) -> None:
        """Keep the configuration; opens nothing.

        Args:
            config: The validated configuration.
        """
        self.config = config
        self._asked_to_stop = False
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._stop_by = 0.0
        self._wakes: list[threading.Event] = []
        self._resources = ExitStack()
        self._listener: Listener | None = None
        self._db: Database | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port the node listens on; only after `start`."""
        assert self._listener is not None
        return self._listener.address

    @property
    def db(self) -> Database:
        """The open database; only after `start`."""
        assert self._db is not None
        return self._db

    def start(self) -> None:
        """Check everything, resume what an earlier process left, then listen.

        Raises:
            ConfigError: Folder, database, model pack, device or port cannot be used; nothing stays open.
        """
        with ExitStack() as stack:
            self._start(stack)
            self._resources = stack.pop_all()
        log.info(
            "node_started version=%s ae_title=%s host=%s port=%d destinations=%d messages=%d",
            __version__,
            self.config.node.ae_title,
            *self.address,
            len(self.config.destinations),
            len(self.config.messages),
        )

    def run(self) -> None:
        """Wait until `request_stop` or a signal, then stop."""
        while not self._asked_to_stop:
            time.sleep(POLL_S)
        self.stop()

    def request_stop(self) -> None:
        """Ask `run` to end; safe in a signal handler, as an Event, whose lock the main thread may hold, is not."""
        self._asked_to_stop = True

    def stop(self) -> None:
        """Refuse new associations, let running work finish or abandon it, close everything; states stay resumable."""
        self._stopping.set()
        self._stop_by = time.monotonic() + STOP_GRACE_S
        self._resources.close()
        log.info("node_stopped")

    def _start(self, stack: ExitStack) -> None:
        config = self.config
        store = Store(config.node.data_dir)
        store.prepare()
        stack.callback(store.close)
        stack.enter_context(store.locked())
        decoder = stack.enter_context(Decoder(config.analysis.decode_timeout_s))
        tools = load_tools(config, decoder)
        db = self._db = open_database(config.database_url, config.node.data_dir)
        stack.callback(db.close)
        _resume(db, store)
        sender = Sender(db, config.node.ae_title, config.delivery)
        delivering = [self._delivering(stack, sender, output) for output in config.outputs]
        worker = Worker(config, db, store, tools, node_identity(config), self._abandoned)
        stack.enter_context(self._looping("analysis", _then_wake(partial(run_one, worker), delivering)))
        stack.enter_context(self._ticking(worker))
        answering = {d.ae_title for d in config.destinations if d.storage_commitment != "off"}
        callbacks = self._callbacks(sender, store)
        self._listener = Listener(config.node, config.reception, store.spool, callbacks, answering)
        self._listener.start()
        stack.callback(self._listener.stop, STOP_GRACE_S)

    def _delivering(
        self, stack: ExitStack, sender: Sender, output: Destination | MessageOutput
    ) -> threading.Event:
        """Loops for one output: one that sends, and one that asks for commitment to what was accepted.

        Returns:
            Set when there is something to send.
        """
        committing = []
        if isinstance(output, Destination) and output.storage_commitment != "off":
            committing.append(threading.Event())
            step: Callable[[], object] = partial(commit_due, sender, output)
            stack.enter_context(self._looping(f"commitment {output.name}", step, committing[0]))
        wake = threading.Event()
        step = _then_wake(partial(deliver_due, sender, output), committing)
        stack.enter_context(self._looping(f"delivery {output.name}", step, wake))
        return wake

    def _callbacks(self, sender: Sender, store: Store) -> Callbacks:
        db = sender.db
        receiver = Receiver(db, store, self.config.reception.disk_reserve_mb << 20, self._stopping.is_set)

        def on_received(received: Received) -> None:
            receive(receiver, received)

        def on_opened(key: str, calling_ae: str) -> None:
            reception.association_opened(db, key, calling_ae, time.time())

        def on_closed(key: str) -> None:
            reception.association_closed(db, key, time.time())

        return Callbacks(on_received, on_opened, on_closed, partial(take_answer, sender))

    @contextmanager
    def _looping(
        self, name: str, step: Callable[[], object], wake: threading.Event | None = None
    ) -> Iterator[None]:
        """A thread that repeats a step; it ends after the step it is at, or is abandoned when the grace is over."""
        wake = wake or threading.Event()
        self._wakes.append(wake)
        thread = threading.Thread(target=loop, args=(step, self._stopping, wake), name=name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            wake.set()
            thread.join(max(END_S, self._stop_by - time.monotonic()))
            if thread.is_alive():
                self._abandoned.set()  # before anything it works with is closed
                log.warning("abandoned thread=%r", name)

    @contextmanager
    def _ticking(self, worker: Worker) -> Iterator[None]:
        scheduler = BackgroundScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        scheduler.add_job(partial(self._tick, worker), "interval", seconds=TICK_S, id="tick")
        scheduler.add_job(partial(_sweep, worker), "interval", seconds=SWEEP_S, id="sweep")
        scheduler.start()
        try:
            yield
        finally:
            scheduler.shutdown(wait=True)

    def _tick(self, worker: Worker) -> None:
        """Mark what is complete, and let every loop look for what is due."""
        try:
            complete_series(worker.db, self.config.completion, time.time())
        finally:
            for wake in self._wakes:
                wake.set()


def _then_wake(step: Callable[[], object], wakes: Sequence[threading.Event]) -> Callable[[], object]:
    """A step that, where it did something, wakes those who wait for it at once instead of at the next tick."""

    def stepping() -> object:
        done = step()
        if done:
            for wake in wakes:
                wake.set()
        return done

    return stepping


def _resume(db: Database, store: Store) -> None:
    """Undo what only a living process can hold: open associations, claims, objects on their way, half transfers."""
    now = time.time()
    reception.close_all_associations(db, now)
    analysis.release_claims(db)
    unanswered = outbox.release(db, now)
    swept = sweep_spool(store.spool, 0.0, now)
    log.info("resumed swept=%d unanswered=%d to_send=%d", swept, unanswered, pending_deliveries(db))
    if given_up := given_up_deliveries(db):
        log.warning("deliveries_given_up objects=%d; `triage deliveries` lists them", given_up)


def _sweep(worker: Worker) -> None:
    """Remove the remains of broken transfers and the images of studies past their retention."""
    now = time.time()
    swept = sweep_spool(worker.store.spool, SPOOL_AGE_S, now)
    days = worker.config.retention.days
    expired = delete_expired_images(worker.db, worker.store, now - days * DAY_S, now) if days else 0
    orphans = delete_orphans(worker.db, worker.store, now - ORPHAN_AGE_S)
    if swept or expired or orphans:
        log.info("swept spool=%d studies=%d orphans=%d", swept, expired, orphans)


def serve(config: Config) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    Args:
        config: The validated configuration.

    Raises:
        ConfigError: The node cannot start.
    """
    service = Service(config)

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        service.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    service.start()
    service.run()
