"""Varies slices in Hounsfield units as heads and scanners vary, so that a data set is not learnt by heart."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from triage.nn.preprocess import Window, constant

CENTER_JITTER_HU, WIDTH_JITTER_HU = (4.0, 7.0, 4.0), (5.0, 10.0, 15.0)
"""Largest shift of each window's centre and width (fourth place of RSNA 2019)."""

STRANGE_SHARE = 0.15
"""Part of the slices without a bleed that are made strange: faces and necks are not in every data set, and what looks
like nothing known must not look like a bleed."""

STRANGE_HU = (-900.0, -90.0, 45.0, 60.0, 400.0, 1000.0)
"""What strange shapes are made of: air, fat, muscle, gland or contrast, spongy and compact bone."""

SHAPES = 10
"""Most of them in one slice."""

AIR_HU = -1024.0
TURN_DEG, ZOOM, SQUEEZE, SHIFT = 15.0, 0.15, 0.07, 0.0625
"""Largest turn, change of size, of aspect, and shift as a part of the side."""

BEND, STRANGE_BEND = 0.008, 0.08
"""Standard deviation of a smooth bending, as a part of half the side."""


def augmented(
    hu: torch.Tensor, masks: torch.Tensor | None, bleeding: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Vary slices as heads and scanners vary: pose, size, sharpness, contrast, shading, noise.

    Args:
        hu: (n, rows, columns) HU.
        masks: (n, c, rows, columns), 0..1, what moves with the slices; None for nothing.
        bleeding: (n,) bool, which slices show a bleed; those are not made strange.
        rng: Source of chance, on the same device.

    Returns:
        Varied slices, whose labels still hold, and the masks in their places.
    """
    n, device = len(hu), hu.device
    strange = torch.rand(n, generator=rng, device=device) < STRANGE_SHARE
    strange &= ~bleeding

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=rng, device=device)

    grid = poses(hu.shape, torch.where(strange, STRANGE_BEND, BEND), rng)
    hu = functional.grid_sample(hu[:, None] - AIR_HU, grid, align_corners=False)[:, 0] + AIR_HU
    masks = functional.grid_sample(masks, grid, align_corners=False) if masks is not None else None
    hu = with_shapes(hu, strange, rng)
    blurred = smoothed(hu)
    hu = hu + between(-1.0, 0.6) * (hu - blurred)  # from blurred to edge-enhanced
    contrast = between(0.85, 1.2)
    hu = hu + (contrast - 1) * (hu - 30.0).clamp(-40.0, 60.0)
    shading = torch.randn(n, 1, 5, 5, generator=rng, device=device) * between(0.0, 3.0)[..., None]
    hu = hu + functional.interpolate(shading, hu.shape[1:], mode="bicubic")[:, 0] + between(-4.0, 4.0)
    fine = torch.randn(hu.shape, generator=rng, device=device)
    grain = smoothed(torch.randn(hu.shape, generator=rng, device=device)) * 3.0
    return hu + fine * between(0.0, 3.0) + grain * between(0.0, 2.0), masks


def mirrored(
    hu: torch.Tensor, masks: torch.Tensor | None, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mirror each slice, left for right, with probability 0.5; arguments as for `augmented`."""
    turned = torch.rand(len(hu), 1, 1, generator=rng, device=hu.device) < 0.5
    hu = torch.where(turned, hu.flip(-1), hu)
    return hu, torch.where(turned[:, None], masks.flip(-1), masks) if masks is not None else None


def with_shapes(hu: torch.Tensor, strange: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Slices with two to ten ellipses of other tissues laid over the strange ones.

    A GPU is never asked which slices those are: room for a fixed number of them is worked on, five standard deviations
    above what chance gives; the rest stays as it is.

    Args:
        hu: (n, rows, columns) HU.
        strange: (n,) bool.
        rng: Source of chance, on the same device.

    Returns:
        As `hu`.
    """
    n, device = len(hu), hu.device
    room = min(n, n // 4 + 8)
    at = torch.argsort(strange, descending=True, stable=True)[:room]
    some, chosen = hu[at], strange[at][:, None, None]
    number = torch.randint(2, SHAPES + 1, (room, 1, 1), generator=rng, device=device)
    draws = torch.rand(SHAPES, 6, room, 1, 1, generator=rng, device=device)
    stuffs = constant(STRANGE_HU, device)
    y = torch.linspace(-1, 1, hu.shape[1], device=device)[:, None]
    x = torch.linspace(-1, 1, hu.shape[2], device=device)
    for k in range(SHAPES):
        down, across, long, thin, turn, stuff = draws[k].unbind(0)
        cos, sin = (math.pi * turn).cos(), (math.pi * turn).sin()
        dy, dx = y - 1.4 * down + 0.7, x - 1.4 * across + 0.7
        long, thin = 0.04 + 0.3 * long**2, 0.02 + 0.12 * thin
        inside = (cos / long * dx + sin / long * dy) ** 2 + (cos / thin * dy - sin / thin * dx) ** 2 < 1
        other = stuffs[(stuff * len(STRANGE_HU)).long()]
        some = torch.where(inside & chosen & (k < number), other, some)
    return hu.index_copy(0, at, some)


def poses(shape: torch.Size, bend: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Where to sample slices of a (n, rows, columns) shape: (n, rows, columns, 2) as `grid_sample` takes it.

    Mirrored, turned, zoomed, squeezed and shifted as the constants say, bent by (n,) of half the width.
    """
    n, device = len(bend), bend.device
    turn, zoom, squeeze, mirror, across, down = (2 * torch.rand(6, n, generator=rng, device=device) - 1).unbind(0)
    turn, zoom, squeeze = turn * math.radians(TURN_DEG), 1 + ZOOM * zoom, 1 + SQUEEZE * squeeze
    mirror = torch.where(mirror < 0, -1.0, 1.0)
    rows = [mirror * zoom * squeeze * turn.cos(), -zoom * turn.sin(), 2 * SHIFT * across,
            mirror * zoom * squeeze * turn.sin(), zoom * turn.cos(), 2 * SHIFT * down]  # fmt: skip
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(n, 2, 3), [n, 1, *shape[1:]], align_corners=False)
    waves = torch.randn(n, 2, 6, 6, generator=rng, device=device) * bend.view(n, 1, 1, 1)
    return grid + functional.interpolate(waves, shape[1:], mode="bicubic").permute(0, 2, 3, 1)


def smoothed(images: torch.Tensor) -> torch.Tensor:
    """(n, rows, columns) through a 3 x 3 binomial filter."""
    images = functional.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    for _ in range(2):  # [1, 2, 1] is [1, 1] twice; sums of shifted images are quicker here than a convolution
        images = images[:, :-1] + images[:, 1:]
        images = images[:, :, :-1] + images[:, :, 1:]
    return images / 16


def jittered_windows(windows: Sequence[Window], n: int, rng: torch.Generator) -> torch.Tensor:
    """(n, 3, 2) centre and width of each image's windows in HU, on the generator's device."""
    stated = constant([(w.center_hu, w.width_hu) for w in windows], rng.device)
    largest = constant([CENTER_JITTER_HU, WIDTH_JITTER_HU], rng.device).T
    return stated + (2 * torch.rand(n, 3, 2, generator=rng, device=rng.device) - 1) * largest
