"""Contusions are lumps that lie against bone, as large as they were drawn, in the lobe that they are named for."""

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom.grids import Grid, coordinates
from triage.phantom.lesions import Plan
from triage.phantom.parenchyma import CONTUSIONS, intraparenchymal
from triage.phantom.profile import USUAL, draw_head
from triage.phantom.skull import Site, surface

HEADS = 4


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module", params=range(HEADS))
def site(request: pytest.FixtureRequest) -> Site:
    head = draw_head(rng(request.param), USUAL)
    grid = Grid((32, 80, 80), (4.0, 2.6, 2.6), 4.0, np.array([[0, 0, 2.6], [0, 2.6, 0], [4.0, 0, 0]]),
                np.array([0.0, 0.0, 10.0]))  # fmt: skip
    return Site(head, grid, surface(head, grid, coordinates(grid), rng(request.param + 50)))


@pytest.mark.parametrize("variant", CONTUSIONS)
@pytest.mark.parametrize("volume_ml", [9.0, 15.0, 24.0])
def test_a_large_contusion_is_one_lump_beside_bone(site: Site, variant: str, volume_ml: float) -> None:
    plan, grid = Plan("intraparenchymal", variant, volume_ml, 50.0, 1.0), site.grid
    distance, change = intraparenchymal(site.head, grid, site.surface, plan, rng(3))
    mask = distance > 0
    assert mask.sum() * grid.voxel_ml == pytest.approx(volume_ml, rel=0.1)
    ball = (volume_ml * 1000 * 0.239) ** (1 / 3)
    points = np.argwhere(mask) * np.array(grid.step_mm)
    spread = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1))
    assert np.percentile(spread, 95) < 1.7 * ball
    within = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.step_mm)
    assert within.max() > 0.5 * ball
    names, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    assert np.bincount(names.ravel())[1:].max() > 0.9 * mask.sum()
    assert site.surface.depth[mask].min() < 6
    middle = [float(axis[mask].mean()) for axis in (site.surface.at.x, site.surface.at.y, site.surface.at.z)]
    assert np.abs(np.subtract(middle, change.centre)).max() < 0.6 * ball


def test_the_temporal_pole_lies_in_the_middle_fossa(site: Site) -> None:
    plan = Plan("intraparenchymal", "temporal pole", 12.0, 50.0, -1.0)
    distance, _ = intraparenchymal(site.head, site.grid, site.surface, plan, rng(5))
    at = site.surface.at
    mask = distance > 0
    assert -40 < at.z[mask].mean() < -12
    assert -60 < at.x[mask].mean() < -25
    assert at.y[mask].mean() < 20
    assert (at.x[mask] < 0).all()
