"""What `mkdocs build` does beside the pages: docs/results.md becomes RESULTS.md, which lies at the top of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- RESULTS.md -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text; links to records, which are not part of the site, become their paths."""
    if MARK not in markdown:
        return markdown
    results = (ROOT / "RESULTS.md").read_text()
    return markdown.replace(MARK, re.sub(r"\[([^\]]+)\]\((records/[^)]+)\)", r"\1 (`\2`)", results.partition("\n")[2]))
