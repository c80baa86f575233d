"""Activating packs and going back: what happens to config.toml, byte by byte."""

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from triage.activation import HISTORY, activate, rollback
from triage.cli import main
from triage.config import BUNDLED_PACK, load_config
from triage.errors import ConfigError, PackError

CONFIG = """# A node.
[node]
port = 0                  # any
data_dir = "var"

[model]  # which pack judges
# before: models/older
device = "cpu"
  pack = 'models/tiny-1'  # signed for
precision = "auto"

[log]
level = "INFO"
"""

Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, sensitive_pack: Path) -> Make:
    """A pack beside the others."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(sensitive_pack, tmp_path / "models" / name))

    return make


@pytest.fixture
def config(tmp_path: Path, make: Make) -> Path:
    make("tiny-1")
    path = tmp_path / "node.toml"
    path.write_text(CONFIG)
    return path


def history(config: Path) -> list[str]:
    path = load_config(config).node.data_dir / HISTORY
    return [Path(p).name for p in tomllib.loads(path.read_text())["packs"]] if path.exists() else []


def active(config: Path) -> str:
    return load_config(config).model.pack.name


def test_only_the_value_of_the_pack_changes(config: Path, make: Make) -> None:
    done = activate(config, make("tiny-2"))
    assert config.read_text() == CONFIG.replace("'models/tiny-1'", '"models/tiny-2"')
    assert (done.former.name, done.active.name) == ("tiny-1", "tiny-2")
    assert done.lines[0].startswith("tiny 1 (demonstration)")
    assert history(config) == ["tiny-1"]


def test_twice_forth_and_twice_back(config: Path, make: Make) -> None:
    activate(config, make("tiny-2"))
    activate(config, make("tiny-3"))
    assert (active(config), history(config)) == ("tiny-3", ["tiny-1", "tiny-2"])
    assert rollback(config).active.name == "tiny-2"
    assert (active(config), history(config)) == ("tiny-2", ["tiny-1"])
    assert rollback(config).active.name == "tiny-1"
    assert (active(config), history(config)) == ("tiny-1", [])
    with pytest.raises(ConfigError, match="keeps no earlier pack"):
        rollback(config)
    assert config.read_text() == CONFIG.replace("'", '"')


def test_a_pack_outside_is_named_in_full_and_mode_and_link_stay(config: Path, make: Make, tmp_path: Path) -> None:
    outside = Path(shutil.move(make("tiny-2"), tmp_path.parent / f"{tmp_path.name}-outside"))
    config.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(config)
    activate(link, outside)
    assert link.is_symlink()
    assert config.stat().st_mode & 0o777 == 0o640
    assert tomllib.loads(config.read_text())["model"]["pack"] == str(outside)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '\n[model]\npack = "models/tiny-2"\n'),
        ("[node]\nport = 0", '[node]\nport = 0\n\n[model]\npack = "models/tiny-2"\n'),
        ("[model]\n[node]\nport = 0\n", '[model]\npack = "models/tiny-2"\n[node]\nport = 0\n'),
        ("[model]\r\ndevice = 'cpu'\r\n", "[model]\r\npack = \"models/tiny-2\"\r\ndevice = 'cpu'\r\n"),
        ("# [model]\n[ model ]", '# [model]\n[ model ]\npack = "models/tiny-2"'),
        ('[node]\nname = "µ"\n', '[node]\nname = "µ"\n\n[model]\npack = "models/tiny-2"\n'),
    ],
)
def test_a_configuration_that_names_no_pack(config: Path, make: Make, before: str, after: str) -> None:
    make(BUNDLED_PACK.name)  # the default
    config.write_bytes(before.encode())
    activate(config, make("tiny-2"))
    assert config.read_bytes().decode() == after
    assert history(config) == [BUNDLED_PACK.name]
    assert rollback(config).active.name == BUNDLED_PACK.name
    assert active(config) == BUNDLED_PACK.name


@pytest.mark.parametrize(
    "text",
    [
        'model.pack = "models/tiny-1"\n',
        'model = { pack = "models/tiny-1" }\n',
        '[model]\n"pack" = "models/tiny-1"\n',
        '[model]\npack = """models/tiny-1"""\n',
        '[node]\nname = """\n[model]\npack = "x"\n"""\n',
    ],
)
def test_what_cannot_be_changed_in_place_is_said_and_left(config: Path, make: Make, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be changed in place .* set it by hand to models/tiny-2|name: "):
        activate(config, make("tiny-2"))
    assert config.read_text() == text


def test_a_refused_pack_leaves_everything_as_it_was(config: Path, make: Make) -> None:
    activate(config, make("tiny-2"))
    before = config.read_bytes(), history(config)
    broken = make("tiny-3")
    (broken / "binary.safetensors").write_bytes(b"no")
    with pytest.raises(PackError, match="sha256"):
        activate(config, broken)
    with pytest.raises(PackError, match="cannot be read"):
        activate(config, broken / "nowhere")
    assert (config.read_bytes(), history(config)) == before
    shutil.rmtree(config.parent / "models" / "tiny-1")
    with pytest.raises(PackError, match="tiny-1"):
        rollback(config)
    assert (config.read_bytes(), history(config)) == before


def test_the_pack_in_service_is_not_its_own_former_one(config: Path, make: Make) -> None:
    first = config.parent / "models" / "tiny-1"
    done = activate(config, first)
    assert done.former == done.active
    assert (config.read_text(), history(config)) == (CONFIG, [])
    activate(config, make("tiny-2"))
    activate(config, first)
    assert history(config) == ["tiny-1", "tiny-2"]
    # As after a kill between the two writes: the history names the pack in service.
    (load_config(config).node.data_dir / HISTORY).write_text(f'packs = ["{first}", "{first}"]\n')
    with pytest.raises(ConfigError, match="keeps no earlier pack"):
        rollback(config)


def test_a_damaged_history_is_named(config: Path, make: Make) -> None:
    activate(config, make("tiny-2"))
    (load_config(config).node.data_dir / HISTORY).write_text("packs = 3\n")
    with pytest.raises(ConfigError, match=r"model-history\.toml: cannot be read"):
        rollback(config)


def test_the_commands(
    config: Path, make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    make("tiny-2")

    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["models", *arguments, "--config", "node.toml"])
        return (caught.value.code or 0, *capsys.readouterr())

    code, out, _ = run("activate", "tiny-2")  # by its name beside the configured one
    assert code == 0
    assert "tiny-1, is " in out
    assert out.count("Start the node again") == 1
    assert active(config) == "tiny-2"
    assert "nothing is changed" in run("activate", "models/tiny-2")[1]
    assert run("rollback")[0] == 0
    assert active(config) == "tiny-1"
    code, _, err = run("rollback")
    assert code == 2
    assert err.startswith("triage: ")
    assert "keeps no earlier pack" in err
    code, _, err = run("activate", "absent-1")
    assert code == 2
    assert "absent-1" in err
