"""Run folders as an interrupted session leaves them."""

import json
from pathlib import Path

from triage.train.journal import Journal
from triage.train.recipes import recipe_named
from triage.train.runs import METRICS, Run, epochs_of


def test_a_line_of_metrics_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write({"event": "epoch", "step": 4, "epoch": 1, "train_loss": 0.5})
    with (tmp_path / METRICS).open("a", encoding="utf-8") as file:
        file.write('{"at": 1.0, "event": "epoch", "ep')
    run = Run(tmp_path, recipe_named("demo"), tmp_path, "", {})
    assert [line["epoch"] for line in epochs_of(run)] == [1]
    with Journal(tmp_path) as journal:
        journal.write({"event": "epoch", "step": 8, "epoch": 2, "train_loss": 0.25})
    assert [(line["epoch"], line["train_loss"]) for line in epochs_of(run)] == [(1, 0.5), (2, 0.25)]
    last = (tmp_path / METRICS).read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["step"] == 8
