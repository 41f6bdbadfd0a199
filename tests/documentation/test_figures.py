"""Accuracies in prose are those of committed records: RESULTS.md, which is made from them, or a file that is named here."""

import json
import re
from pathlib import Path

import pytest

from attar.report import wilson_interval

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/experiments.md",
    "docs/faq.md",
    "docs/index.md",
    "docs/tutorial.md",
    "zoo/teachers/README.md",
]
ACCURACY = re.compile(r"(?<![\d.,+-])(\d\d\.\d\d)(?= ?%|, \d\d\.\d\d|\]| and \d\d\.\d\d)")
NO_RECORD_OF_OURS = {"94.75"}
"""The reference's, which is what there is to beat."""
SUPERSEDED = {"92.36", "93.24", "92.80", "93.83", "94.30", "94.12", "92.00", "95.30", "94.92"} | {"93.06", "93.02"}
"""Of records and teachers that others have replaced: in the history of the records at commits 6dcc8ac6244b and 66405890fd71."""


def recorded() -> set[str]:
    pages = (ROOT / "RESULTS.md").read_text() + (ROOT / "zoo" / "README.md").read_text()
    teacher = json.loads((ROOT / "records/teachers/fashion-mnist/run.json").read_text())
    return set(re.findall(r"\d\d\.\d\d", pages)) | set(re.findall(r"\d\d\.\d\d", percentages(teacher)))


def percentages(facts: object) -> str:
    """Every share in nested facts, as a percentage."""
    if isinstance(facts, dict):
        return " ".join(map(percentages, facts.values()))
    if isinstance(facts, list):
        return " ".join(map(percentages, facts))
    return f"{100 * facts:.2f}" if isinstance(facts, float) and 0 < facts <= 1 else ""


@pytest.mark.parametrize("page", PAGES)
def test_accuracies_are_recorded(page: str) -> None:
    found = set(ACCURACY.findall((ROOT / page).read_text()))
    assert not found - recorded() - NO_RECORD_OF_OURS - SUPERSEDED


def test_they_would_be_found() -> None:
    said = "gets **94.63 %** [94.17, 95.05], seeds 94.16, 94.03, 93.98 %; +0.57 points, 2.13 h, 12.34 s, -0.02 %"
    assert ACCURACY.findall(said) == ["94.63", "94.17", "95.05", "94.16", "94.03", "93.98"]
    low, high = wilson_interval(9463, 10000)
    assert (f"{100 * low:.2f}", f"{100 * high:.2f}") == ("94.17", "95.05")
