"""The commands about what was sent: what has not arrived and why, and sending it again; decides nothing itself."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from triage import screen
from triage.config import Config, Destination, MessageOutput
from triage.errors import ConfigError, TriageError
from triage.options import ConfigOption, JsonOption, open_node_database, read_config, row_of
from triage.records import DeliveryState, ObjectKind
from triage.store import queries
from triage.store.commitment import REFUSED

OUT_OF_RESOURCES = 0xA7
"""First byte of the statuses by which a peer says so (PS3.4 B.2.3)."""

NOTHING_GIVEN_UP = "nothing is given up of what still has its files and an output"

OWN_KEY = re.compile(r"refused: ((?:token|password|ca)_file|url): ")
"""Begins the detail of a message that this node could not send for a fault in its own configuration."""

ToOption = Annotated[str | None, typer.Option("--to", help="One output only, by its name.")]


def resend(
    study: Annotated[
        str | None, typer.Argument(help="Row number, accession number or StudyInstanceUID; not with --given-up.")
    ] = None,
    config: ConfigOption = None,
    given_up: Annotated[bool, typer.Option("--given-up", help="Everything that was given up, of all studies.")] = False,
    to: ToOption = None,
) -> None:
    """Send the results of a study again, or all that was given up, under the same UIDs."""
    if (study is None) is not given_up:
        raise ConfigError("resend: name one study, or say --given-up")
    from triage.outbox import resend_study
    from triage.store.outbox import resend_given_up

    settings = read_config(config)
    meant = _outputs(settings, to)
    with open_node_database(config) as db:
        if study is None:
            n = resend_given_up(db, [o.name for o in meant], time.time())
            print(f"{n} deliveries queued; the running node sends them" if n else NOTHING_GIVEN_UP)
            return
        study_id = row_of(db, study)
        n = resend_study(db, meant, study_id, time.time())
    if n == 0:
        raise TriageError(
            f"study {study_id}: nothing to send; it has no results yet, no output wants them, or retention deleted them"
        )
    print(f"study {study_id}: {n} deliveries queued; the running node sends them")


def deliveries(
    config: ConfigOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what has arrived, or is on its way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List what was given up, fails or is not committed, each with what to do about it."""
    settings = read_config(config)
    with open_node_database(config) as db:
        rows = queries.deliveries(db, [o.name for o in settings.outputs], everything)
    advised = [(row, advice(row, settings)) for row in rows]
    if as_json:
        print(json.dumps([{**asdict(row), "advice": text} for row, text in advised], indent=2))
    else:
        screen.print_deliveries(Console(), advised)


def advice(row: queries.DeliveryRow, config: Config) -> str:
    """What to do about one delivery.

    Args:
        row: The delivery.
        config: The configuration.

    Returns:
        A plain sentence or two; empty where nothing is to be done.
    """
    output = next((o for o in config.outputs if o.name == row.destination), None)
    if row.state is DeliveryState.COMMITTED or (row.state is DeliveryState.ACCEPTED and _is_settled(row)):
        return ""
    if row.superseded and row.kind != ObjectKind.REJECTION:
        return "A later analysis stands in its place: nothing to do."
    if output is None:
        return "No output of this name is configured: configure it again, or leave it be."
    if row.state is DeliveryState.ACCEPTED:
        return _commitment_advice(row, output, config)
    if row.state in (DeliveryState.QUEUED, DeliveryState.SENT):
        return "The running node sends it."
    text = _failure_advice(row, output, config)
    if row.state is DeliveryState.GIVEN_UP:
        return f"{text} Then `triage resend --given-up --to {row.destination}`."
    return f"{text} It is sent again by itself."


def _is_settled(row: queries.DeliveryRow) -> bool:
    return row.next_attempt_at is None and not row.detail.startswith(queries.NEVER_COMMITTED)


def _failure_advice(row: queries.DeliveryRow, output: Destination | MessageOutput, config: Config) -> str:
    detail, peer = row.detail, output.name
    if detail.startswith(REFUSED):
        return f"{peer} took it but says that it is not stored there: look for it in the log and quarantine there."
    if found := OWN_KEY.match(detail):
        return f"Mend {found[1]} of the output {peer} in the configuration of this node, or the file it names."
    if "a fault of this node" in detail:
        return "This node met an error of its own: look for step_failed in its log."
    if "cannot be read" in detail or "cannot be sent" in detail:
        return f"Its file is gone or damaged: `triage reanalyse {row.study_id}` makes it anew."
    if "certificate is not trusted" in detail:
        return f"Name the certificate of whoever issued {peer}'s as ca_file of the output: `triage doctor` tries it."
    if detail.startswith("unreachable"):
        return f"Check host, port and firewall, and that {peer} is up: `triage doctor` tries it."
    if not isinstance(output, Destination):
        return f"{peer} answered, but does not take the message: look for its reason in the log there."
    if "association rejected" in detail:
        return f"Let {peer} take associations from AE title {config.node.ae_title}, and check ae_title of the output."
    if "does not take" in detail or "takes none" in detail:
        return f"Allow its SOP class at {peer}, or leave {row.kind!r} out of the output's `objects`."
    if row.status is not None and row.status >> 8 == OUT_OF_RESOURCES:
        return f"{peer} is out of resources: free space there."
    return f"{peer} answered, but does not take it: look for its reason in the log there."


def _commitment_advice(row: queries.DeliveryRow, output: Destination | MessageOutput, config: Config) -> str:
    node, name = config.node, output.name
    if "offers no storage commitment" in row.detail:
        return f'Switch storage commitment on at {name}, or set the output\'s storage_commitment = "auto".'
    if row.next_attempt_at is None:
        return (
            f"{name} never answered: let it send its answers to AE title {node.ae_title} on port {node.port} of this "
            f"machine, then `triage resend {row.study_id} --to {name}` asks again."
        )
    if "asked for commitment" in row.detail:
        return f"{name} did not take the request for commitment; it is asked again by itself."
    return (
        f"The answer is awaited; if none comes, {name} does not know AE title {node.ae_title} on port {node.port} of "
        "this machine."
    )


def _outputs(config: Config, name: str | None) -> Sequence[Destination | MessageOutput]:
    if name is None:
        return config.outputs
    found = [o for o in config.outputs if o.name == name]
    if not found:
        known = ", ".join(o.name for o in config.outputs) or "none"
        raise ConfigError(f"--to {name}: no output of this name is configured; there are: {known}")
    return found
