"""What a head lies on and in: shells of a headrest, foam, folds of a pillow or blanket; nothing that moves with it."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import noise
from triage.phantom.grids import Grid
from triage.phantom.profile import Head
from triage.phantom.scalp import airy
from triage.records import FloatArray

FOLD_HU = (-160.0, -40.0)
"""Of the cloth of pillows and blankets."""

FOAM_HU = (-960.0, -820.0)

P_SECOND = 0.35
"""Of a second shell outside the first."""

P_OPEN = 0.3
"""Of a shell that has only sides, as where a head lies in a ring or between two cheeks."""

P_FOAM = 0.4

P_FOLDS = 0.35


@dataclass(frozen=True, slots=True)
class _Shell:
    """One headrest, in mm from the middle of the image, rows downwards."""

    wide: float
    """Half its width."""
    start: float
    """Row where its sides begin to bend."""
    back: float
    """Its lowest row."""
    lean: float
    """How much lower it lies, a mm along the stack."""
    half: float
    """Half the thickness of its wall."""
    value: float
    """HU."""
    curve: float
    open_mm: float
    """Half the width of what is left out of its bottom."""
    gap_mm: float
    """To a second shell; 0: none."""
    foam_mm: float
    """Thickness of foam inside; 0: none."""
    foam_hu: float
    folds: int
    """Layers of cloth inside."""


def _draw(head: Head, rng: np.random.Generator) -> _Shell:
    """One headrest under one head."""
    back = head.radii_mm[1] + head.skull_mm + head.scalp_mm + head.off_centre_mm[1] + float(rng.uniform(3, 10))
    chance, value = rng.random(4), rng.random(6)
    return _Shell(
        wide=float(rng.uniform(96, 118)),
        start=float(rng.uniform(-15, 30)),
        back=back,
        lean=float(rng.uniform(-0.06, 0.06)),
        half=float(rng.uniform(0.7, 2.2)),
        value=float(rng.uniform(-250, 600)),
        curve=float(rng.uniform(0.75, 1.0)),
        open_mm=float((20 + 60 * value[0]) * (chance[0] < P_OPEN)),
        gap_mm=float((5 + 9 * value[1]) * (chance[1] < P_SECOND)),
        foam_mm=float((6 + 30 * value[2]) * (chance[2] < P_FOAM)),
        foam_hu=float(FOAM_HU[0] + value[3] * (FOAM_HU[1] - FOAM_HU[0])),
        folds=int((1 + int(4 * value[4])) * (chance[3] < P_FOLDS)),
    )


def paint_headrest(hu: FloatArray, grid: Grid, head: Head, drift_mm: FloatArray, rng: np.random.Generator) -> None:
    """A curved shell under the head, open or double, with what lies in it, in place: only where there is air.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        head: Parameters.
        drift_mm: (n,): how far each slice's middle has moved along the columns, from gantry tilt.
        rng: Source of chance.
    """
    n, rows, columns = hu.shape
    shell = _draw(head, rng)
    v = ((np.arange(rows) - (rows - 1) / 2.0) * grid.step_mm[1]).astype(np.float32)
    u = ((np.arange(columns) - (columns - 1) / 2.0) * grid.step_mm[2]).astype(np.float32)
    along = ((np.arange(n) - (n - 1) / 2.0) * grid.step_mm[0] * shell.lean).astype(np.float32)
    waves = _waves(shell, grid, rng)
    for k in range(n):
        w = v - drift_mm[k] - along[k]
        for wave, off, thick, value in waves:
            _fold(hu[k], (w, u), shell, (wave[k] + np.float32(off), thick, value))
        _shell(hu[k], (w, u), shell, grid.step_mm[2])


def _waves(shell: _Shell, grid: Grid, rng: np.random.Generator) -> list[tuple[FloatArray, float, float, float]]:
    """Of each layer of cloth: height of its waves (n, columns), mm inside the shell, half its thickness, HU."""
    n, _, columns = grid.shape
    layers, off = [], 1.0
    for _ in range(shell.folds):
        thick, value = float(rng.uniform(0.6, 1.8)), float(rng.uniform(*FOLD_HU))
        off += float(rng.uniform(2.5, 8.0))
        wave = noise(rng, (n, 1, columns), grid.step_mm, float(rng.uniform(22, 60)))[:, 0]
        layers.append((wave * np.float32(rng.uniform(0.8, 3.5)), off, thick, value))
    return layers


def _fold(hu: FloatArray, at: tuple[FloatArray, FloatArray], shell: _Shell,
          layer: tuple[FloatArray, float, float]) -> None:  # fmt: skip
    """One layer of cloth in one slice, in place."""
    (w, u), (above, half, value) = at, layer
    inside = np.clip(1 - (u * np.float32(1 / shell.wide)) ** 2, 0, 1)
    bottom = np.float32(shell.start) + np.float32(shell.back - shell.start) * np.sqrt(inside)
    held = np.flatnonzero(bottom > shell.start + 0.35 * (shell.back - shell.start))
    if held.size == 0:
        return
    columns = slice(int(held[0]), int(held[-1]) + 1)
    middle = (bottom - above)[columns]
    step = float(w[1] - w[0]) if w.size > 1 else 1.0
    near = np.flatnonzero((w > middle.min() - half - step) & (w < middle.max() + half + step))
    if near.size == 0:
        return
    part = (slice(int(near[0]), int(near[-1]) + 1), columns)
    share = np.clip(
        (np.float32(half) - np.abs(w[part[0], None] - middle)) * np.float32(1 / step) + np.float32(0.5), 0, 1
    )
    hu[part] += share * np.float32(min(1.0, 2 * half / step)) * airy(hu[part]) * (np.float32(value) - hu[part])


def _shell(hu: FloatArray, at: tuple[FloatArray, FloatArray], shell: _Shell, pixel_mm: float) -> None:
    """Wall or walls and foam in one slice, in place."""
    reach = shell.half + pixel_mm
    low = shell.back + (reach + shell.gap_mm) * (shell.back - shell.start) / (shell.wide * shell.curve)
    rows = np.flatnonzero((at[0] > shell.start - 20) & (at[0] < low + 1))
    if rows.size == 0:
        return
    hu = hu[rows[0] : rows[-1] + 1]
    w, u = at[0][rows][:, None], at[1][None, :]
    across = np.clip(w - shell.start, 0, None) * np.float32(1 / (shell.back - shell.start))
    across = np.sqrt((u * np.float32(1 / shell.wide)) ** 2 + across * across)
    across -= np.float32(1)
    across *= np.float32(shell.wide * shell.curve)  # mm outside the first wall
    where = np.nonzero((across > -max(reach, shell.foam_mm)) & (across < reach + shell.gap_mm))
    away, before = across[where], hu[where]
    wall = np.abs(away)
    if shell.gap_mm:
        wall = np.minimum(wall, np.abs(away - np.float32(shell.gap_mm)))
    share = np.clip((shell.half - wall) / pixel_mm + 0.5, 0, min(1.0, 2 * shell.half / pixel_mm))
    share *= np.clip((np.abs(u[0][where[1]]) - np.float32(shell.open_mm)) * np.float32(1 / 4) + 1, 0, 1)
    free = airy(before)
    foam = free * np.clip((away + np.float32(shell.foam_mm)) * np.float32(1 / 2), 0, 1) if shell.foam_mm else None
    if foam is not None:
        before = before + foam * (away < shell.gap_mm) * (np.float32(shell.foam_hu) - before)
    hu[where] = before + share * free * (np.float32(shell.value) - before)
