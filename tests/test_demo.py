from pathlib import Path

from triage.config import Config
from triage.demo import demo_config


def test_the_demonstration_reaches_nothing_but_this_machine(tmp_path: Path) -> None:
    """Whoever tries it out in a configured folder must not send synthetic bleeds to a RIS or to people's mail."""
    base = Config.model_validate(
        {
            "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 104}],
            "hl7": [{"name": "ris", "host": "ris.example", "port": 2575}],
            "fhir": [{"name": "fhir", "url": "https://fhir.example/r4"}],
            "webhooks": [{"name": "board", "url": "https://board.example/"}],
            "mail": [{"name": "on-call", "host": "m.example", "sender": "a@b.example", "recipients": ["c@d.example"]}],
        }
    )
    config = demo_config(base, tmp_path, 0, 1)
    assert [(o.name, o.host) for o in config.destinations] == [("stand-in-pacs", "127.0.0.1")]
    assert config.messages == ()
