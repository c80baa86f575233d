"""The most confident right and wrong answers as pictures in the brain window; chooses and renders, lays out no page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from triage.nn.preprocess import BRAIN
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Cache, Index, Rows
from triage.train.document import Level
from triage.train.metrics import Bools, Floats

KINDS = ("true positive", "false positive", "false negative", "true negative")

A_KIND = 6
"""Pictures of each kind for the label of any bleed."""

SUBTYPES_A_KIND = 3
"""Pictures of each kind for each subtype."""

SIDE_PX = 256
"""Largest side of a picture."""


@dataclass(frozen=True)
class Picture:
    """One slice and what was said of it."""

    label: str
    kind: str
    """One of KINDS."""
    image: str
    """Its name in the cache."""
    truth: tuple[str, ...]
    """Subtypes it shows; ANY where only that is known."""
    p: dict[str, float]
    """By label that was scored."""
    grey: npt.NDArray[np.uint8]
    """(rows, columns)"""


def picture_sheet(cache: Cache, rows: Rows, slices: Level, a_kind: int = A_KIND) -> list[Picture]:
    """Choose the most confident answers of each kind, at most one slice of a study in each.

    Args:
        cache: Holds the slices.
        rows: (n,) that were scored.
        slices: What was said of them.
        a_kind: Pictures of each kind; 0 for none.

    Returns:
        Pictures of all kinds for the label of any bleed, and wrong answers for each subtype; without that label, of
        all kinds for each subtype.
    """
    index = cache.index.take(rows)
    sheet = []
    for label, p in slices.p.items():
        first = label == ANY or ANY not in slices.p
        kinds = KINDS if first else ("false positive", "false negative")
        many = a_kind if label == ANY else min(a_kind, SUBTYPES_A_KIND)
        for kind in kinds:
            which = _of_kind(kind, p >= slices.thresholds[label], slices.truth[label])
            sheet += [_picture(cache, rows, (label, kind), k, slices) for k in _strongest(kind, which, p, index)[:many]]
    return sheet


def _of_kind(kind: str, said: Bools, truth: Bools) -> Bools:
    right, positive = kind.startswith("true"), kind.endswith("positive")
    return np.asarray((said == positive) & (truth == (positive == right)))


def _strongest(kind: str, which: Bools, p: Floats, index: Index) -> list[int]:
    """Places of slices of a kind, the most confident of each study, the most confident first."""
    places = np.flatnonzero(which)
    places = places[np.argsort(-p[places] if kind.endswith("positive") else p[places], kind="stable")]
    _, first = np.unique(index.study[places], return_index=True)
    return [int(k) for k in places[np.sort(first)]]


def _picture(cache: Cache, rows: Rows, what: tuple[str, str], k: int, slices: Level) -> Picture:
    shown = dict(zip(LABELS, cache.index.labels[rows[k]].tolist(), strict=True))
    truth = tuple(label for label in SUBTYPES if shown[label]) or (ANY,) * shown[ANY]
    p = {label: float(values[k]) for label, values in slices.p.items()}
    return Picture(*what, str(cache.index.image[rows[k]]), truth, p, grey(cache.hu(rows[k : k + 1])[0]))


def grey(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """(rows, columns) HU through the brain window: 0..255."""
    low = BRAIN.center_hu - BRAIN.width_hu / 2
    return np.asarray(np.clip((hu - low) / BRAIN.width_hu * 255, 0, 255).round().astype(np.uint8))


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A grey picture as a PNG inside a URI, so that a page needs no other file."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def of_kind(pictures: Sequence[Picture], label: str, kind: str) -> list[Picture]:
    """Those of one label and kind, in order."""
    return [one for one in pictures if (one.label, one.kind) == (label, kind)]
