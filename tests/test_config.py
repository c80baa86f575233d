"""config.toml is read whole before anything starts; what is wrong is named in one line."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from triage.config import Config, load_config, parse_config
from triage.errors import ConfigError

ROOT = Path(__file__).parents[1]
OUTPUTS = ("destinations", "hl7", "fhir", "webhooks", "mail")
MAIL = {"name": "m", "host": "h", "sender": "a@b", "recipients": ["c@d"]}
PACS = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}


def test_the_shipped_file_shows_every_default() -> None:
    """A key left out of config.toml, or shown with another value than its default, is a lie in the comments."""
    shown = tomllib.loads((ROOT / "config.toml").read_text())
    defaults = Config().model_dump(mode="json")
    for outputs in OUTPUTS:
        defaults.pop(outputs)
    assert shown == defaults


def test_the_outputs_in_the_shipped_file_can_be_used_as_they_are_shown() -> None:
    """Uncommented they are valid, show every key, and every default that a comment claims."""
    text = (ROOT / "config.toml").read_text()
    block = text[text.index("# [[destinations]]") :]
    lines = [line.removeprefix("# ").removeprefix("#") for line in block.splitlines()]
    config = parse_config(tomllib.loads("\n".join(lines)), Path("/etc/node"))
    everywhere = {"only_positive", "connect_timeout_s", "response_timeout_s"}
    examples = {"name", "ae_title", "host", "port", "url", "receiving_application", "token_file", "ca_file",
                "password_file", "sender", "recipients", "user", "security"}  # fmt: skip
    for section in OUTPUTS:
        (output,) = getattr(config, section)
        fields = type(output).model_fields
        assert set(fields) - everywhere <= output.model_fields_set, section
        for name in output.model_fields_set - examples:
            assert getattr(output, name) == fields[name].default, (section, name)
    assert config.fhir[0].ca_file == Path("/etc/node/ca.pem")
    assert config.mail[0].password_file == Path("/etc/node/mail.password")
    assert config.mail[0].only_positive
    assert config.webhooks[0].only_positive
    assert not config.hl7[0].only_positive


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[node]\ndata_dir = "d"\n[model]\npack = "/packs/a-1"\n')
    config = load_config(file)
    assert config.node.data_dir == tmp_path / "d"
    assert config.model.pack == Path("/packs/a-1")
    assert config.database_url == f"sqlite:///{tmp_path / 'd' / 'triage.db'}"


def test_a_configuration_cannot_be_changed() -> None:
    config = parse_config({}, Path("/"))
    with pytest.raises(ValidationError, match="frozen"):
        config.node.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"nod": {}}, "nod: unknown key"),
        ({"node": {"prot": 1}}, "node.prot: unknown key"),
        ({"node": {"port": "11112"}}, "node.port: Input should be a valid integer (got '11112')"),
        ({"node": {"port": 65536}}, "node.port: "),
        ({"node": {"ae_title": "SEVENTEEN_LETTERS"}}, "node.ae_title: "),
        ({"node": {"ae_title": "BACK\\SLASH"}}, "node.ae_title: "),
        ({"completion": {"quiet_s": 90.0}}, "max_wait_s must not be shorter than quiet_s"),
        ({"completion": {"quiet_s": 0.0}}, "completion.quiet_s: "),
        ({"model": {"device": "gpu"}}, "model.device: "),
        ({"destinations": [{"name": "x"}]}, "destinations.0.ae_title: missing; add it (2 more)"),
        ({"destinations": [PACS | {"objects": ["picture"]}]}, "destinations.0.objects.0: "),
        ({"destinations": [PACS | {"host": "pacs..hospital"}]}, "destinations.0.host: no host name (got 'pacs..hosp"),
        ({"destinations": [PACS | {"host": 64 * "a"}]}, "destinations.0.host: no host name"),
        ({"destinations": [PACS], "hl7": [{"name": "pacs", "host": "h", "port": 1}]}, "the name 'pacs' is used twice"),
        ({"hl7": [{"name": "r", "host": "h", "port": 1, "receiving_application": "a|b"}]}, "hl7.0.receiving_applica"),
        ({"fhir": [{"name": "f", "url": "ftp://x"}]}, "fhir.0.url: "),
        ({"fhir": [{"name": "f", "url": "http:///r4"}]}, "fhir.0.url: no host, or no port"),
        ({"fhir": [{"name": "f", "url": "http://h:65536/"}]}, "fhir.0.url: no host, or no port"),
        ({"fhir": [{"name": "f", "url": "http://[::1/"}]}, "fhir.0.url: no host, or no port"),
        ({"fhir": [{"name": "f", "url": "http://user:pw@h/", "token_file": "t"}]}, "fhir.0: url holds a login, and"),
        ({"fhir": [{"name": "f", "url": "http://x", "patient_system": "MRN"}]}, "fhir.0.patient_system: "),
        ({"mail": [MAIL | {"recipients": []}]}, "mail.0.recipients: "),
        ({"mail": [MAIL | {"sender": "nobody"}]}, "mail.0.sender: "),
        ({"mail": [MAIL | {"recipients": ["a@b.c, d@e.f"]}]}, "mail.0.recipients.0: "),
        ({"mail": [MAIL | {"recipients": ["a@b.c,d@e.f"]}]}, "mail.0.recipients.0: "),
        ({"mail": [MAIL | {"recipients": ["a,d@e.f"]}]}, "mail.0.recipients.0: "),
        ({"mail": [MAIL | {"user": "u"}]}, "mail.0: user and password_file go together"),
        ({"mail": [MAIL | {"user": "u", "password_file": "p"}]}, "mail.0: a password is not sent over an open line"),
        ({"destinations": [PACS, PACS]}, "'pacs' is used twice"),
        ({"reception": {"calling_aets": "CT01"}}, "reception.calling_aets: "),
    ],
)
def test_a_wrong_value_is_named_in_one_line(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, Path("/"))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_that_may_hold_a_secret_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"webhooks": [{"name": "w", "url": "ftp://user:secret@h/?key=secret"}]}, Path("/"))
    assert "webhooks.0.url: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_file_and_no_toml_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[node\n")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        load_config(broken)
