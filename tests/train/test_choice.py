from dataclasses import replace

import numpy as np
from indexes import make_index, shuffled

from triage.train.choice import chosen_rows, note

N_STUDIES = 19_530
"""Of the RSNA 2019 stage 1 training set."""


def test_five_slices_lie_above_the_middle() -> None:
    # Of 12 slices number 6 is the middle; of 11 number 5.
    index = make_index([12, 11])
    assert chosen_rows(index, "above_middle_5").tolist() == [7, 8, 9, 10, 11, 12 + 6, 12 + 7, 12 + 8, 12 + 9, 12 + 10]


def test_above_is_towards_the_head() -> None:
    index = make_index([30])
    upside_down = replace(index, position_mm=-index.position_mm)
    assert chosen_rows(index, "above_middle_5").tolist() == [16, 17, 18, 19, 20]
    assert chosen_rows(upside_down, "above_middle_5").tolist() == [9, 10, 11, 12, 13]


def test_the_order_of_the_index_does_not_matter() -> None:
    index = make_index([20 + k % 9 for k in range(50)])
    mixed, rows = shuffled(index)
    assert sorted(rows[chosen_rows(mixed, "above_middle_5")]) == chosen_rows(index, "above_middle_5").tolist()


def test_short_studies_give_what_there_is() -> None:
    index = make_index([1, 2, 3, 10, 11])
    rows = chosen_rows(index, "above_middle_5")
    assert np.unique(index.study[rows], return_counts=True)[1].tolist() == [1, 4, 5]
    assert note(index, "above_middle_5") == (
        "10 slices of 5 studies, five above each middle; 4 studies gave fewer than five, 2 of them none"
    )


def test_a_slice_of_unknown_position_is_not_chosen_and_does_not_count() -> None:
    index = make_index([13, 6])
    position_mm = index.position_mm.copy()
    position_mm[[2, 9]] = np.nan
    position_mm[13:] = np.nan
    unplaced = replace(index, position_mm=position_mm)
    # 11 of the first study have a place: 0 1 3 4 5 6 7 8 10 11 12; number 5 of them is slice 6.
    assert chosen_rows(unplaced, "above_middle_5").tolist() == [7, 8, 10, 11, 12]
    assert note(unplaced, "above_middle_5").endswith("8 slices of unknown position were left out")
    assert len(chosen_rows(unplaced, "all")) == 19


def test_every_study_of_the_source_gives_five() -> None:
    index = make_index([24 + k % 22 for k in range(N_STUDIES)])
    rows = chosen_rows(index, "above_middle_5")
    assert len(rows) == 5 * N_STUDIES
    studies, counts = np.unique(index.study[rows], return_counts=True)
    assert len(studies) == N_STUDIES
    assert set(counts) == {5}
    assert (np.diff(rows) > 0).all()
    assert note(index, "above_middle_5") == "97,650 slices of 19,530 studies, five above each middle"


def test_all_are_all() -> None:
    index = make_index([3, 1])
    assert chosen_rows(index, "all").tolist() == [0, 1, 2, 3]
    assert note(index, "all") == "all 4 slices of 2 studies"


def test_an_empty_index_gives_nothing() -> None:
    assert len(chosen_rows(make_index([]), "above_middle_5")) == 0
