"""The log holds one event a line and no UID."""

import logging
from collections.abc import Iterator

import pytest

from triage.logs import configure_logging

UID = "1.2.840.113619.2.30.1.1762295590.1623.978668949.886"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("restored_logging")
def test_uids_are_redacted_above_debug(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    log = logging.getLogger("triage.test")
    log.info("stored uid=%s from=%s", UID, "127.0.0.1")
    log.debug("stored uid=%s", UID)
    info, debug = capfd.readouterr().err.splitlines()
    assert UID not in info
    assert "from=127.0.0.1" in info
    log.info("stored uid=%s", "2.25.329800735698586629295641978511506172918")
    assert "uid=<uid>" in capfd.readouterr().err
    assert UID in debug


@pytest.mark.usefixtures("restored_logging")
def test_an_exception_is_one_line_without_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    try:
        raise ValueError("Doe^John\nborn 1950")
    except ValueError:
        logging.getLogger("triage.test").exception("analysis_failed study=%d", 3)
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "study=3" in err
    assert "error=ValueError at=" in err
    assert "Doe" not in err


@pytest.mark.usefixtures("restored_logging")
def test_libraries_that_quote_data_sets_are_held_down(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    logging.getLogger("pynetdicom.acse").debug("(0010,0010) PN [Doe^John]")
    logging.getLogger("pydicom").warning("Invalid value for VR DA: '19500000'")
    assert capfd.readouterr().err == ""
