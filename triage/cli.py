"""The command `triage`: each subcommand a thin function over the stages; turns errors into exit codes, here only.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Stages that bring PyTorch or highdicom along are imported
by the commands that need them: whoever polls the worklist must not wait for them.
"""

import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from triage import __version__, delivery_cli, screen
from triage.config import load_config
from triage.errors import ConfigError, TriageError
from triage.logs import configure_logging
from triage.options import (
    DEFAULT_CONFIG,
    DONE,
    FAILED,
    ConfigOption,
    JsonOption,
    StudyArgument,
    open_node_database,
    read_config,
    row_of,
)
from triage.records import SUBTYPES
from triage.store import analysis, queries

if TYPE_CHECKING:
    from triage.activation import Activation

log = logging.getLogger(__name__)

WRONG = 2
"""Exit code: wrong usage or configuration."""

NO_PACK = "{}: no model pack (a folder with card.toml) in it; name the folder of packs with --folder"

T = TypeVar("T")

STDERR = Console(stderr=True)
"""Progress bars go here: standard output may be a pipe that wants JSON."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="A DICOM node beside the PACS: head CTs with a suspected intracranial hemorrhage are read first. "
    "Informs, never diagnoses.",
)
models_app = typer.Typer(invoke_without_command=True, help="List or verify model packs.")
app.add_typer(models_app, name="models")

for command in (delivery_cli.resend, delivery_cli.deliveries):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    Args:
        arguments: Instead of the process's own.
    """
    code = FAILED
    try:
        app(args=None if arguments is None else list(arguments), prog_name="triage")
    except ConfigError as e:
        print(f"triage: {e}", file=sys.stderr)
        code = WRONG
    except TriageError as e:
        print(f"triage: {e}", file=sys.stderr)
    except BrokenPipeError:
        code = DONE
    except Exception as e:  # border: the last one
        log.debug("failed", exc_info=True)
        print(
            f'triage: unexpected fault: {type(e).__name__}; run again with log.level = "DEBUG" for its place',
            file=sys.stderr,
        )
    sys.exit(code)


@app.command("serve")
def serve_command(config: ConfigOption = None) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    from triage.service import serve

    settings = read_config(config, required=True)
    configure_logging(settings.log.level)
    serve(settings)


@app.command()
def demo(
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="End after the results instead of staying up.")] = False,
    port: Annotated[
        int | None, typer.Option(help="The node's port; default node.port, with --once any free one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep everything in this folder; default: a temporary one.")] = None,
) -> None:
    """Show it: a synthetic head CT with a bleed goes in by C-STORE, comes first, and its results reach a PACS."""
    from triage.demo import (
        DEMO_SEEDS,
        DEMO_SUBTYPE,
        arrivals,
        delivery_summary,
        running_demo,
        send_phantom,
        wait_for_results,
    )

    settings = read_config(config)
    configure_logging("WARNING")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ich-triage-demo-") as temporary:
        folder = (out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if port is None:
            port = 0 if once else settings.node.port
        with running_demo(settings, folder, port) as running:
            begin = time.monotonic()
            address = "{}:{}".format(*running.service.address)
            ae_title = running.service.config.node.ae_title
            console.print(f"Node {ae_title} on {address}; stand-in PACS beside it.", highlight=False)
            for seed, subtypes in zip(DEMO_SEEDS, ((), (DEMO_SUBTYPE,)), strict=True):
                n = send_phantom(running, seed, subtypes)
                console.print(
                    f"Sent by C-STORE: synthetic head CT {seed}, {n} slices, {' '.join(subtypes) or 'no'} bleed.",
                    highlight=False,
                )
            wait_for_results(
                running, len(DEMO_SEEDS), lambda text: console.print(f"  {text}", style="dim", highlight=False)
            )
            screen.print_worklist(console, running.rows())
            screen.print_arrivals(console, arrivals(running))
            console.print(f"At the PACS: {delivery_summary(running)}.", highlight=False)
            console.print(f"{time.monotonic() - begin:.1f} s from the first image to the last result.", highlight=False)
            if not once:
                screen.print_invitation(console, running.service.config, running.service.address[1], folder / "pacs")
                _wait_for_interrupt()


@app.command()
def analyse(
    path: Annotated[Path, typer.Argument(help="DICOM file, or a folder searched with all below it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="Write SR and captures of each study into this folder.")] = None,
    no_selection: Annotated[
        bool, typer.Option("--no-selection", help="Score every CT slice found, one by one; for research.")
    ] = False,
) -> None:
    """Judge the studies in a folder; no network, no database."""
    from triage.dicom.objects import build_objects
    from triage.dicom.pixels import Decoder
    from triage.pipeline import analyse_study, read_studies, score_slices
    from triage.service import load_tools, node_identity

    if no_selection and out is not None:
        raise ConfigError("--out: objects are made of studies, not of single slices; leave out --no-selection or --out")
    settings = read_config(config)
    configure_logging("ERROR")
    paths = _files(path)
    studies = read_studies(list(_progress(paths, "Reading")))
    if not any(s.instances for s in studies):
        reasons = "; ".join(u.reason for s in studies for u in s.unreadable[:3])
        raise TriageError(f"{path}: no DICOM instance found{': ' + reasons if reasons else ''}")
    documents: list[Any] = []
    with Decoder(settings.analysis.decode_timeout_s) as decoder:
        tools = load_tools(settings, decoder)
        for study in studies:
            if no_selection:
                scores = score_slices(study, tools)
                total = sum(len(i.slices) for i in study.instances)
                bar = _progress(scores, "Scoring", total)
                documents += [screen.score_document(s.path, s.score, s.reason) for s in bar]
                continue
            done = analyse_study(study, tools)
            result = replace(done.result, run=0)  # no node's: its objects have other UIDs than a node's
            unreadable = [{"file": str(u.path), "reason": u.reason} for u in study.unreadable]
            documents.append({**asdict(result), "unreadable": unreadable})
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                for o in build_objects(result, done.sources, node_identity(settings)):
                    with (out / f"{o.kind}-{o.sop_instance_uid}.dcm").open("wb") as file:
                        o.write(file)
            if not as_json:
                screen.print_result(Console(), result)
                screen.print_unreadable(Console(), unreadable)
    if as_json or no_selection:
        print(json.dumps(documents, indent=2))


@app.command()
def worklist(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Also studies older than a day.")] = False,
) -> None:
    """List the studies to read, first one first."""
    with open_node_database(config) as db:
        rows = queries.worklist(db, time.time(), everything)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        screen.print_worklist(Console(), rows)


@app.command()
def show(study: StudyArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show everything known of one study: series and why each was chosen or not, findings, deliveries."""
    with open_node_database(config) as db:
        details = queries.show(db, row_of(db, study))
    if as_json:
        print(json.dumps(details, indent=2))
    else:
        screen.print_details(Console(), details)


@app.command()
def reanalyse(study: StudyArgument, config: ConfigOption = None) -> None:
    """Analyse a study again; the new SR names the old one as its predecessor."""
    with open_node_database(config) as db:
        study_id = row_of(db, study)
        analysis.request_reanalysis(db, study_id, time.time())
    print(f"study {study_id} queued; the running node analyses it")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for the DICOM files.")],
    subtype: Annotated[
        list[str] | None, typer.Option(help=f"Bleed, repeatable: {', '.join(SUBTYPES)}, or none; default: random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    slices: Annotated[int, typer.Option(min=1, max=400)] = 32,
    quirk: Annotated[
        list[str] | None, typer.Option(help="Scanner fault to imitate, repeatable; a wrong name lists them.")
    ] = None,
) -> None:
    """Write a synthetic head CT with known truth as DICOM files."""
    from triage.phantom import PhantomSpec, generate
    from triage.phantom.writer import QUIRKS, WriterOptions, write_series

    subtypes = None if subtype is None else tuple(s for s in subtype if s != "none")
    if unknown := sorted(set(subtypes or ()) - set(SUBTYPES)):
        raise ConfigError(f"--subtype {unknown[0]}: unknown; use one of {', '.join(SUBTYPES)}, none")
    if unknown := sorted(set(quirk or ()) - set(QUIRKS)):
        raise ConfigError(f"--quirk {unknown[0]}: unknown; use one of {', '.join(QUIRKS)}")
    study = generate(seed, PhantomSpec(subtypes=subtypes, n_slices=slices))
    paths = write_series(study, out, WriterOptions(quirks=tuple(quirk or ())))
    print(f"{len(paths)} slices of synthetic head CT {seed} in {out}")


@models_app.callback()
def models(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option(help="Folder of packs; default: beside the configured one.")] = None,
) -> None:
    """List the model packs, or verify them."""
    from triage.nn.pack import pack_folders, read_card

    context.obj = folder or read_config(None).model.pack.parent
    if context.invoked_subcommand is None:
        packs = pack_folders(context.obj)
        if not packs:
            raise ConfigError(NO_PACK.format(context.obj))
        for pack in packs:
            card = read_card(pack)
            print(f"{pack.name}: {card.networks.architecture}, {card.intended_use}")


@models_app.command()
def verify(context: typer.Context) -> None:
    """Check hashes, labels and shapes of every pack."""
    from triage.nn.pack import pack_folders, verify_pack

    failed = 0
    packs = pack_folders(context.obj)
    if not packs:
        raise ConfigError(NO_PACK.format(context.obj))
    for pack in packs:
        try:
            print(f"{pack.name}: " + "\n  ".join(verify_pack(pack)))
        except ConfigError as e:
            failed += 1
            print(f"{pack.name}: REFUSED: {e}")
    raise typer.Exit(FAILED if failed else DONE)


@models_app.command()
def activate(
    pack: Annotated[Path, typer.Argument(help="Folder of the pack, or its name beside the configured one.")],
    config: ConfigOption = None,
) -> None:
    """Verify a pack and configure the node with it; the present one is kept for rollback."""
    from triage.activation import activate as change

    path = config or DEFAULT_CONFIG
    folder = pack if pack.is_dir() else load_config(path).model.pack.parent / pack
    _told(change(path, folder), path)


@models_app.command()
def rollback(config: ConfigOption = None) -> None:
    """Configure the node with the pack it had before the last activate; repeat to go further back."""
    from triage.activation import rollback as change

    path = config or DEFAULT_CONFIG
    _told(change(path), path)


@app.command()
def doctor(
    config: ConfigOption = None,
    echo_only: Annotated[
        bool, typer.Option("--echo-only", help="Store no test object at the destinations; C-ECHO only.")
    ] = False,
) -> None:
    """Check configuration, disk, database, model pack, GPU and destinations: one line each, with the mend."""
    from triage.doctor import examine

    settings = read_config(config, required=config is not None)
    configure_logging("ERROR")
    bad = 0
    for check in examine(settings, echo_only=echo_only):
        bad += not check.is_ok
        print(f"{'ok  ' if check.is_ok else 'FAIL'} {check.name}: {check.text}")
    raise typer.Exit(FAILED if bad else DONE)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise TriageError(f"{path}: no such file or folder")
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _told(done: "Activation", path: Path) -> None:
    print("\n  ".join(done.lines))
    if done.former == done.active:
        print(f"{path} names this pack already; nothing is changed")
        return
    print(f"{path}: model.pack was {done.former}, is {done.active}")
    print("Start the node again to serve it; `triage models rollback` goes back. Results say which pack made them.")


def _progress(items: Iterable[T], text: str, total: int | None = None) -> Iterable[T]:
    """The items, with a bar on standard error where that is a terminal."""
    return track(items, text, total, console=STDERR, transient=True, disable=not STDERR.is_terminal)


def _wait_for_interrupt() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nstopping")
