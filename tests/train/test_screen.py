"""What the commands print, from real records."""

from pathlib import Path

import torch
from train.small import small

from triage.records import LABELS
from triage.train.cache import Cache
from triage.train.evaluate import Request, evaluate
from triage.train.loop import FitOptions, fit
from triage.train.screen import number, summary

torch.set_num_threads(1)


def test_a_report_is_summed_up_by_slice_and_by_study(phantom_cache: Cache, tmp_path: Path) -> None:
    fit(small("demo", epochs="1", draws="16"), phantom_cache, tmp_path / "run", FitOptions())
    document = evaluate(Request(runs=(tmp_path / "run",), a_kind=0, repetitions=10)).document
    first, *lines = summary(document)
    assert first.startswith("split patient: no shared patient or study")
    assert [line.split(":")[0] for line in lines] == [f"by {unit} {k}" for unit in ("slice", "study") for k in LABELS]
    any_bleed = document["by_study"]["labels"]["any"]
    assert f"AUROC {number(any_bleed['auroc'])}, " in lines[6]
    assert f"({any_bleed['positives']} of {any_bleed['n']} positive)" in lines[6]
