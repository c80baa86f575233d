import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.small import small

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing, channels
from triage.records import LABELS
from triage.train.cache import Cache, Frame, open_cache
from triage.train.data import batch_of, check_suits, coarse, frame_of, read_ahead, step_generator

CPU = torch.device("cpu")


def test_batches_come_in_order_with_their_labels(phantom_cache: Cache) -> None:
    rows = [np.array([5, 3, 3]), np.array([100]), np.arange(20)]
    batches = list(read_ahead(phantom_cache, rows, with_bleeds=True))
    for wanted, batch in zip(rows, batches, strict=True):
        assert np.array_equal(batch.hu, phantom_cache.hu(wanted))
        assert np.array_equal(batch.labels > 0, phantom_cache.index.labels[wanted])
        assert batch.bleeds is not None
        assert np.array_equal(batch.bleeds, phantom_cache.bleeds(wanted))


def test_reading_can_be_left_in_the_middle(phantom_cache: Cache) -> None:
    import threading

    reader = read_ahead(phantom_cache, [np.arange(4)] * 50, with_bleeds=False)
    next(reader)
    reader.close()  # type: ignore[attr-defined]  # a generator
    assert not any(t.name == "read-ahead" for t in threading.enumerate())


def test_without_augmentation_a_batch_is_what_serving_makes(phantom_cache: Cache) -> None:
    recipe = small("demo", augmentation="none", window_jitter="false")
    (raw,) = read_ahead(phantom_cache, [np.arange(6)], with_bleeds=False)
    batch = batch_of(raw, recipe, CPU, step_generator(CPU, 1))
    served = channels(torch.from_numpy(phantom_cache.hu(np.arange(6))), recipe.preprocessing)
    assert torch.equal(batch.images, served)
    assert batch.places is None


def test_places_are_those_of_the_bleeds(phantom_cache: Cache) -> None:
    recipe = small("demo", augmentation="none")
    rows = np.flatnonzero(phantom_cache.index.labels[:, 0])[:6]
    (raw,) = read_ahead(phantom_cache, [rows], with_bleeds=True)
    places = batch_of(raw, recipe, CPU, step_generator(CPU, 1)).places
    assert places is not None
    assert places.shape == (6, len(LABELS), 64, 64)
    assert torch.equal(places[:, 0], torch.from_numpy(phantom_cache.bleeds(rows) > 0).float())
    assert torch.equal(places[:, 1:].sum(dim=1), places[:, 0])


def test_a_step_draws_the_same_again_and_another_step_other_things(phantom_cache: Cache) -> None:
    (raw,) = read_ahead(phantom_cache, [np.arange(4)], with_bleeds=True)
    recipe = small("demo")
    one, again, other = (batch_of(raw, recipe, CPU, step_generator(CPU, 1, 0, k)).images for k in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_random_crops_stay_inside_and_differ(phantom_cache: Cache) -> None:
    pixels = {"preprocessing.crop_px": "48"}
    recipe = small("triage-binary", augmentation="crop_flip", window_jitter="false", **pixels)
    (raw,) = read_ahead(phantom_cache, [np.repeat(20, 32)], with_bleeds=False)
    images = batch_of(raw, recipe, CPU, step_generator(CPU, 1)).images
    assert images.shape == (32, 3, 48, 48)
    assert len({image.numpy().tobytes() for image in images}) > 16


def test_a_cache_of_another_frame_is_refused_with_the_prepare_that_would_do(phantom_cache: Cache) -> None:
    check_suits(small("demo").preprocessing, phantom_cache)
    with pytest.raises(DataError, match=r"64 px .* wanted are 256 px .* --size-px 256 --fov-mm 0"):
        check_suits(Preprocessing(), phantom_cache)
    with pytest.raises(DataError, match=r"--size-px 512 .* --set preprocessing.order=resize_then_window"):
        check_suits(Preprocessing(order="window_then_resize"), phantom_cache)
    assert frame_of(Preprocessing(order="window_then_resize")) == Frame(512, 0.0)


def test_a_disk_that_fails_is_told(phantom_cache: Cache) -> None:
    gone = replace(phantom_cache, folder=phantom_cache.folder / "gone")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_ahead(gone, [np.arange(2)], with_bleeds=False))


def test_smaller_images_keep_their_mean(phantom_cache: Cache) -> None:
    (raw,) = read_ahead(phantom_cache, [np.arange(4)], with_bleeds=True)
    batch = batch_of(raw, small("demo"), CPU, step_generator(CPU, 1))
    smaller = coarse(batch, 32)
    assert smaller.images.shape[2:] == (32, 32)
    assert torch.allclose(smaller.images.mean(), batch.images.mean(), atol=0.02)


def test_a_cache_that_goes_away_while_it_is_read_is_told(phantom_cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(phantom_cache.folder, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    (tmp_path / "cache" / "hu-00000.bin").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_ahead(cache, [np.arange(4)], with_bleeds=False))
