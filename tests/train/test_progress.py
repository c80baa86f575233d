import re

import pytest

from triage.train.progress import Bar


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("slices", terminal=False) as bar:
        for done in range(1, 5):
            bar.update("reading", done, 4, "2 set aside")
        bar.say("a line that stays")
        bar.update("hashing", 0, 0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [lines[0], *lines[2:]] == ["reading", "a line that stays", "hashing"]
    assert re.fullmatch(r"reading: 4 of 4 slices, [\d,.]+ slices/s, 2 set aside, 0 s left", lines[1])


def test_in_a_terminal_there_is_a_bar_that_vanishes(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("slices", terminal=True) as bar:
        bar.update("reading", 1, 4)
        bar.update("reading", 4, 4)
        bar.say("a line that stays")
        bar.update("writing", 1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a line that stays" in err
