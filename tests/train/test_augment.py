import torch

from triage.nn.preprocess import BRAIN, SOFT, SUBDURAL
from triage.train.augment import STRANGE_HU, augmented, jittered_windows, mirrored, smoothed, with_shapes


def rng(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_repeatable_and_leaves_its_input_alone() -> None:
    hu = torch.randn(4, 64, 64, generator=rng(2)) * 100
    before = hu.clone()
    bleeding = torch.tensor([True, False, True, False])
    masks = (hu > 100).float()[:, None]
    (once, moved), (again, _) = (augmented(hu, masks, bleeding, rng()) for _ in range(2))
    assert torch.equal(once, again)
    assert moved is not None
    assert moved.shape == masks.shape
    assert torch.equal(hu, before)
    assert torch.isfinite(once).all()
    assert not torch.equal(once, hu)


def test_masks_move_with_the_slices() -> None:
    hu = torch.full((8, 64, 64), 30.0)
    hu[:, 20:30, 40:50] = 2000.0
    masks = (hu > 1000).float()[:, None]
    varied, moved = augmented(hu, masks, torch.ones(8, dtype=torch.bool), rng())
    assert moved is not None
    bright, mask = varied > 1000, moved[:, 0] > 0.5
    assert ((bright & mask).sum() / (bright | mask).sum()).item() > 0.9
    assert not torch.equal(mask[0], masks[0, 0] > 0.5)


def test_only_slices_without_a_bleed_are_made_strange() -> None:
    hu = torch.full((400, 16, 16), 30.0)
    bleeding = torch.arange(400) < 200
    varied, _ = augmented(hu, None, bleeding, rng())
    inside = varied[:, 4:12, 4:12]
    odd = ((inside > 200) | (inside < -200)).any(dim=1).any(dim=1)
    assert not odd[:200].any()
    assert 10 <= int(odd[200:].sum()) <= 60


def test_shapes_lie_on_the_strange_slices_alone() -> None:
    hu = torch.full((40, 32, 32), 30.0)
    strange = torch.arange(40) % 5 == 2
    varied = with_shapes(hu, strange, rng())
    assert torch.equal(varied[~strange], hu[~strange])
    assert (varied[strange] != 30.0).any(dim=2).any(dim=1).all()
    assert set(varied.flatten().tolist()) <= {30.0, *STRANGE_HU}
    assert torch.equal(with_shapes(hu, torch.zeros(40, dtype=torch.bool), rng()), hu)


def test_mirroring_turns_half_of_the_slices_and_their_masks() -> None:
    hu = torch.arange(8.0).repeat(500, 8, 1)
    turned, masks = mirrored(hu, hu[:, None], rng())
    flipped = (turned == hu.flip(-1)).all(dim=2).all(dim=1)
    kept = (turned == hu).all(dim=2).all(dim=1)
    assert bool((flipped ^ kept).all())
    assert 200 <= int(flipped.sum()) <= 300
    assert masks is not None
    assert torch.equal(masks[:, 0], turned)


def test_smoothing_keeps_flat_images_and_mean() -> None:
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 16.0
    assert smoothed(point)[0, 3:6, 3:6].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_windows_stay_near_the_stated_ones() -> None:
    windows = jittered_windows((BRAIN, SUBDURAL, SOFT), 500, rng(1))
    off = (windows - torch.tensor([[40.0, 80.0], [80.0, 200.0], [40.0, 380.0]])).abs().amax(dim=0)
    assert (off <= torch.tensor([[4.0, 5.0], [7.0, 10.0], [4.0, 15.0]])).all()
    assert (off > 1).all()
