"""HTML from Python: every text is escaped unless it was made here, so that no data can become markup."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
    """HTML that was put together by `element`; anything else is text."""


Child = str | int | float | None | Iterable["Child"]


def element(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An element. Attributes: `class_` is class, `_` stands for `-`; True has no value, None and False are left out."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    opened = f"<{tag}{written}>"
    if tag in ("img", "input", "br", "meta"):
        return Markup(opened)
    return Markup(f"{opened}{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other; texts escaped, None left out, lists flattened."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(html.escape(str(child)))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def table(heads: Sequence[Child], rows: Sequence[Sequence[Child]], numbers: bool = True) -> Markup:
    """A table that scrolls by itself where the page is narrow; all columns but the first to the right, if numbers."""
    cells = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    head = element("thead", element("tr", *(element("th", cell) for cell in heads))) if heads else None
    kind = "numbers" if numbers else None
    return element("div", element("table", head, element("tbody", *cells), class_=kind), class_="wide")


def section(name: str, title: str, *children: Child) -> Markup:
    """A part of the page with a heading."""
    return element("section", element("h2", title), *children, id=name)


def data(name: str, content: Any) -> Markup:
    """Plain data for the page's script, as JSON that cannot end its own element."""
    text = json.dumps(finite(content), separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def finite(content: Any) -> Any:
    """The same data with None for what JSON cannot say: NaN and infinities."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
