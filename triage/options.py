"""What the commands share: their common options, and how they come by configuration, database and study."""

from pathlib import Path
from typing import Annotated

import typer

from triage.config import Config, load_config, parse_config
from triage.errors import ConfigError, TriageError
from triage.logs import configure_logging
from triage.store import queries
from triage.store.db import Database, open_database

DONE, FAILED = 0, 1
"""Exit codes."""

DEFAULT_CONFIG = Path("config.toml")

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; default ./config.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one document.")]
StudyArgument = Annotated[str, typer.Argument(help="Row number, accession number or StudyInstanceUID.")]


def read_config(path: Path | None, required: bool = False) -> Config:
    """The named configuration, else ./config.toml, else the defaults with the packs beside the package.

    Args:
        path: What --config says.
        required: Whether the defaults will not do.

    Raises:
        ConfigError: It is not there or not valid.
    """
    if path is not None or required or DEFAULT_CONFIG.exists():
        return load_config(path or DEFAULT_CONFIG)
    return parse_config({}, Path(__file__).resolve().parents[1])


def open_node_database(config: Path | None) -> Database:
    """The database of the configured node, for a command that prints.

    Args:
        config: What --config says.

    Raises:
        ConfigError: There is none.
    """
    settings = read_config(config)
    configure_logging("ERROR")
    if not settings.node.data_dir.is_dir():
        raise ConfigError(
            f"node.data_dir: {settings.node.data_dir} does not exist; name the node's configuration with --config, "
            "or start the node first: it makes the folder"
        )
    return open_database(settings.database_url, settings.node.data_dir)


def row_of(db: Database, text: str) -> int:
    """Row id of a study.

    Args:
        db: The database.
        text: What a person has at hand.

    Raises:
        TriageError: There is no such study.
    """
    study_id = queries.find_study(db, text)
    if study_id is None:
        raise TriageError("no such study; `triage worklist --all` lists them")
    return study_id
