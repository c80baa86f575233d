"""Startup checks a person can run: configuration, disk, database, model pack, GPU, destinations; each with its mend."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from triage.config import Config, Destination
from triage.errors import ConfigError
from triage.net import scu
from triage.nn.pack import verify_pack
from triage.nn.predict import device_name, pick_device
from triage.records import SendOutcome
from triage.store.db import open_database
from triage.store.files import Store


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    is_ok: bool
    text: str
    """What was found, or what is wrong and what to do."""


def examine(config: Config) -> Iterator[Check]:
    """Run every check; none stops the others.

    Args:
        config: A configuration that has been validated.

    Yields:
        One check a line.
    """
    yield Check("configuration", True, "every key known and valid")
    yield _folder(config)
    yield _disk(config)
    yield _database(config)
    yield _pack(config)
    yield _device(config)
    yield _node(config)
    if not config.destinations:
        yield Check(
            "destinations", True, "none configured: results stay in node.data_dir; add [[destinations]] to send them"
        )
    for destination in config.destinations:
        yield _destination(config, destination)


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


def _node(config: Config) -> Check:
    """Whether this very node is up; that it is not is no fault."""
    node = config.node
    host = "127.0.0.1" if node.host in ("0.0.0.0", "::", "") else node.host
    if node.port == 0:
        return Check("node", True, "node.port = 0: the operating system chooses a port at the start")
    peer = Destination(
        name="node", ae_title=node.ae_title, host=host, port=node.port, connect_timeout_s=3.0, response_timeout_s=5.0
    )
    report = scu.echo(node.ae_title, peer)
    if report.outcome is SendOutcome.ACCEPTED:
        return Check("node", True, f"running: {node.ae_title} answers C-ECHO on {host}:{node.port}")
    if report.outcome is SendOutcome.UNREACHABLE:
        return Check("node", True, f"not running on {host}:{node.port}; start it with `triage serve`")
    return Check(
        "node",
        False,
        f"something on {host}:{node.port} refuses C-ECHO as {node.ae_title}: {report.detail}; is another "
        "program on that port, or is the node's AE title not among reception.calling_aets?",
    )


def _destination(config: Config, destination: Destination) -> Check:
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
