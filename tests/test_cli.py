"""The commands, in process: what they print and how they exit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from triage.cli import main
from triage.dicom.uids import result_uid

Phantom = Callable[..., list[Path]]
Run = Callable[..., tuple[int, str, str]]

# pynetdicom leaves its socket to the garbage collector when a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def config(tmp_path: Path, sensitive_pack: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\nport = 0\n[model]\npack = "{sensitive_pack}"\n[reception]\ndisk_reserve_mb = 0\n')
    return path


def test_a_wrong_configuration_is_one_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[node]\nprot = 1\n")
    code, out, err = run("serve", "--config", "bad.toml")
    assert (code, out, err) == (2, "", "triage: node.prot: unknown key; remove it or correct its spelling\n")


def test_serve_needs_a_configuration_and_says_so(run: Run) -> None:
    code, _, err = run("serve")
    assert code == 2
    assert "config.toml: no such file" in err


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('[model]\npack = "absent-1"\n', "absent-1"),
        ('[node]\ndata_dir = "/proc/none"\n', "node.data_dir: /proc/none"),
        ('[database]\nurl = "sqlite:////proc/none/x.db"\n', "database.url: "),
        ('[database]\nurl = "nonsense"\n', "database.url: "),
    ],
)
def test_what_cannot_be_used_stops_the_start(
    run: Run, tmp_path: Path, sensitive_pack: Path, section: str, expected: str
) -> None:
    pack = "" if "model" in section else f'[model]\npack = "{sensitive_pack}"\n'
    port = "" if "node" in section else "[node]\nport = 0\n"
    (tmp_path / "node.toml").write_text(section + pack + port)
    code, _, err = run("serve", "--config", "node.toml")
    assert code == 2
    assert expected in err.splitlines()[-1]


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("analyse")[0] == 2
    assert run("nonsense")[0] == 2
    assert run("phantom", "out", "--subtype", "sideways")[0] == 2


def test_phantom_writes_the_same_bytes_for_the_same_seed(run: Run, tmp_path: Path) -> None:
    for out in ("a", "b"):
        code, text, _ = run("phantom", out, "--seed", 3, "--slices", 2, "--subtype", "subdural")
        assert (code, text) == (0, f"2 slices of synthetic head CT 3 in {out}\n")
    first, second = (sorted((tmp_path / out).iterdir()) for out in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    ds = dcmread(first[0])
    assert "SYNTHETIC" in ds.SeriesDescription
    assert str(ds.PatientName).startswith("PHANTOM")


def test_analyse_judges_a_folder_and_writes_its_objects(run: Run, config: Path, phantom_files: Phantom) -> None:
    folder = phantom_files()[0].parent
    code, text, _ = run("analyse", folder, "--config", config, "--json", "--out", "results")
    assert code == 0
    (document,) = json.loads(text)
    assert document["outcome"] == "positive"
    assert document["findings"][0]["label"] == "any"
    written = [dcmread(p) for p in Path("results").iterdir()]
    assert {ds.Modality for ds in written} == {"SR", "KO", "OT"}
    assert all("DEMONSTRATION" in ds.SeriesDescription for ds in written)
    assert document["run"] == 0
    (report,) = [ds for ds in written if ds.Modality == "SR"]
    of_a_node = result_uid(document["study_uid"], document["series_uid"], document["model"]["sha256"], 1, "node-01/sr")
    assert report.SOPInstanceUID != of_a_node


def test_analyse_for_a_person_says_what_was_chosen(run: Run, config: Path, phantom_files: Phantom) -> None:
    code, text, _ = run("analyse", phantom_files()[0].parent, "--config", config)
    assert code == 0
    assert "positive" in text
    assert "chosen" in text
    assert "DEMONSTRATION MODEL" in text


def test_analyse_without_selection_scores_each_file(run: Run, config: Path, phantom_files: Phantom) -> None:
    paths = phantom_files(n_slices=2)
    (paths[0].parent / "notes.txt").write_text("no DICOM")
    code, text, _ = run("analyse", paths[0].parent, "--config", config, "--no-selection")
    assert code == 0
    documents = json.loads(text)
    by_name = {Path(d["file"]).name: d for d in documents}
    assert set(by_name) == {"notes.txt", *(p.name for p in paths)}
    assert by_name["notes.txt"]["p"] is None
    assert by_name["notes.txt"]["reason"]
    assert 0 < by_name[paths[0].name]["p"]["any"] < 1


def test_analyse_of_nothing_fails_and_names_the_folder(run: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run("analyse", "empty", "--config", config)
    assert (code, "empty: no DICOM instance found" in err) == (1, True)
    code, _, err = run("analyse", "absent", "--config", config)
    assert (code, "absent: no such file or folder" in err) == (1, True)


def test_an_empty_worklist_and_an_unknown_study(run: Run, config: Path, tmp_path: Path) -> None:
    code, _, err = run("worklist", "--config", config)
    assert (code, "does not exist" in err) == (2, True)
    (tmp_path / "data").mkdir()
    code, text, _ = run("worklist", "--config", config)
    assert code == 0
    assert "No studies to read." in text
    assert run("worklist", "--json", "--config", config)[1] == "[]\n"
    for command in ("show", "reanalyse", "resend"):
        code, _, err = run(command, "17", "--config", config)
        assert (code, "no such study" in err) == (1, True)


def test_models_are_listed_and_verified(run: Run, sensitive_pack: Path) -> None:
    code, text, _ = run("models", "--folder", sensitive_pack.parent)
    assert code == 0
    assert "tiny-1" in text
    assert run("models", "--folder", sensitive_pack.parent, "verify")[0] == 0


def test_an_altered_pack_is_refused(run: Run, sensitive_pack: Path, tmp_path: Path) -> None:
    pack = tmp_path / "packs" / "tiny-1"
    pack.mkdir(parents=True)
    for file in sensitive_pack.iterdir():
        content = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            content[-1] ^= 1
        (pack / file.name).write_bytes(content)
    code, text, _ = run("models", "--folder", pack.parent, "verify")
    assert code == 1
    assert "REFUSED" in text


def test_the_doctor_gives_one_line_each_with_the_mend(run: Run, config: Path) -> None:
    config.write_text(
        config.read_text() + '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
    )
    code, text, _ = run("doctor", "--config", config)
    lines = text.splitlines()
    assert code == 1
    assert [line[:4] for line in lines].count("FAIL") == 1
    assert lines[-1].startswith("FAIL destination pacs: PACS at 127.0.0.1:1")
    assert "check host, port" in lines[-1]
    for name in ("configuration", "disk", "database", "model pack", "GPU", "node"):
        assert any(line.startswith(f"ok   {name}: ") for line in lines)
