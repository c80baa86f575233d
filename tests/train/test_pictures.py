import base64
import io

import numpy as np
from PIL import Image
from train.evidence_data import evidence

from triage.records import SUBTYPES
from triage.train.cache import Cache
from triage.train.document import by_slice
from triage.train.pictures import KINDS, data_uri, grey, of_kind, picture_sheet


def test_the_most_confident_of_each_kind_are_chosen_one_a_study(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    slices = by_slice(given)
    sheet = picture_sheet(phantom_cache, given.scores.rows, slices, 4)
    index = phantom_cache.index
    for kind in KINDS:
        chosen = of_kind(sheet, "any", kind)
        assert 1 <= len(chosen) <= 4
        rows = [int(np.flatnonzero(index.image == one.image)[0]) for one in chosen]
        assert len({index.study[row] for row in rows}) == len(rows)
        p = [one.p["any"] for one in chosen]
        assert p == sorted(p, reverse=kind.endswith("positive"))
        for row, one in zip(rows, chosen, strict=True):
            assert (one.p["any"] >= 0.5) == kind.endswith("positive")
            assert bool(index.labels[row, 0]) == (kind in ("true positive", "false negative"))
            assert bool(one.truth) == bool(index.labels[row, 0])
            np.testing.assert_array_equal(one.grey, grey(phantom_cache.hu(np.array([row]))[0]))
    wrong = (slices.p["any"] >= 0.5) & ~slices.truth["any"]
    assert of_kind(sheet, "any", "false positive")[0].p["any"] == slices.p["any"][wrong].max()
    assert not of_kind(sheet, "subdural", "true positive")


def test_a_subtype_run_shows_right_answers_of_subtypes_too(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache, SUBTYPES, "thesis-subtype-run1")
    sheet = picture_sheet(phantom_cache, given.scores.rows, by_slice(given))
    assert {one.label for one in sheet} == set(SUBTYPES)
    assert len(of_kind(sheet, "subdural", "true positive")) == 3
    assert picture_sheet(phantom_cache, given.scores.rows, by_slice(given), 0) == []


def test_a_picture_is_a_png_of_the_brain_window() -> None:
    hu = np.array([[-1000, 0, 20], [40, 80, 2000]], np.int16)
    pixels = grey(hu)
    assert pixels.tolist() == [[0, 0, 64], [128, 255, 255]]
    kind, _, text = data_uri(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_large_slices_are_made_smaller() -> None:
    text = data_uri(np.zeros((512, 512), np.uint8)).partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        assert picture.size == (256, 256)
