import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from train.evidence_data import EPOCHS, evidence

from triage.records import LABELS
from triage.train.cache import Cache
from triage.train.document import Document, build_document
from triage.train.plots import STYLES, rank_curves, reliability, training_curves


@pytest.fixture(scope="module")
def document(phantom_cache: Cache) -> Document:
    return build_document(evidence(phantom_cache), (5, 1))


def drawing(text: str) -> ET.Element:
    """SVG without a namespace, as a page holds it, but with the one prefix XML wants."""
    return ET.fromstring(text.replace("<svg", '<svg xmlns:xlink="x"', 1))


def test_plots_are_closed_svg_without_addresses_and_the_same_each_time(document: Document) -> None:
    plots = [
        training_curves(EPOCHS, "a run"), rank_curves(document, "roc"), rank_curves(document, "precision_recall"),
        reliability(document, "slice"), reliability(document, "study"),
    ]  # fmt: skip
    for text in plots:
        root = drawing(text)
        assert root.tag == "svg"
        assert root.get("viewBox")
        assert root.get("aria-label")
        assert "http" not in text
        assert "<script" not in text
    assert rank_curves(document, "roc") == plots[1]


def test_every_label_has_its_own_colour_and_dashes() -> None:
    assert set(STYLES) == set(LABELS)
    assert len({color for color, _ in STYLES.values()}) == len(LABELS)


def test_no_epochs_no_curves_and_one_epoch_shows() -> None:
    assert training_curves([], "a run") == ""
    assert "<use" in training_curves(EPOCHS[:1], "a run")
    assert training_curves([{"epoch": 1, "train_loss": None, "watched_loss": None}], "a run")


def test_nothing_global_is_changed(document: Document) -> None:
    before = dict(mpl.rcParams)
    rank_curves(document, "roc")
    assert dict(mpl.rcParams) == before


def test_a_label_without_curve_is_left_out(document: Document) -> None:
    one = document["by_slice"]["labels"]["any"] | {"roc": [], "auroc": None}
    level = {"labels": {"any": one}}
    empty = rank_curves({"by_slice": level, "by_study": level}, "roc")
    assert len(empty) < len(rank_curves(document, "roc"))


def test_a_name_cannot_break_out_of_its_attribute() -> None:
    root = drawing(training_curves(EPOCHS, 'a "run" <x> & co'))
    assert root.get("aria-label") == 'Loss and watched figures of a "run" <x> & co by epoch'
    assert np.isfinite([float(v) for v in root.get("viewBox", "").split()]).all()
