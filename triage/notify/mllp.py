"""HL7 messages -> one MLLP connection, an acknowledgment awaited for each; builds nothing and retries nothing."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, InvalidBlockError, open_hl7_connection

from triage.config import Hl7Output
from triage.notify.attempts import LineLost, accepted, no_connection, refused, tls_context, with_untried
from triage.records import SendOutcome, SendReport

CLOSE_S = 1.0
"""Time for an orderly end of a connection that nothing more is expected of."""

MAX_ANSWER_BYTES = 65536

ACCEPTING = ("AA", "CA")
REFUSING = ("AE", "AR", "CE", "CR")
"""MSA-1 (HL7 table 0008)."""

ERROR_CODES = {
    "100": "segment sequence error", "101": "required field missing", "102": "data type error",
    "103": "table value not found", "200": "unsupported message type", "201": "unsupported event code",
    "202": "unsupported processing id", "203": "unsupported version id", "204": "unknown key identifier",
    "205": "duplicate key identifier", "206": "application record locked", "207": "application internal error",
}  # fmt: skip
"""ERR-3 (HL7 table 0357). Of an answer only these are told: its texts may quote the patient."""

PARSE_FAULTS = (hl7.HL7Exception, AssertionError, LookupError, ValueError)
"""What python-hl7 raises on something that is no message; it checks separators by `assert`."""


def send_messages(output: Hl7Output, contents: Sequence[bytes]) -> list[SendReport]:
    """Send messages over one connection.

    Args:
        output: The receiver.
        contents: Messages of `hl7_message`.

    Returns:
        A report a message, in order.
    """
    return asyncio.run(_send_all(output, contents))


async def _send_all(output: Hl7Output, contents: Sequence[bytes]) -> list[SendReport]:
    try:
        reader, writer = await _connect(output)
    except LineLost as e:
        return [e.report] * len(contents)
    reports: list[SendReport] = []
    earlier: set[str] = set()
    try:
        for content in contents:
            reports.append(await _send_one(output, (reader, writer), content, earlier))  # noqa: PERF401 (kept when lost)
    except LineLost as e:
        reports.append(e.report)
    finally:
        await _close(writer)
    return with_untried(reports, len(contents))


async def _connect(output: Hl7Output) -> tuple[HL7StreamReader, HL7StreamWriter]:
    context = tls_context(output.ca_file) if output.tls else None
    tls = {"ssl": context, "ssl_shutdown_timeout": CLOSE_S} if context is not None else {}
    try:
        async with asyncio.timeout(output.connect_timeout_s):
            return await open_hl7_connection(  # type: ignore[no-any-return]  # untyped
                output.host, output.port, limit=MAX_ANSWER_BYTES, encoding="utf-8", **tls)  # fmt: skip
    except TimeoutError:
        detail = f"no connection to {output.host}:{output.port} within {output.connect_timeout_s:g} s"
        raise LineLost(SendOutcome.UNREACHABLE, detail) from None
    except (OSError, UnicodeError) as e:  # UnicodeError: a host name that can be none
        raise no_connection(output.host, output.port, e) from e


async def _send_one(
    output: Hl7Output, line: tuple[HL7StreamReader, HL7StreamWriter], content: bytes, earlier: set[str]
) -> SendReport:
    """Send one message and await its acknowledgment.

    Args:
        output: The receiver.
        line: Both ends of the connection.
        content: The message.
        earlier: Control IDs sent before on this connection; gets this one.

    Raises:
        LineLost: There was no answer, or one after which nobody knows what the next will belong to.
    """
    reader, writer = line
    try:
        expected = _control_id(content)
    except PARSE_FAULTS:
        return refused("the stored message is no HL7 message; reanalyse the study")
    try:
        async with asyncio.timeout(output.response_timeout_s):
            writer.writeblock(content.rstrip(b"\r") + b"\r")
            await writer.drain()
            while True:
                answer = _parse(await reader.readblock())
                about = str(answer.segment("MSA")[2])
                if about == expected:
                    break
                if about not in earlier:  # a second answer to an earlier message is only late
                    raise LineLost(SendOutcome.REFUSED, "the acknowledgment is for another message (MSA-2)")
    except TimeoutError:
        raise LineLost(SendOutcome.UNREACHABLE, f"no answer within {output.response_timeout_s:g} s") from None
    except (OSError, asyncio.IncompleteReadError) as e:
        raise LineLost(SendOutcome.UNREACHABLE, "the line was cut before an answer came") from e
    except (InvalidBlockError, *PARSE_FAULTS) as e:
        raise LineLost(SendOutcome.REFUSED, "the answer is no HL7 acknowledgment") from e
    earlier.add(expected)
    return _judge(answer)


def _control_id(content: bytes) -> str:
    return str(_parse(content).segment("MSH")[10])


def _parse(content: bytes) -> hl7.Message:
    """Parse, whatever the character set and line ends: only codes are read."""
    return hl7.parse(re.sub("\r\n|\n", "\r", content.decode("utf-8", errors="replace")))


def _judge(answer: hl7.Message) -> SendReport:
    code = str(answer.segment("MSA")[1])
    if code in ACCEPTING:
        return accepted(f"HL7 {code}")
    if code not in REFUSING:
        return refused("the acknowledgment has no known code (MSA-1)")
    errors = [str(e[3]).partition("^")[0] for e in answer if str(e[0]) == "ERR" and len(e) > 3]
    words = [f"{error} {ERROR_CODES[error]}" for error in dict.fromkeys(errors) if error in ERROR_CODES]
    return refused(": ".join([f"HL7 {code}", *([", ".join(words)] if words else [])]))


async def _close(writer: HL7StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()
    writer.transport.abort()
