"""The small parts of an HTML page: escaped text, numbers as they are shown, tables; knows no report."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DASH = "–"
"""Shown where a figure cannot be had."""


def text(value: object) -> str:
    """Anything as escaped text."""
    return html.escape(str(value))


def value_text(value: Any) -> str:
    """A value of JSON types as escaped text; entries of a table each on a line."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "<br>".join(f"{text(key)}: {value_text(one)}" for key, one in value.items()) or DASH
    if isinstance(value, list):
        between = "; " if any(isinstance(one, Mapping | list) for one in value) else ", "
        return between.join(_inline(one) for one in value) or DASH
    return text(f"{value:.4g}" if isinstance(value, float) else value)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(value_text(one) for one in value.values())
    return value_text(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table; heads are escaped here, cells are HTML already."""
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(value: float | None) -> str:
    """Three decimals, or a dash."""
    return DASH if value is None else f"{value:.3f}"


def interval(between: Sequence[float | None]) -> str:
    """Low to high, or nothing where there is none."""
    low, high = between
    return "" if low is None or high is None else f"{low:.3f}{DASH}{high:.3f}"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share in per cent, or a dash."""
    return DASH if share is None else f"{100 * share:.{decimals}f} %"


def count(n: int) -> str:
    """A whole number with thousands apart."""
    return f"{n:,}"
