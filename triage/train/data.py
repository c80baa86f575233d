"""Cache rows -> batches of network input: reading ahead, augmentation, windows; the same path as serving after that."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing, constant, cropped, prepare_cached
from triage.records import SUBTYPES
from triage.train.augment import augmented, jittered_windows, mirrored
from triage.train.cache import Cache, Frame, Rows
from triage.train.recipes import Recipe

READ_AHEAD = 4
"""Batches read while the network is busy."""

NATIVE_PX = 512
"""Rows and columns of nearly every CT image: what a cache must hold where windows come before resizing."""


@dataclass(frozen=True)
class RawBatch:
    """Slices as the cache holds them."""

    hu: npt.NDArray[np.int16]
    """(n, side, side)"""
    labels: npt.NDArray[np.float32]
    """(n, 6), columns as LABELS."""
    bleeds: npt.NDArray[np.uint8] | None
    """(n, side, side), where the recipe asks for places."""


@dataclass(frozen=True)
class Batch:
    """What a training step takes."""

    images: torch.Tensor
    """(n, 3, size, size)"""
    labels: torch.Tensor
    """(n, 6)"""
    places: torch.Tensor | None
    """(n, 6, size, size), 0..1, where each label's bleed lies."""


def frame_of(preprocessing: Preprocessing) -> Frame:
    """The cache that a preprocessing needs."""
    if preprocessing.order == "window_then_resize":
        return Frame(NATIVE_PX, 0.0)
    return Frame(preprocessing.resize_px, preprocessing.fov_mm)


def check_suits(preprocessing: Preprocessing, cache: Cache) -> None:
    """Refuse a cache whose slices are not what a preprocessing starts from.

    Args:
        preprocessing: Of a recipe or a card.
        cache: Any.

    Raises:
        DataError: With the prepare that would make the right one.
    """
    wanted, found = frame_of(preprocessing), cache.manifest.frame
    if wanted == found:
        return
    quick = ", or train with --set preprocessing.order=resize_then_window" if wanted.size_px == NATIVE_PX else ""
    raise DataError(
        f"{cache.folder}: holds slices of {found.size_px} px (fov_mm {found.fov_mm:g}), wanted are {wanted.size_px} px "
        f"(fov_mm {wanted.fov_mm:g}); prepare again with --size-px {wanted.size_px} --fov-mm {wanted.fov_mm:g}{quick}"
    )


def read_ahead(cache: Cache, batches: Sequence[Rows], with_bleeds: bool) -> Iterator[RawBatch]:
    """Read batches in a thread of its own, a few ahead.

    Args:
        cache: To read from.
        batches: Rows of each batch.
        with_bleeds: Also read the truth of pixels.

    Yields:
        The batches in order.
    """
    ready: queue.Queue[RawBatch | BaseException | None] = queue.Queue(READ_AHEAD)
    ended = threading.Event()

    def put(item: RawBatch | BaseException | None) -> None:
        while not ended.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for rows in batches:
                if ended.is_set():
                    return
                labels = cache.index.labels[rows].astype(np.float32)
                put(RawBatch(cache.hu(rows), labels, cache.bleeds(rows) if with_bleeds else None))
            put(None)
        except (OSError, ValueError, MemoryError) as e:  # the disk, or room: told where the batches are wanted
            put(e)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, MemoryError):
                raise item
            if isinstance(item, BaseException):
                raise DataError(f"{cache.folder}: cannot be read ({item})") from item
            yield item
    finally:
        ended.set()
        thread.join()


def batch_of(raw: RawBatch, recipe: Recipe, device: torch.device, rng: torch.Generator) -> Batch:
    """Augment, window and normalise a batch on the training device.

    Args:
        raw: From `read_ahead`.
        recipe: Says how.
        device: Where the network is.
        rng: On that device; decides every draw.

    Returns:
        The batch.
    """
    hu, labels = constant(raw.hu, device).float(), constant(raw.labels, device)
    pixels, n = recipe.preprocessing, len(raw.hu)
    masks = None
    if raw.bleeds is not None:
        codes = torch.arange(1, len(SUBTYPES) + 1, dtype=torch.uint8, device=device).view(1, -1, 1, 1)
        masks = (constant(raw.bleeds, device)[:, None] == codes).float()
    offsets = None
    if recipe.augmentation == "heads":
        hu, masks = augmented(hu, masks, labels[:, 0] > 0, rng)
    elif recipe.augmentation == "crop_flip":
        hu, masks = mirrored(hu, masks, rng)
        room = pixels.resize_px - pixels.crop_px
        offsets = torch.randint(0, room + 1, (n, 2), generator=rng, device=device) - room // 2
    windows = jittered_windows(pixels.windows, n, rng) if recipe.window_jitter else None
    images = prepare_cached(hu, pixels, windows, offsets)
    places = None
    if masks is not None:
        masks = cropped(masks, pixels.crop_px, offsets)
        places = torch.cat([masks.amax(dim=1, keepdim=True), masks], dim=1)
    return Batch(images, labels, places)


def coarse(batch: Batch, size_px: int) -> Batch:
    """The same batch with smaller images."""
    images = functional.interpolate(batch.images, (size_px, size_px), mode="bilinear", antialias=True)
    return Batch(images, batch.labels, batch.places)


def step_generator(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator that numbers alone decide (seed, epoch, step, rank), so that a resumed run draws the same."""
    return torch.Generator(device).manual_seed(step_seed(*numbers))


def step_seed(*numbers: int) -> int:
    """One seed from several numbers."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])
