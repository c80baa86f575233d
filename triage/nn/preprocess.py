"""Hounsfield slices -> network input, the only such path for serving and for training; tensors only, no files.

    (n, rows, columns) HU -> thin slices averaged -> common scale, head centred -> windows -> (n, 3, size, size)
                                                    '-- framed: what a training cache holds

Serving calls `average_thin` and `prepare`. Training stores what `framed` makes and goes on from there with `channels`,
on slices it has augmented as HU: `prepare` is just these two after each other.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional

from triage.records import HU_MAX, HU_MIN

TISSUE_HU = -200.0
"""Above this a pixel counts as head when the head's centre is looked for: skin and fat in, air, foam and hair out."""

TISSUE_SPAN_HU = 300.0
"""A pixel's weight in that centre grows from 0 at TISSUE_HU to 1 this much above, so bone does not outweigh brain."""

Order = Literal["resize_then_window", "window_then_resize"]
"""Whether images are resized as HU (quick) or after windowing (the source's way; differs beside bone)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A grey-level window: centre - width/2 becomes 0, centre + width/2 becomes 1."""

    name: str
    center_hu: float
    width_hu: float


BRAIN = Window("brain", 40.0, 80.0)
SUBDURAL = Window("subdural", 80.0, 200.0)
SOFT = Window("soft", 40.0, 380.0)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a pack's networks want their images; part of its card."""

    windows: tuple[Window, Window, Window] = (BRAIN, SUBDURAL, SOFT)
    """The three channels, in order."""
    order: Order = "resize_then_window"
    fov_mm: float = 0.0
    """Side of the square around the head's centre that the network sees; 0 takes the whole image, padded to square."""
    resize_px: int = 256
    """Side of the square image before the central crop."""
    crop_px: int = 224
    """Side of the central crop: the network's input size."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the windowed channels (0..1); the defaults are ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    slab_mm: float = 5.0
    """Thin slices are averaged to slabs of about this thickness; 0 leaves them as they are."""


def average_thin(
    hu: torch.Tensor, positions_mm: Sequence[float], slab_mm: float
) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """Average neighbouring thin slices, so that noise and the number of slices are those of a routine series.

    Every slab gets the same number of slices, the one that comes nearest to slab_mm, save at the ends and at gaps:
    slices are grouped by position, so a missing slice thins its slab and moves no neighbour.

    Args:
        hu: (n, rows, columns) Hounsfield units, ordered along the normal.
        positions_mm: n positions along the normal, ascending; all equal when geometry is unknown.
        slab_mm: Wanted thickness; 0 for none.

    Returns:
        (m, rows, columns) HU, and for each of the m slabs the indices of its slices. The input itself, each slice its
        own slab, when its spacing is nearer to one slab than to half of one, or unknown.
    """
    n = len(hu)
    steps = [b - a for a, b in itertools.pairwise(positions_mm)]
    spacing_mm = sorted(steps)[len(steps) // 2] if steps else 0.0
    together = round(slab_mm / spacing_mm) if spacing_mm > 0 else 1
    if together <= 1:
        return hu, [(i,) for i in range(n)]
    groups: dict[int, list[int]] = {}
    for i, position in enumerate(positions_mm):
        # Half a step of tolerance keeps a slice that lies exactly on a border in one and the same slab.
        groups.setdefault(int(((position - positions_mm[0]) / spacing_mm + 0.5) // together), []).append(i)
    members = [tuple(groups[key]) for key in sorted(groups)]
    return torch.stack([hu[list(indices)].mean(dim=0) for indices in members]), members


def prepare(
    hu: torch.Tensor,
    preprocessing: Preprocessing,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    windows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn Hounsfield slices into network input.

    Args:
        hu: (n, rows, columns) Hounsfield units, float32; values outside HU_MIN..HU_MAX are clipped.
        preprocessing: As the card states.
        spacing_mm: Between rows, between columns; only their ratio matters where fov_mm is 0.
        windows: (n, 3, 2) centre and width of each image's channels in HU, in place of the stated ones; training
            jitters them, serving leaves this out.

    Returns:
        (n, 3, crop_px, crop_px) float32.
    """
    if preprocessing.order == "resize_then_window":
        return channels(framed(hu, preprocessing, spacing_mm), preprocessing, windows)
    hu = hu.float().clamp(HU_MIN, HU_MAX)
    seen = _window(hu[:, None], _windows_of(hu, preprocessing) if windows is None else windows)
    return _normalised(frame(seen, hu, preprocessing, spacing_mm), preprocessing)


def framed(hu: torch.Tensor, preprocessing: Preprocessing, spacing_mm: tuple[float, float]) -> torch.Tensor:
    """Bring Hounsfield slices to the common scale and square, before they are cropped and windowed.

    Args:
        hu: (n, rows, columns) Hounsfield units; values outside HU_MIN..HU_MAX are clipped.
        preprocessing: As the card states; fov_mm and resize_px count here.
        spacing_mm: Between rows, between columns.

    Returns:
        (n, resize_px, resize_px) float32, whole HU: what a training cache stores as int16 is what serving uses.
    """
    hu = hu.float().clamp(HU_MIN, HU_MAX)
    square = replace(preprocessing, crop_px=preprocessing.resize_px)
    return frame(hu[:, None], hu, square, spacing_mm)[:, 0].round()


def prepare_cached(
    hu: torch.Tensor,
    preprocessing: Preprocessing,
    windows: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn slices of a training cache into network input.

    Args:
        hu: (n, side, side) HU from a cache that suits the preprocessing: framed by it; or, where windows come before
            resizing, whole images at their own size.
        preprocessing: As the card states.
        windows: As for `prepare`.
        offsets: As for `channels`.

    Returns:
        (n, 3, crop_px, crop_px) float32, what `prepare` makes of the original slices.
    """
    if preprocessing.order == "resize_then_window":
        return channels(hu, preprocessing, windows, offsets)
    whole = replace(preprocessing, crop_px=preprocessing.resize_px)
    return cropped(prepare(hu, whole, (1.0, 1.0), windows), preprocessing.crop_px, offsets)


def channels(
    framed_hu: torch.Tensor,
    preprocessing: Preprocessing,
    windows: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Crop, window and normalise framed slices.

    Args:
        framed_hu: (n, resize_px, resize_px) HU, as `framed` makes them.
        preprocessing: As the card states, its order resize_then_window.
        windows: As for `prepare`.
        offsets: (n, 2) whole pixels, rows and columns, that each crop lies off the centre; training crops at random,
            serving leaves this out.

    Returns:
        (n, 3, crop_px, crop_px) float32.
    """
    hu = cropped(framed_hu.float()[:, None], preprocessing.crop_px, offsets)
    return _normalised(_window(hu, _windows_of(hu, preprocessing) if windows is None else windows), preprocessing)


def cropped(planes: torch.Tensor, size_px: int, offsets: torch.Tensor | None = None) -> torch.Tensor:
    """Cut squares out of larger ones.

    Args:
        planes: (n, c, side, side), side at least size_px.
        size_px: Side of the squares.
        offsets: (n, 2) whole pixels, rows and columns, off the centre, kept inside; None for the central crop.

    Returns:
        (n, c, size_px, size_px).
    """
    room = planes.shape[-1] - size_px
    if offsets is None:
        first = room // 2
        return planes[:, :, first : first + size_px, first : first + size_px]
    starts = (offsets.to(planes.device) + room // 2).clamp(0, room)
    return _cut(planes, starts, size_px)


def frame(
    planes: torch.Tensor, hu: torch.Tensor, preprocessing: Preprocessing, spacing_mm: tuple[float, float]
) -> torch.Tensor:
    """Bring planes to the common scale and cut the square that the network sees.

    Resizing by another factor in each direction makes pixels square. One cut around the centre stands for padding to
    square, and for the central crop of the resized square.

    Args:
        planes: (n, c, rows, columns) pixels of the slices: one channel of HU, or several of anything that is 0 in air;
            training frames the masks of bleeds so.
        hu: (n, rows, columns) HU of the same slices; says where the heads are.
        preprocessing: As the card states.
        spacing_mm: Between rows, between columns.

    Returns:
        (n, c, crop_px, crop_px), air around.
    """
    channels, *shape = planes.shape[1:]
    size = preprocessing.crop_px
    height, width = _resized(shape, preprocessing, spacing_mm)
    if [height, width] != shape:
        planes = functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    # Air in HU; once windowed, what every window makes of air, since none begins below HU_MIN.
    fill = HU_MIN if channels == 1 else 0.0
    padded = functional.pad(planes, (size, size, size, size), value=fill)
    return _cut(padded, _corners(hu, preprocessing, (height, width), size) + size, size)


def unframe(
    planes: torch.Tensor, hu: torch.Tensor, preprocessing: Preprocessing, spacing_mm: tuple[float, float]
) -> torch.Tensor:
    """Bring planes that lie over a network's input back onto the pixels of the slices: the way back of `prepare`.

    Args:
        planes: (n, c, crop_px, crop_px) of anything that varies smoothly, such as activation maps.
        hu: (n, rows, columns) HU of the slices that the input was made of; says where the heads are.
        preprocessing: As the card states.
        spacing_mm: Between rows, between columns.

    Returns:
        (n, c, rows, columns), between pixels of the input bilinear; 0 where the network does not see the slice.
    """
    shape = tuple(hu.shape[-2:])
    hu = hu.float().clamp(HU_MIN, HU_MAX)
    crop = preprocessing.crop_px
    resized = _resized(shape, preprocessing, spacing_mm)
    if preprocessing.order == "resize_then_window":
        whole = preprocessing.resize_px
        corners = _corners(hu, preprocessing, resized, whole) + (whole - crop) // 2  # as `framed`, then `cropped`
    else:
        corners = _corners(hu, preprocessing, resized, crop)
    places = []
    for axis in (0, 1):
        middles = (torch.arange(shape[axis], device=hu.device) + 0.5) * (resized[axis] / shape[axis])
        places.append((middles - corners[:, axis, None]) / crop * 2 - 1)
    y, x = places[0][:, :, None].expand(-1, *shape), places[1][:, None, :].expand(-1, *shape)
    grid = torch.stack([x, y], dim=-1)
    found = functional.grid_sample(planes, grid, "bilinear", "border", align_corners=False)
    return found * (grid.abs() <= 1).all(dim=-1)[:, None]


def constant(values: Any, device: torch.device) -> torch.Tensor:
    """A few numbers on a device; a GPU is not waited for until it has done what it is busy with.

    Args:
        values: Numbers, or sequences of them.
        device: Where to.

    Returns:
        The tensor.
    """
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _resized(shape: Sequence[int], preprocessing: Preprocessing, spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of slices of a shape once they are at the common scale."""
    side_mm = preprocessing.fov_mm or max(k * mm for k, mm in zip(shape, spacing_mm, strict=True))
    px_per_mm = preprocessing.resize_px / side_mm
    height, width = (max(1, round(k * mm * px_per_mm)) for k, mm in zip(shape, spacing_mm, strict=True))
    return height, width


def _corners(hu: torch.Tensor, preprocessing: Preprocessing, resized: tuple[int, int], size_px: int) -> torch.Tensor:
    """(n, 2) first row and column, in resized slices, of the square that is cut around each head; may be negative."""
    centers = _head_centers(hu) if preprocessing.fov_mm else torch.full((len(hu), 2), 0.5, device=hu.device)
    return torch.floor(centers * constant(resized, hu.device) - size_px / 2 + 0.5).long()


def _cut(planes: torch.Tensor, starts: torch.Tensor, size_px: int) -> torch.Tensor:
    """Squares of (n, c, rows, columns) planes whose first pixels are at (n, 2) starts."""
    steps = torch.arange(size_px, device=planes.device)
    rows, columns = starts[:, 0, None] + steps, starts[:, 1, None] + steps
    images = torch.arange(len(planes), device=planes.device)[:, None, None]
    # Two index arrays around a slice put the slice last: (n, size, size, c).
    return planes[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _windows_of(hu: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """(n, 3, 2) stated centre and width for each of n images."""
    stated = [(w.center_hu, w.width_hu) for w in preprocessing.windows]
    return constant(stated, hu.device).expand(len(hu), 3, 2)


def _normalised(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Windowed images, which nobody else holds, normalised in place: fresh memory costs more than the arithmetic."""
    mean = constant(preprocessing.mean, images.device).view(1, 3, 1, 1)
    std = constant(preprocessing.std, images.device).view(1, 3, 1, 1)
    return images.sub_(mean).div_(std)


def _window(planes: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """(n, 1, rows, columns) HU seen through (n, 3, 2) windows: (n, 3, rows, columns) in 0..1."""
    center, width = windows[:, :, 0, None, None], windows[:, :, 1, None, None]
    return (planes - center).div_(width).add_(0.5).clamp_(0.0, 1.0)


def _head_centers(hu: torch.Tensor) -> torch.Tensor:
    """Centre of mass of the tissue of (n, rows, columns) HU, (n, 2) as fractions of rows and columns; empty: 0.5."""
    weight = ((hu - TISSUE_HU) / TISSUE_SPAN_HU).clamp(0.0, 1.0)
    total = weight.sum(dim=(1, 2))
    centers = []
    for axis in (1, 2):
        length = hu.shape[axis]
        profile = weight.sum(dim=3 - axis)
        middles = (torch.arange(length, device=hu.device) + 0.5) / length
        centers.append((profile * middles).sum(dim=1) / total.clamp(min=1e-6))
    return torch.where(total[:, None] > 0, torch.stack(centers, dim=1), 0.5)
