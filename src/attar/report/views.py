"""The views of an artifact side by side, for report.md."""

from __future__ import annotations

from typing import Any

from attar.report.markdown import percent, table

NAMES = {
    "model.safetensors": "attar and torch (eager)",
    "model.pt2": "torch.export",
    "model.onnx": "ONNX",
    "model.int8.onnx": "ONNX, int8",
}


def views_section(facts: dict[str, Any]) -> str:
    """Accuracy, size and time of every view, and what is wrong with any of them; empty where there are none."""
    rows = facts.get("views", [])
    if not rows:
        return ""
    heads = ["file", "runs in", "bytes", "test accuracy", "other class than eager", "golden logits off by", "one image"]
    lines = ["## Views", "", table(heads, [_cells(row) for row in rows])]
    flags = [f"- **{row['name']}**: {flag}" for row in rows for flag in row["flags"]]
    lines += ["", *(flags or ["Every view agrees with the network on the golden batch."])]
    lines += ["", "Times are medians of one image on one thread, in milliseconds, preprocessing included."]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    name = row["name"]
    if "error" in row:
        return [f"`{name}`", NAMES.get(name, ""), "-", "-", "-", "-", "-"]
    test = row.get("test", {})
    known = "accuracy" in test
    return [
        f"`{name}`",
        NAMES.get(name, ""),
        f"{row['bytes']:,}",
        percent(test.get("accuracy")),
        f"{test['differing']:,} of {test['n']:,}" if known else "-",
        f"{row['difference']:.1e}",
        f"{row['milliseconds']:.2f} ms",
    ]
