from dataclasses import replace

import numpy as np
import pytest
import torch
from indexes import labels_of, random_labels

from triage.records import SUBTYPES
from triage.train.recipes import Kind, Recipe, Sampler
from triage.train.sampler import NO_BLEED, classes, draws, prior_shift, weights

torch.set_num_threads(1)

COUNTS = {"epidural": 20, "intraparenchymal": 300, "intraventricular": 200, "subarachnoid": 280, "subdural": 400}


def recipe(sampler: Sampler, kind: Kind = "binary", **changes: int) -> Recipe:
    return replace(Recipe("test", "", kind, sampler=sampler), **changes)  # type: ignore[arg-type]  # draws and seed


def frequencies(kind: Kind, sampler: Sampler, number: int = 60_000) -> np.ndarray:
    """Drawn shares of the five subtypes and of no bleed."""
    labels = labels_of(0 if kind == "subtype" else 6000, **COUNTS)
    one = recipe(sampler, kind, draws=number)
    rows = draws(weights(labels, one), one, epoch=3)
    return np.bincount(classes(labels)[rows], minlength=6) / number


def error(share: float, number: int = 60_000) -> float:
    """Four standard deviations of a drawn share."""
    return 4 * float(np.sqrt(share * (1 - share) / number))


def test_the_class_of_a_slice_is_its_rarest_subtype() -> None:
    labels = labels_of(2, **COUNTS)
    labels[-1, 1] = True  # subdural and epidural
    labels[-2, 2] = True  # subdural and intraparenchymal
    labels[-3, 1:] = False  # a bleed that nobody told the kind of
    found = classes(labels)
    assert found[:2].tolist() == [NO_BLEED] * 2
    assert found[2] == 0
    assert found[-3:].tolist() == [SUBTYPES.index("subdural"), 1, 0]


def test_class_weights_of_the_binary_model_are_one_over_the_count() -> None:
    labels = labels_of(900, subdural=75, epidural=25)
    found = weights(labels, recipe("class_weighted"))
    assert found.dtype == torch.float64
    assert found[:900].tolist() == pytest.approx([0.5 / 900] * 900)
    assert found[900:].tolist() == pytest.approx([0.5 / 100] * 100)


@pytest.mark.parametrize(("kind", "n_classes"), [("subtype", 5), ("joint", 6)])
def test_class_weighted_draws_every_class_alike(kind: Kind, n_classes: int) -> None:
    found = frequencies(kind, "class_weighted")
    assert found[:n_classes] == pytest.approx([1 / n_classes] * n_classes, abs=error(1 / n_classes))
    assert found.sum() == pytest.approx(1)


def test_class_weighted_draws_bleeds_and_others_alike() -> None:
    found = frequencies("binary", "class_weighted")
    assert found[NO_BLEED] == pytest.approx(0.5, abs=error(0.5))
    natural = np.array(list(COUNTS.values())) / sum(COUNTS.values()) / 2
    assert found[:NO_BLEED] == pytest.approx(natural, abs=error(0.2))


@pytest.mark.parametrize("kind", ["binary", "joint"])
def test_balanced_draws_half_without_a_bleed_and_subtypes_alike(kind: Kind) -> None:
    found = frequencies(kind, "balanced")
    assert found[NO_BLEED] == pytest.approx(0.5, abs=error(0.5))
    assert found[:NO_BLEED] == pytest.approx([0.1] * 5, abs=error(0.1))


def test_balanced_subtypes_are_alike() -> None:
    assert frequencies("subtype", "balanced")[:NO_BLEED] == pytest.approx([0.2] * 5, abs=error(0.2))


@pytest.mark.parametrize("sampler", ["class_weighted", "balanced"])
def test_a_missing_class_leaves_its_share_to_the_others(sampler: Sampler) -> None:
    labels = labels_of(90, subdural=9, epidural=1)
    found = weights(labels, recipe(sampler, "joint"))
    assert found.sum() == pytest.approx(1)
    without = {"class_weighted": 1 / 3, "balanced": 1 / 2}[sampler]
    assert found[:90].sum() == pytest.approx(without)
    assert found[90:99].sum() == pytest.approx((1 - without) / 2)
    assert weights(labels[90:], recipe(sampler, "joint")).sum() == pytest.approx(1)
    assert weights(labels[:90], recipe(sampler, "joint")).tolist() == pytest.approx([1 / 90] * 90)


def test_plain_draws_every_slice_once() -> None:
    one = recipe("plain")
    same = weights(random_labels(1000), one)
    first, second = draws(same, one, 1), draws(same, one, 2)
    assert sorted(first) == list(range(1000))
    assert first.dtype == np.int64
    assert not np.array_equal(first, second)
    some, more = (draws(same, replace(one, draws=n), 1) for n in (300, 2500))
    assert np.array_equal(some, first[:300])
    assert np.bincount(more).min() == 2
    assert np.bincount(more).max() == 3


def test_as_many_draws_as_slices_unless_the_recipe_says_so() -> None:
    labels = random_labels(500)
    one = recipe("class_weighted")
    assert len(draws(weights(labels, one), one, 1)) == 500
    assert len(draws(weights(labels, one), replace(one, draws=77), 1)) == 77


@pytest.mark.parametrize("sampler", ["plain", "class_weighted", "balanced"])
def test_a_resumed_run_draws_the_same(sampler: Sampler) -> None:
    labels, one = random_labels(400), recipe(sampler)
    straight = [draws(weights(labels, one), one, epoch) for epoch in range(4)]
    torch.manual_seed(99)  # nothing depends on the state of torch's own generator
    torch.rand(5)
    resumed = [draws(weights(labels, one), one, epoch) for epoch in range(2, 4)]
    for before, after in zip(straight[2:], resumed, strict=True):
        assert np.array_equal(before, after)
    assert not np.array_equal(straight[0], straight[1])
    assert not np.array_equal(straight[0], draws(weights(labels, one), replace(one, seed=2), 0))


@pytest.mark.parametrize("sampler", ["plain", "balanced"])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_one_sequence(sampler: Sampler, world: int) -> None:
    labels, one = random_labels(100), recipe(sampler)
    found = weights(labels, one)
    whole = draws(found, one, 5)
    ranks = [draws(found, one, 5, rank, world) for rank in range(world)]
    assert len({len(r) for r in ranks}) == 1  # else one of them waits for the others for ever
    together = np.stack(ranks, axis=1).ravel()
    assert np.array_equal(together[:100], whole)
    assert np.array_equal(together[100:], whole[: len(together) - 100])


@pytest.mark.parametrize(("bleeding", "shift"), [(289, -0.90), (144, -1.78)])
@pytest.mark.parametrize("sampler", ["class_weighted", "balanced"])
def test_the_sampler_shifts_the_prior(sampler: Sampler, bleeding: int, shift: float) -> None:
    labels = labels_of(1000 - bleeding, subdural=bleeding - 10, epidural=10)
    assert prior_shift(labels, weights(labels, recipe(sampler))) == pytest.approx(shift, abs=0.005)
    assert prior_shift(labels, weights(labels, recipe("plain"))) == pytest.approx(0, abs=1e-12)


def test_slices_that_all_bleed_have_no_shift() -> None:
    labels = labels_of(0, subdural=5, epidural=2)
    assert prior_shift(labels, weights(labels, recipe("class_weighted", "subtype"))) == 0
