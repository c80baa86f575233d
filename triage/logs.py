"""The log's format and what may never be in it; where the log goes is the service manager's business (standard error).

One event a line: time, level, event, then keys. A study is named by our own row id. As a last line of defence a filter
replaces whatever looks like a DICOM UID in any record above DEBUG; names and dates must not get this far at all, which
is why pynetdicom and pydicom, whose messages quote data sets, are held at WARNING and ERROR.
"""

import logging
import re
import time

UID_LIKE = re.compile(r"\b(?:2\.25\.\d{6,}|\d+(?:\.\d+){5,})\b")
"""A UID made of a UUID, or six or more dotted numbers: never an IPv4 address or a version."""

QUIET_LIBRARIES = {
    "pynetdicom": logging.WARNING,
    "pydicom": logging.ERROR,
    "highdicom": logging.ERROR,
    "apscheduler": logging.WARNING,
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "PIL": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
}
"""Levels of libraries that log more than one event a line, values of data sets, or addresses that hold a secret."""


class UidFilter(logging.Filter):
    """Replaces UIDs in the finished message of every record above DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite one record; never drops it."""
        if record.levelno > logging.DEBUG:
            message = record.getMessage()
            redacted = UID_LIKE.sub("<uid>", message)
            if redacted != message:
                record.msg, record.args = redacted, None
        return True


class LineFormatter(logging.Formatter):
    """`2026-11-24T01:42:36.123Z INFO triage.worker study_analysed study=3`; a traceback becomes the type of its error.

    The text of an unexpected exception may quote a data set, so only its type and place are told.
    """

    converter = time.gmtime  # type: ignore[assignment]  # as its documentation has it
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatException(self, ei: object) -> str:  # noqa: N802 (name given by logging.Formatter)
        """Type and innermost place of an exception, without its text."""
        if not (isinstance(ei, tuple) and ei[1] is not None):
            return ""
        trace = ei[2]
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace is not None else "?"
        return f"error={type(ei[1]).__name__} at={place}"

    def format(self, record: logging.LogRecord) -> str:
        """Keep one event on one line."""
        record.exc_text = None
        return super().format(record).replace("\n", " ")


def configure_logging(level: str) -> None:
    """Send every record at or above a level to standard error in the project's format.

    Args:
        level: "DEBUG", "INFO", "WARNING" or "ERROR". DEBUG shows UIDs and is for a test bench, not for a hospital.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(UidFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, floor in QUIET_LIBRARIES.items():
        logging.getLogger(name).setLevel(floor)
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
