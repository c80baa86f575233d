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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from triage import __version__, screen
from triage.config import Config, load_config, parse_config
from triage.errors import ConfigError, TriageError
from triage.logs import configure_logging
from triage.records import SUBTYPES
from triage.store import analysis, outbox, queries
from triage.store.db import Database, open_database

if TYPE_CHECKING:
    from triage.activation import Activation

log = logging.getLogger(__name__)

DONE, FAILED, WRONG = 0, 1, 2

DEFAULT_CONFIG = Path("config.toml")

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

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; default ./config.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one document.")]
StudyArgument = Annotated[str, typer.Argument(help="Row number, accession number or StudyInstanceUID.")]


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

    settings = _config(config, required=True)
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
    from triage.demo import DEMO_SEEDS, DEMO_SUBTYPE, arrivals, running_demo, send_phantom, wait_for_results

    settings = _config(config)
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
    settings = _config(config)
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
            unreadable = [{"file": str(u.path), "reason": u.reason} for u in study.unreadable]
            documents.append({**asdict(done.result), "unreadable": unreadable})
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                for o in build_objects(done.result, done.sources, node_identity(settings)):
                    with (out / f"{o.kind}-{o.sop_instance_uid}.dcm").open("wb") as file:
                        o.write(file)
            if not as_json:
                screen.print_result(Console(), done.result)
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
    with _database(config) as db:
        rows = queries.worklist(db, time.time(), everything)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        screen.print_worklist(Console(), rows)


@app.command()
def show(study: StudyArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show everything known of one study: series and why each was chosen or not, findings, deliveries."""
    with _database(config) as db:
        details = queries.show(db, _study(db, study))
    if as_json:
        print(json.dumps(details, indent=2))
    else:
        screen.print_details(Console(), details)


@app.command()
def reanalyse(study: StudyArgument, config: ConfigOption = None) -> None:
    """Analyse a study again; the new SR names the old one as its predecessor."""
    with _database(config) as db:
        study_id = _study(db, study)
        analysis.request_reanalysis(db, study_id, time.time())
    print(f"study {study_id} queued; the running node analyses it")


@app.command()
def resend(study: StudyArgument, config: ConfigOption = None) -> None:
    """Send the results of a study to every destination again, under the same UIDs."""
    settings = _config(config)
    with _database(config) as db:
        study_id = _study(db, study)
        n = outbox.resend(db, study_id, [d.name for d in settings.destinations], time.time())
    if n == 0:
        raise TriageError(f"study {study_id}: nothing to send; it has no results yet, or no destination is configured")
    print(f"study {study_id}: {n} deliveries queued; the running node sends them")


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
    from triage.phantom.study import PhantomSpec, generate
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

    context.obj = folder or _config(None).model.pack.parent
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
def doctor(config: ConfigOption = None) -> None:
    """Check configuration, disk, database, model pack, GPU and destinations: one line each, with the mend."""
    from triage.doctor import examine

    settings = _config(config, required=config is not None)
    configure_logging("ERROR")
    bad = 0
    for check in examine(settings):
        bad += not check.is_ok
        print(f"{'ok  ' if check.is_ok else 'FAIL'} {check.name}: {check.text}")
    raise typer.Exit(FAILED if bad else DONE)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _config(path: Path | None, required: bool = False) -> Config:
    """The named configuration, else ./config.toml, else the defaults with the packs beside the package."""
    if path is not None or required or DEFAULT_CONFIG.exists():
        return load_config(path or DEFAULT_CONFIG)
    return parse_config({}, Path(__file__).resolve().parents[1])


def _database(config: Path | None) -> Database:
    settings = _config(config)
    configure_logging("ERROR")
    if not settings.node.data_dir.is_dir():
        raise ConfigError(
            f"node.data_dir: {settings.node.data_dir} does not exist; name the node's configuration with --config, "
            "or start the node first: it makes the folder"
        )
    return open_database(settings.database_url, settings.node.data_dir)


def _study(db: Database, text: str) -> int:
    study_id = queries.find_study(db, text)
    if study_id is None:
        raise TriageError("no such study; `triage worklist --all` lists them")
    return study_id


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
