"""Startup checks a person can run: configuration, disk, database, model pack, GPU, outputs; each with its mend.

Each destination gets a test object, the same one each time, and is asked for commitment to it. Nothing is sent to the
other outputs: a test message could be taken for a result.
"""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from triage.config import Config, Destination, Hl7Output, HttpOutput, MailOutput, MessageOutput
from triage.dicom import probe
from triage.errors import ConfigError, DeliveryError, NoResources
from triage.net import commitment, scu
from triage.net.scp import Callbacks, Listener
from triage.nn.pack import verify_pack
from triage.nn.predict import device_name, pick_device
from triage.notify.attempts import no_connection, read_secret, tls_context
from triage.outbox import Sender, new_transaction_uid, take_answer
from triage.records import SendOutcome, SendReport
from triage.store.commitment import failure_words, record_test, test_answer
from triage.store.db import Database, open_database
from triage.store.files import Store

ANSWER_S = 20.0
"""How long a destination's answer to storage commitment is waited for; archives with tape take longer."""

POLL_S = 0.1
"""How often the database is asked for it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    is_ok: bool
    text: str
    """What was found, or what is wrong and what to do."""


def examine(config: Config, echo_only: bool = False) -> Iterator[Check]:
    """Run every check; none stops the others.

    Args:
        config: A configuration that has been validated.
        echo_only: Only C-ECHO at the destinations: no test object.

    Yields:
        One check a line.
    """
    yield Check("configuration", True, "every key known and valid")
    yield _folder(config)
    yield _disk(config)
    yield _database(config)
    yield _pack(config)
    yield _device(config)
    node = _call_node(config)
    yield _node(config, node)
    if not config.outputs:
        yield Check(
            "destinations", True, "none configured: results stay in node.data_dir; add [[destinations]] to send them"
        )
    with _listening(config, is_needed=not echo_only and _is_down(node)) as faults:
        yield from faults
        for destination in config.destinations:
            yield from _destination(config, destination, echo_only)
    for output in config.messages:
        yield _message_output(output)


def _folder(config: Config) -> Check:
    try:
        Store(config.node.data_dir).prepare()
    except ConfigError as e:
        return Check("folder", False, str(e))
    return Check("folder", True, f"{config.node.data_dir} can be written")


def _disk(config: Config) -> Check:
    folder = config.node.data_dir
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free >> 20
    reserve_mb = config.reception.disk_reserve_mb
    if free_mb < reserve_mb:
        return Check(
            "disk",
            False,
            f"{free_mb} MiB free, below reception.disk_reserve_mb = {reserve_mb}: every instance "
            "would be refused with A700; free space or lower the reserve",
        )
    return Check("disk", True, f"{free_mb} MiB free, reserve {reserve_mb} MiB")


def _database(config: Config) -> Check:
    try:
        open_database(config.database_url, config.node.data_dir).close()
    except ConfigError as e:
        return Check("database", False, str(e))
    return Check("database", True, "opened, schema up to date")


def _pack(config: Config) -> Check:
    try:
        lines = verify_pack(config.model.pack)
    except ConfigError as e:
        return Check("model pack", False, str(e))
    return Check("model pack", True, f"{lines[0]}; hashes agree")


def _device(config: Config) -> Check:
    try:
        device = pick_device(config.model.device)
    except ConfigError as e:
        return Check("GPU", False, str(e))
    return Check("GPU", True, f"analyses run on {device_name(device)}")


def _call_node(config: Config) -> SendReport | None:
    """C-ECHO to this very node, by the titles of one that it admits; None where its port is not known."""
    node, reception = config.node, config.reception
    if node.port == 0:
        return None
    called = (*reception.called_aets, node.ae_title)[0]
    peer = Destination(
        name="node", ae_title=called, host=_own_host(config), port=node.port, connect_timeout_s=3.0,
        response_timeout_s=5.0)  # fmt: skip
    return scu.echo((*reception.calling_aets, node.ae_title)[0], peer)


def _own_host(config: Config) -> str:
    return "127.0.0.1" if config.node.host in ("0.0.0.0", "::", "") else config.node.host


def _is_down(node: SendReport | None) -> bool:
    return node is not None and node.outcome is SendOutcome.UNREACHABLE


def _node(config: Config, report: SendReport | None) -> Check:
    """Whether this very node is up; that it is not is no fault."""
    if report is None:
        return Check("node", True, "node.port = 0: the operating system chooses a port at the start")
    title, where = config.node.ae_title, f"{_own_host(config)}:{config.node.port}"
    if report.outcome is SendOutcome.ACCEPTED:
        return Check("node", True, f"running: {title} answers C-ECHO on {where}")
    if report.outcome is SendOutcome.UNREACHABLE:
        return Check("node", True, f"not running on {where}; start it with `triage serve`")
    return Check(
        "node",
        False,
        f"something on {where} refuses C-ECHO as {title}: {report.detail}; is another program on that port, or a "
        "node that was started with other AE titles?",
    )


@contextmanager
def _listening(config: Config, *, is_needed: bool) -> Iterator[list[Check]]:
    """Stand in for a node that is down while answers to storage commitment are awaited; takes no images.

    Yields:
        What is wrong with it, if anything.
    """
    answering = [d for d in config.destinations if d.storage_commitment != "off"]
    if not is_needed or not answering:
        yield []
        return
    faults: list[Check] = []
    with ExitStack() as stack:
        try:
            db = stack.enter_context(open_database(config.database_url, config.node.data_dir))
            sender = Sender(db, config.node.ae_title, config.delivery)
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            callbacks = Callbacks(_refuse, _refuse, lambda _key: None, partial(take_answer, sender))
            titles = {d.ae_title for d in answering}
            listener = Listener(config.node, config.reception, spool, callbacks, titles)
            listener.start()
            stack.callback(listener.stop, 0.0)
        except ConfigError as e:
            faults.append(Check("listener", False, f"answers to storage commitment cannot come in: {e}"))
        yield faults


def _refuse(*_: object) -> None:
    """Whoever sends images now may try again.

    Raises:
        NoResources: Always.
    """
    raise NoResources("the node is not running")


def _destination(config: Config, destination: Destination, echo_only: bool) -> Iterator[Check]:
    """C-ECHO, then a test object, then commitment to it; what fails ends it."""
    echo = _echo(config, destination)
    yield echo
    if echo_only or not echo.is_ok:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.dcm"
        probe.write_probe(path)
        report, = scu.send(config.node.ae_title, destination, [path])
    yield _stored(destination, report)
    if report.outcome is SendOutcome.ACCEPTED and destination.storage_commitment != "off":
        yield _committed(config, destination)


def _echo(config: Config, destination: Destination) -> Check:
    report = scu.echo(config.node.ae_title, destination)
    where = f"{destination.ae_title} at {destination.host}:{destination.port}"
    name = f"destination {destination.name}"
    if report.outcome is SendOutcome.ACCEPTED:
        return Check(name, True, f"{where} answers C-ECHO")
    if report.outcome is SendOutcome.UNREACHABLE:
        return Check(name, False, f"{where}: {report.detail}; check host, port, firewall and that the PACS is up")
    return Check(
        name, False, f"{where}: {report.detail}; check ae_title there, and that the PACS knows {config.node.ae_title}"
    )


def _stored(destination: Destination, report: SendReport) -> Check:
    name = f"storage {destination.name}"
    if report.outcome is SendOutcome.ACCEPTED:
        kept = f" ({report.detail})" if report.detail else ""
        return Check(
            name,
            True,
            f"took the test object{kept}, patient {probe.PATIENT_NAME}, ID {probe.PATIENT_ID}, which may be deleted; "
            "it is the same one each time",
        )
    if report.status is None and report.outcome is SendOutcome.REFUSED and "capture" not in destination.objects:
        return Check(name, True, f"not tested: {report.detail}, and it is to get no captures")
    mend = "allow storage from this AE title there, and look at its log"
    return Check(name, False, f"did not take a test object: {report.detail}; {mend}")


def _committed(config: Config, destination: Destination) -> Check:
    """Ask for commitment to the test object; the answer comes to this process or to the running node."""
    name = f"commitment {destination.name}"
    try:
        with open_database(config.database_url, config.node.data_dir) as db:
            return _ask(config, db, destination)
    except (ConfigError, NoResources) as e:
        return Check(name, False, f"not tested: {e}")


def _ask(config: Config, db: Database, destination: Destination) -> Check:
    name, title = f"commitment {destination.name}", config.node.ae_title
    sender = Sender(db, title, config.delivery)
    transaction_uid = new_transaction_uid()
    record_test(db, transaction_uid, destination.name, probe.SOP_INSTANCE_UID, time.time())
    references = [(probe.SOP_CLASS_UID, probe.SOP_INSTANCE_UID)]
    report = commitment.request(title, destination, transaction_uid, references, partial(take_answer, sender))
    if report.outcome is SendOutcome.UNSUPPORTED and destination.storage_commitment == "auto":
        return Check(name, True, f"{report.detail}: what it accepts counts as delivered")
    if report.outcome is SendOutcome.UNSUPPORTED:
        mend = 'enable it there, or set storage_commitment = "auto" to have its acceptance count'
        return Check(name, False, f"{report.detail}, which is required here; {mend}")
    if report.outcome is not SendOutcome.ACCEPTED:
        return Check(name, False, f"the request was not taken: {report.detail}; allow it for {title} there")
    return _answer(config, db, name, transaction_uid)


def _answer(config: Config, db: Database, name: str, transaction_uid: str) -> Check:
    deadline = time.monotonic() + ANSWER_S
    while (found := test_answer(db, transaction_uid)) is None or not found[0]:
        if time.monotonic() > deadline:
            node = config.node
            return Check(
                name,
                False,
                f"took the request but did not answer within {ANSWER_S:g} s; does it know {node.ae_title} at this "
                f"host and port {node.port}? Add it there as the peer that storage commitment is answered to",
            )
        time.sleep(POLL_S)
    if (reason := found[1]) is not None:
        return Check(name, False, f"refused for the test object: {failure_words(reason)}; look at the log there")
    return Check(name, True, "answered: the test object is safely stored")


def _message_output(output: MessageOutput) -> Check:
    """Whether something listens there, with a trusted certificate where TLS is configured; sends no message."""
    if isinstance(output, HttpOutput):
        url = urlsplit(output.url)
        is_tls = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if is_tls else 80)
    else:
        host, port = output.host, output.port
        is_tls = output.tls if isinstance(output, Hl7Output) else output.security == "tls"
    name = f"output {output.name}"
    try:
        _check_secret(output)
        _connect(output, host, port, is_tls=is_tls)
    except DeliveryError as e:
        return Check(name, False, f"{e}; check address, firewall and that the receiver is up")
    how = "over TLS, its certificate is trusted" if is_tls else "without TLS"
    if isinstance(output, MailOutput) and output.security == "starttls":
        how = "(STARTTLS and login are tried with the first mail)"
    return Check(name, True, f"{host}:{port} is connected {how}; no message was sent")


def _check_secret(output: MessageOutput) -> None:
    """Read the file of a token or password.

    Raises:
        DeliveryError: It cannot be read.
    """
    if isinstance(output, HttpOutput) and output.token_file is not None:
        read_secret(output.token_file, "token_file")
    if isinstance(output, MailOutput) and output.password_file is not None:
        read_secret(output.password_file, "password_file")


def _connect(output: MessageOutput, host: str, port: int, *, is_tls: bool) -> None:
    """Connect and hang up.

    Raises:
        DeliveryError: There is no connection, or its certificate is not trusted.
    """
    context = tls_context(output.ca_file) if is_tls else None
    try:
        with socket.create_connection((host, port), output.connect_timeout_s) as connection:
            if context is not None:
                connection.settimeout(output.response_timeout_s)
                context.wrap_socket(connection, server_hostname=host).close()
    except (OSError, UnicodeError) as e:  # UnicodeError: a host name that can be none
        raise no_connection(host, port, e) from e
