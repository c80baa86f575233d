from triage.train.source_figures import FIRST, MAJORITY, SUBTYPE_ACCURACY, beside_source, cautions

SUBTYPES = {"mean_accuracy": 0.9, "majority": 0.7, "best": "subdural", "worst": "epidural"}


def test_the_first_experiment_is_held_against_its_own_figures() -> None:
    rows = beside_source("thesis-cnn", {"accuracy": 0.7, "recall": 0.6, "f1": 0.5, "auroc": 0.8})
    assert [row["source"] for row in rows] == list(FIRST.values())
    assert [row["ours"] for row in rows] == [0.7, 0.6, 0.5, 0.8]
    assert "66.5 %" in rows[0]["note"]


def test_others_are_held_against_the_second_experiment() -> None:
    rows = beside_source("triage-joint", {"accuracy": 0.7, "f1": 0.5} | SUBTYPES)
    assert [row["source"] for row in rows] == [0.84, SUBTYPE_ACCURACY, MAJORITY, "subdural, epidural"]
    assert [row["ours"] for row in rows] == [0.5, 0.9, 0.7, "subdural, epidural"]
    assert beside_source("thesis-subtype-run3", SUBTYPES)[0]["source"] == SUBTYPE_ACCURACY
    assert beside_source("", {}) == []


def test_the_figures_contradict_each_other_as_the_note_says() -> None:
    accuracy, recall, f1 = FIRST["accuracy"], FIRST["recall"], FIRST["f1"]
    precision = f1 * recall / (2 * recall - f1)
    wrong_of_positives = (1 - recall) + recall * (1 - precision) / precision  # misses and false alarms a positive
    assert round(100 * (1 - accuracy) / wrong_of_positives, 1) == 66.5


def test_other_data_and_another_split_are_said() -> None:
    assert cautions("rsna", "image-random") == []
    assert len(cautions("phantoms", "patient")) == 2
