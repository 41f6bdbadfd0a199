"""What `mkdocs build` does beside the pages: docs/results.md becomes RESULTS.md, which lies at the top of the repository, and the
one script that the theme would fetch from elsewhere is taken from docs/assets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- RESULTS.md -->"
SHIM, OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text; links to records, which are not part of the site, become their paths."""
    if MARK not in markdown:
        return markdown
    results = (ROOT / "RESULTS.md").read_text().replace("](docs/", "](")
    return markdown.replace(MARK, re.sub(r"\[([^\]]+)\]\((records/[^)]+)\)", r"\1 (`\2`)", results.partition("\n")[2]))


def on_post_page(output: str, **_: Any) -> str:
    """The finished page; all pages lie beside one another, so the script's place is the same from each."""
    return output.replace(SHIM, OWN_SHIM)


def on_post_template(output_content: str, **_: Any) -> str:
    """Likewise pages that have no source, such as 404.html."""
    return output_content.replace(SHIM, OWN_SHIM)
