"""Which pack a node is configured with: put another in its place and go back; judges nothing, restarts nothing.

Only the value of `model.pack` changes in config.toml; every other byte stays. The packs that served before are kept in
`model-history.toml` in node.data_dir, the latest last, so that several steps back are possible.
"""

import json
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.config import Config, load_config
from triage.errors import ConfigError
from triage.nn.pack import verify_pack

HISTORY = "model-history.toml"
"""File in node.data_dir."""

HEADLINE = "# Model packs this node had before, the latest last; `triage models rollback` goes back to it."

KEPT = 20
"""Most packs it names."""

BY_HAND = "{}: model.pack cannot be changed in place as it is written there; set it by hand to {}"

SECTION = re.compile(r"^[ \t]*\[[ \t]*model[ \t]*\][ \t]*(?:#.*?)?(?=\r?$)", re.MULTILINE)
ANY_SECTION = re.compile(r"^[ \t]*\[", re.MULTILINE)
PACK_LINE = re.compile(r"""^([ \t]*pack[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Activation:
    """A change of pack."""

    former: Path
    active: Path
    lines: tuple[str, ...]
    """What the active pack is and what was checked, for a person."""


def activate(config_path: Path, pack: Path) -> Activation:
    """Configure a node with another pack; the present one is kept for `rollback`.

    Args:
        config_path: config.toml of the node.
        pack: Folder of the pack.

    Returns:
        What changed. The running node goes on with the former pack until it is started again.

    Raises:
        PackError: The pack is refused; nothing is changed.
        ConfigError: The configuration cannot be read, or not be changed in place; nothing is changed.
    """
    config = load_config(config_path)
    lines = verify_pack(pack)
    former, active = config.model.pack.resolve(), pack.resolve()
    if former == active:
        return Activation(former, active, tuple(lines))
    text = _with_pack(config_path, active)
    # History first: were the power to fail in between, it would name a pack that is in service, which does no harm.
    _write_history(config, [*_history(config), former])
    _write(config_path, text)
    return Activation(former, active, tuple(lines))


def rollback(config_path: Path) -> Activation:
    """Configure a node with the pack that served before.

    Args:
        config_path: config.toml of the node.

    Returns:
        What changed.

    Raises:
        PackError: That pack is refused now; nothing is changed.
        ConfigError: No earlier pack is kept, or the configuration cannot be changed; nothing is changed.
    """
    config = load_config(config_path)
    former = config.model.pack.resolve()
    earlier = _history(config)
    while earlier and earlier[-1] == former:
        earlier.pop()
    if not earlier:
        raise ConfigError(f"{_history_path(config)}: keeps no earlier pack; name one with `triage models activate`")
    active = earlier.pop()
    lines = verify_pack(active)
    _write(config_path, _with_pack(config_path, active))
    _write_history(config, earlier)
    return Activation(former, active, tuple(lines))


def _with_pack(config_path: Path, pack: Path) -> str:
    """The configuration's text with another pack, checked by reading it back."""
    text = _read(config_path)
    base = config_path.resolve().parent
    value = str(pack.relative_to(base)) if pack.is_relative_to(base) else str(pack)
    changed = _edited(text, json.dumps(value, ensure_ascii=False))
    before, after = tomllib.loads(text), _parsed(changed)
    if after is None or _pack_of(after) != value or _without_pack(before) != _without_pack(after):
        raise ConfigError(BY_HAND.format(config_path, value))
    return changed


def _edited(text: str, value: str) -> str:
    """Text with `pack = value` in section [model]; the section is added at the end where there is none."""
    section, end_of_line = SECTION.search(text), "\r\n" if "\r\n" in text else "\n"
    if section is None:
        ended = "" if text.endswith("\n") or not text else end_of_line
        return f"{text}{ended}{end_of_line}[model]{end_of_line}pack = {value}{end_of_line}"
    following = ANY_SECTION.search(text, section.end())
    end = following.start() if following else len(text)
    line = PACK_LINE.search(text, section.end(), end)
    if line is None:
        return f"{text[: section.end()]}{end_of_line}pack = {value}{text[section.end() :]}"
    return f"{text[: line.start(2)]}{value}{text[line.end(2) :]}"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _pack_of(table: dict[str, Any]) -> object:
    return table.get("model", {}).get("pack")


def _without_pack(table: dict[str, Any]) -> dict[str, Any]:
    model = {key: value for key, value in table.get("model", {}).items() if key != "pack"}
    rest = {key: value for key, value in table.items() if key != "model"}
    return rest | ({"model": model} if model else {})


def _history_path(config: Config) -> Path:
    return config.node.data_dir / HISTORY


def _history(config: Config) -> list[Path]:
    """Packs that served before, the latest last."""
    path = _history_path(config)
    try:
        packs = tomllib.loads(path.read_text(encoding="utf-8"))["packs"]
        return [Path(pack) for pack in packs]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{path}: cannot be read ({type(e).__name__}); remove it to begin a new one") from e


def _write_history(config: Config, packs: list[Path]) -> None:
    lines = "".join(f"    {json.dumps(str(pack), ensure_ascii=False)},\n" for pack in packs[-KEPT:])
    text = f"{HEADLINE}\npacks = [\n{lines}]\n"
    path = _history_path(config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"node.data_dir: {path.parent} cannot be made ({e.strerror})") from e
    _write(path, text)


def _read(path: Path) -> str:
    """Text with its line ends as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    """Replace a file whole or not at all; a link stays a link, the mode stays."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(path.stat().st_mode & 0o7777)
        part.replace(path)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({e.strerror}); check its permissions") from e
