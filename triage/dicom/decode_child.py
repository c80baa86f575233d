"""Child process that decodes compressed frames: native parsers of network data, kept away from the node.

Requests come on standard input, answers go to standard output, each a length (4 bytes, big endian) and so many bytes of
JSON; an answer with an image is followed by its `bytes` bytes, little endian, row by row. Nothing else is written: what
the parsers print may quote the data. The parent ends a child that takes too long; a child without parent ends itself.
"""

import json
import math
import os
import resource
import signal
import struct
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import JPEG2000TransferSyntaxes

PLUGINS = {
    "1.2.840.10008.1.2.5": "pydicom",
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.51": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "gdcm",
    "1.2.840.10008.1.2.4.91": "gdcm",
    "1.2.840.10008.1.2.4.201": "openjpeg",
    "1.2.840.10008.1.2.4.202": "openjpeg",
    "1.2.840.10008.1.2.4.203": "openjpeg",
}
"""The decoder of each transfer syntax; all under licences as permissive as ours. Without an entry it is refused."""

MAX_MEMORY_BYTES = 4 << 30
"""Address space that decoding may take beyond what the libraries have taken."""

ORPHAN_GRACE_S = 5
"""So long after its time limit a child ends itself, in case its parent was killed and cannot do it."""


def main() -> None:
    """Answer requests until standard input ends."""
    _limit_resources()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a parser prints goes where standard error goes: nowhere
    _send(answers, {"ready": True})
    last: tuple[tuple[str, int, int], Dataset] | None = None
    while (request := _receive(sys.stdin.buffer)) is not None:
        path = request["path"]
        signal.alarm(math.ceil(request["timeout_s"]) + ORPHAN_GRACE_S)  # its default action ends the process
        try:
            stat = Path(path).stat()  # a rewritten file is another one
            key = (path, stat.st_mtime_ns, stat.st_size)
            if last is None or last[0] != key:
                last = None  # frees the memory before the next file is read
                last = (key, dcmread(path, force=True))
            image, repairs = _decode(last[1], request["frame"])
        except Exception as e:  # noqa: BLE001 (border: the answer is the report)
            _send(answers, {"error": _reason(e)})
            continue
        finally:
            signal.alarm(0)
        kind = image.dtype.newbyteorder("<")
        data = image.astype(kind, copy=False).tobytes()
        _send(answers, {"dtype": kind.str, "shape": image.shape, "bytes": len(data), "repairs": repairs}, data)


def _limit_resources() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the image


def _decode(ds: Dataset, frame: int) -> tuple[npt.NDArray[Any], list[str]]:
    """One frame (from 1) as (rows, columns) integers, and the names of the faults that were mended."""
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = PLUGINS.get(syntax)
    if plugin is None:
        raise NotImplementedError
    repairs = []
    if syntax in JPEG2000TransferSyntaxes:
        codestream = get_frame(ds.PixelData, frame - 1, number_of_frames=int(ds.get("NumberOfFrames") or 1))
        signed = get_j2k_parameters(codestream).get("is_signed")
        repairs = ["sign"] if signed is not None and bool(signed) != bool(ds.PixelRepresentation) else []
        if plugin == "openjpeg":
            return _decode_htj2k(codestream, bool(ds.PixelRepresentation)), repairs
    image, _ = get_decoder(syntax).as_array(ds, index=frame - 1, decoding_plugin=plugin)  # mends the sign itself
    return image, repairs


def _decode_htj2k(codestream: bytes, signed: bool) -> npt.NDArray[Any]:
    """High-throughput JPEG 2000: values read as so many bits of the sign the data set says."""
    import openjpeg.utils  # only here: most nodes never see such an image

    image = np.asarray(openjpeg.utils.decode(codestream), np.int64)
    precision = int(openjpeg.utils.get_parameters(codestream)["precision"])
    values = image & ((1 << precision) - 1)
    if signed:
        values = np.where(values >= 1 << (precision - 1), values - (1 << precision), values)
    return values.astype(np.int32)


def _reason(error: Exception) -> str:
    """The kind of failure; never the text, which may quote the data set."""
    if isinstance(error, NotImplementedError):
        return "no decoder for this encoding"
    if isinstance(error, MemoryError):
        return "more memory needed than allowed"
    if isinstance(error, RuntimeError) and "12-bit" in str(error):
        return "no decoder for this encoding with 12 bits"
    return f"the decoder failed ({type(error).__name__})"


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">L", head)
    request: dict[str, Any] = json.loads(stream.read(length))
    return request


def _send(stream: BinaryIO, answer: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(answer).encode()
    stream.write(struct.pack(">L", len(text)) + text + data)
    stream.flush()


if __name__ == "__main__":
    main()
