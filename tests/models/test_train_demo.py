import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

MODELS = Path(__file__).parents[2] / "models"
sys.path.insert(0, str(MODELS))  # scripts, not a package: they find each other beside themselves

import demo_augmentation  # noqa: E402
import demo_measures  # noqa: E402
import train_demo  # noqa: E402

from triage.nn.pack import read_card, verify_pack  # noqa: E402
from triage.nn.preprocess import BRAIN, SOFT, SUBDURAL  # noqa: E402

torch.set_num_threads(1)


def test_area_under_the_curve_counts_ordered_pairs() -> None:
    truth = np.array([False, False, True, True, False])
    assert demo_measures.auroc(np.array([0.1, 0.2, 0.3, 0.9, 0.4]), truth) == pytest.approx(5 / 6, abs=1e-4)
    assert demo_measures.auroc(np.array([0.5] * 5), truth) == 0.5
    assert math.isnan(demo_measures.auroc(np.zeros(2), np.array([True, True])))


def test_calibration_undoes_a_known_distortion() -> None:
    rng = np.random.default_rng(1)
    truth_logits = rng.normal(0, 2, 20000)
    truth = rng.random(20000) < 1 / (1 + np.exp(-truth_logits))
    fitted = demo_measures.platt(truth_logits / 1.7 + 0.9, truth)  # logit = 1.7 (x - 0.9)
    assert fitted.scale == pytest.approx(1.7, rel=0.05)
    assert fitted.bias == pytest.approx(-1.53, abs=0.1)


def test_draws_balance_bleeds_and_subtypes() -> None:
    labels = np.zeros((1000, 6), np.bool_)
    labels[:90, [0, 5]] = True
    labels[90:100, [0, 1]] = True
    weights = train_demo.sampling_weights(labels)
    assert weights[:100].sum() == pytest.approx(weights[100:].sum())
    assert weights[:90].sum() == pytest.approx(weights[90:100].sum())


def test_augmentation_is_repeatable_and_leaves_its_input_alone() -> None:
    hu = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(2)) * 100
    before = hu.clone()
    bleeding = torch.tensor([True, False, True, False])
    masks = (hu > 100).float()[:, None]
    (once, moved), (again, _) = (
        demo_augmentation.augment(hu, masks, bleeding, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(once, again)
    assert moved.shape == masks.shape
    assert torch.equal(hu, before)
    assert torch.isfinite(once).all()
    assert not torch.equal(once, hu)


def test_masks_move_with_the_slices() -> None:
    hu = torch.full((8, 64, 64), 30.0)
    hu[:, 20:30, 40:50] = 2000.0
    masks = (hu > 1000).float()[:, None]
    bleeding = torch.ones(8, dtype=torch.bool)
    varied, moved = demo_augmentation.augment(hu, masks, bleeding, torch.Generator().manual_seed(7))
    bright, mask = varied > 1000, moved[:, 0] > 0.5
    assert ((bright & mask).sum() / (bright | mask).sum()).item() > 0.9
    assert not torch.equal(mask[0], masks[0, 0] > 0.5)


def test_smoothing_keeps_flat_images_and_mean() -> None:
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 16.0
    assert demo_augmentation.smoothed(point)[0, 3:6, 3:6].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_windows_stay_near_the_stated_ones() -> None:
    windows = demo_augmentation.jittered_windows((BRAIN, SUBDURAL, SOFT), 500, torch.Generator().manual_seed(1))
    off = (windows - torch.tensor([[40.0, 80.0], [80.0, 200.0], [40.0, 380.0]])).abs().amax(dim=0)
    assert (off <= torch.tensor([[4.0, 5.0], [7.0, 10.0], [4.0, 15.0]])).all()
    assert (off > 1).all()


def test_the_whole_run_in_small(tmp_path: Path) -> None:
    out = tmp_path / "smoke-0.0"
    train_demo.main(["--smoke", "--out", str(out), "--cache", str(tmp_path / "cache")])
    assert verify_pack(out)[0] == "smoke 0.0 (demonstration), resnet18"
    card = read_card(out)
    assert card.performance.n_studies == len(list((tmp_path / "cache").rglob("20000*.npz")))
    assert "seeds 1 to" in card.training.data
