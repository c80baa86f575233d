from pathlib import Path

import numpy as np
import pytest
from train.rsna_data import RSNA_ORDER

from triage.errors import DataError
from triage.records import LABELS
from triage.train.labels import (
    STAGE_1,
    STAGE_2,
    By,
    Labels,
    labels_without_positives,
    read_labels,
    read_rsna_labels,
    read_table,
)

NONE = dict.fromkeys(LABELS, "0")
BLEED = NONE | {"any": "1", "subdural": "1"}


def rsna(path: Path, *images: tuple[str, dict[str, str]], header: str = "ID,Label") -> Path:
    rows = [f"{name}_{label},{values[label]}" for name, values in images for label in RSNA_ORDER if label in values]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def table(path: Path, *rows: str, header: str = f"StudyInstanceUID,{','.join(LABELS)}") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_rows_of_one_image_become_one(file: Path) -> None:
    labels = read_rsna_labels(rsna(file, ("ID_b", BLEED), ("ID_a", NONE)))
    assert labels.names.tolist() == ["ID_b", "ID_a"]
    assert labels.truth.tolist() == [[True, False, False, False, False, True], [False] * 6]
    assert labels.row_of == {"ID_b": 0, "ID_a": 1}
    assert (labels.by, labels.n_rows, labels.notes) == ("image", 12, ())
    assert labels.source == "RSNA 2019 layout, not the whole of a known stage: 12 rows, 2 images"


def test_rows_may_lie_in_any_order_between_empty_lines(file: Path) -> None:
    lines = rsna(file, ("ID_a", BLEED), ("ID_b", NONE)).read_text().splitlines()
    file.write_text("\r\n".join([lines[0], "", *sorted(lines[1:], key=lambda x: x[::-1])]), encoding="utf-8-sig")
    labels = read_rsna_labels(file)
    assert labels.truth[labels.row_of["ID_a"]].tolist() == [True, False, False, False, False, True]


def counted(n_rows: int, n_images: int, by: By = "image") -> Labels:
    return Labels(Path("x.csv"), by, np.zeros(n_images, "U1"), np.zeros((n_images, 6), np.bool_), n_rows, "")


def test_stages_are_known_by_their_counts() -> None:
    assert STAGE_1.n_rows == 6 * 674_262
    assert STAGE_2.n_rows == 6 * 752_807
    for stage in (STAGE_1, STAGE_2):
        labels = counted(stage.n_rows, stage.n_images)
        assert labels.stage == stage.number
        assert labels.source.startswith(f"RSNA 2019 stage {stage.number} training set: ")
        assert counted(stage.n_rows, stage.n_images - 1).stage is None
        assert counted(stage.n_rows - 6, stage.n_images).stage is None
        assert counted(stage.n_rows, stage.n_images, "SOPInstanceUID").stage is None


def test_duplicated_ids_are_dropped_and_told(file: Path) -> None:
    labels = read_rsna_labels(rsna(file, ("ID_a", BLEED), ("ID_b", NONE), ("ID_a", BLEED)))
    assert (len(labels), labels.n_rows, labels.duplicated) == (2, 18, ("ID_a",))
    assert "1 names" in labels.notes[0]
    assert "ID_a" in labels.notes[0]


def test_any_that_is_not_what_the_subtypes_say_is_told(file: Path) -> None:
    labels = read_rsna_labels(rsna(file, ("ID_a", NONE | {"any": "1"}), ("ID_b", NONE | {"epidural": "1"})))
    assert labels.notes == ("2 rows of labels where 'any' is not what the subtypes say; kept as they are",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1"),
        ("ID\nID_a_any\n", "no column Label"),
        ("Label\n0\n", "no column ID"),
        ("name,truth\nID_a_any,0\n", "no column ID and Label"),
        ("ID,Label\n", "no row below the header"),
        ("ID,Label\nID_a_any,2\n", r"line 2: the label of ID_a_any is '2', neither 0 nor 1"),
        ("ID,Label\nID_a_any,\n", "line 2: .* is '', neither"),
        ("ID,Label\nID_a_any\n", "line 2 has 1 columns"),
        ("ID,Label\n\nID_a_stroke,0\n", "line 3: 'ID_a_stroke' does not end in one of any, epidural"),
        ("ID,Label\nany,0\n", "line 2"),
        ("ID,Label\nID_a_any,0\n", "ID_a has no row for epidural, intraparenchymal"),
    ],
)
def test_what_is_wrong_with_rsna_labels_is_named(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(DataError, match=told):
        read_labels(file)


def test_conflicting_labels_of_one_id_are_an_error(file: Path) -> None:
    with pytest.raises(DataError, match="line 13: ID_a is there twice, any once 0 and once 1"):
        read_rsna_labels(rsna(file, ("ID_a", BLEED), ("ID_a", BLEED | {"any": "0"})))


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"ID,Label\n\xff\xfe\x00")
    with pytest.raises(DataError, match="no CSV in UTF-8"):
        read_labels(tmp_path / "x.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "missing.csv")


@pytest.mark.parametrize("by", ["StudyInstanceUID", "SOPInstanceUID"])
def test_a_table_by_uid(file: Path, by: str) -> None:
    header = f"remark, {by} ,subdural,any,epidural,intraparenchymal,intraventricular,subarachnoid"
    labels = read_labels(table(file, "first,1.2.3,1,1,0,0,0,0", '"a, b", 1.2.4 ,0,0,0,0,0,0', header=header))
    assert labels.by == by
    assert labels.names.tolist() == ["1.2.3", "1.2.4"]
    assert labels.truth[0].tolist() == [True, False, False, False, False, True]
    assert labels.source == f"a table by {by}: 2 rows, 2 {'studies' if by.startswith('Study') else 'images'}"


def test_an_image_says_more_than_its_study(file: Path) -> None:
    header = f"StudyInstanceUID,SOPInstanceUID,{','.join(LABELS)}"
    labels = read_labels(table(file, "1.2,1.2.1,0,0,0,0,0,0", "1.2,1.2.2,1,1,0,0,0,0", header=header))
    assert (labels.by, len(labels)) == ("SOPInstanceUID", 2)


def test_repeated_rows_of_a_table(file: Path) -> None:
    labels = read_table(table(file, "1.2.3,0,0,0,0,0,0", "1.2.3,0,0,0,0,0,0"))
    assert (len(labels), labels.n_rows) == (1, 2)
    assert not any("1.2.3" in note for note in labels.notes)
    with pytest.raises(DataError, match="lines 2 and 4") as caught:
        read_table(table(file, "1.2.3,0,0,0,0,0,0", "1.2.4,0,0,0,0,0,0", "1.2.3,1,0,0,0,0,1"))
    assert "1.2.3" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("1.2.3,0,0,0,yes,0,0", "line 2: the label of intraventricular is 'yes', neither"),
        ("1.2.3,SECRET^NAME,0,0,0,0,0", "line 2: the label of any is neither"),
        (",0,0,0,0,0,0", "line 2 has no StudyInstanceUID"),
        ("1.2.3,0,0", "line 2 has 3 columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_and_no_patient(file: Path, row: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        read_table(table(file, row))
    assert "SECRET" not in str(caught.value)
    assert "1.2.3" not in str(caught.value)


def test_missing_columns_of_a_table_are_named(file: Path) -> None:
    with pytest.raises(DataError, match="no column subarachnoid, subdural"):
        read_labels(table(file, header="StudyInstanceUID,any,epidural,intraparenchymal,intraventricular"))


def test_labels_without_positives() -> None:
    truth = np.zeros((3, 6), np.bool_)
    truth[1, [0, 5]] = True
    assert labels_without_positives(truth) == LABELS[1:5]
    assert labels_without_positives(truth[:0]) == LABELS
