import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from train.evidence_data import evidence

from triage.records import LABELS, SUBTYPES
from triage.train.cache import Cache
from triage.train.document import Document, build_document, by_slice
from triage.train.page_parts import count, figure, interval, percent, value_text
from triage.train.pictures import picture_sheet
from triage.train.report import page, write_report

VOID = {"meta", "img", "br", "use"}


class Reader(HTMLParser):
    """Collects tags, addresses and visible text, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def report(cache: Cache, folder: Path, labels: tuple[str, ...] = LABELS, recipe: str = "triage-joint") -> Document:
    given = evidence(cache, labels, recipe)
    document = build_document(given, (40, 1))
    write_report(folder, document, picture_sheet(cache, given.scores.rows, by_slice(given), 2))
    return document


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is not strict JSON")


@pytest.mark.parametrize(
    ("labels", "recipe"), [(LABELS, "triage-joint"), (LABELS[:1], "thesis-cnn"), (SUBTYPES, "thesis-subtype-run2")]
)
def test_the_page_stands_alone_and_shows_the_figures(
    phantom_cache: Cache, tmp_path: Path, labels: tuple[str, ...], recipe: str
) -> None:
    document = report(phantom_cache, tmp_path / "new", labels, recipe)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    text = (tmp_path / "new" / "report.json").read_text()
    assert json.loads(text, parse_constant=refuse) == document
    reader = read(tmp_path / "new" / "report.html")
    assert not reader.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in reader.addresses)
    page_text = (tmp_path / "new" / "report.html").read_text()
    assert "http" not in page_text
    assert "@import" not in page_text
    assert "url(http" not in page_text
    words = "\n".join(reader.words)
    for unit in ("by_slice", "by_study"):
        for label in labels:
            one = document[unit]["labels"][label]
            for value in (one["auroc"], one["average_precision"], one["brier"], one["sensitivity"]["low"]):
                assert figure(value) in words
    for part in (document["leakage"], "DEMONSTRATION", "not for diagnosis", document["data"]["cache_sha256"], recipe):
        assert part in words
    assert "batch (was" in words


def test_text_is_escaped(phantom_cache: Cache, tmp_path: Path) -> None:
    report(phantom_cache, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<7>" not in text
    assert "run &lt;7&gt; &amp; co" in text


def test_real_data_has_no_stamp_and_a_pack_no_recipe(phantom_cache: Cache) -> None:
    document = build_document(evidence(phantom_cache), (5, 1))
    document["synthetic"] = False
    document["models"] = [document["models"][0] | {"recipe": None, "epochs": []}]
    text = page(document, [])
    assert "DEMONSTRATION" not in text
    assert "<h2>Training</h2>" not in text
    assert "<h2>Right and wrong answers</h2>" not in text


def test_numbers_as_they_are_shown() -> None:
    assert (figure(None), figure(0.12345), interval((0.1, None)), interval((0.1, 0.25))) == (
        "–", "0.123", "", "0.100–0.250",
    )  # fmt: skip
    assert (percent(0.0612), percent(None), count(78116)) == ("6.1 %", "–", "78,116")
    assert value_text({"a": [1.5, True], "<b>": None}) == "a: 1.5, yes<br>&lt;b&gt;: –"
