"""What a network gets wrong, as plain data: which class is taken for which, and single images of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
LARGEST_MATRIX = 25
"""Classes beyond which a confusion matrix tells nothing at a glance."""
COMMONEST, SHOWN = 12, 60

Predictions = Mapping[str, Sequence[int]]
"""For each test image its class: `labels`, `student` and perhaps `teacher`."""


def confusion_facts(predictions: Predictions, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """Which class is taken for which.

    Args:
        predictions: of the test images.
        class_names: in the order of the classes; numbers where they are missing.

    Returns:
        `classes`: names; `matrix`: rows are what images are, columns what they are taken for, None for many classes;
        `commonest`: the most frequent mistakes as `is`, `taken_for` (class numbers), `images` and their share `of_class`.
    """
    counts, of_class = Counter(zip(predictions["labels"], predictions["student"])), Counter(predictions["labels"])
    names = [str(name) for name in class_names] or class_numbers(predictions)
    wrong = [(pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]]
    every = range(len(names))
    return {
        "classes": names,
        "matrix": [[counts[a, b] for b in every] for a in every] if len(names) <= LARGEST_MATRIX else None,
        "commonest": [
            {"is": a, "taken_for": b, "images": n, "of_class": n / of_class[a]} for (a, b), n in wrong[:COMMONEST]
        ],
    }


def mistake_facts(predictions: Predictions, confidence: Mapping[str, Sequence[float]] | None = None) -> dict[str, Any]:
    """Test images that the network gets wrong, and what its teacher says of them.

    Args:
        predictions: of the test images.
        confidence: by the same names, the probability that each network gives the class that it predicts.

    Returns:
        `total`, and `shown`: at most `SHOWN` of them, evenly spread, each with `index`, `label`, `student`, `teacher` where
        there is one, and `student_confidence`, `teacher_confidence` where they are known.
    """
    wrong = [i for i, (a, b) in enumerate(zip(predictions["labels"], predictions["student"])) if a != b]
    shown = []
    for i in spread(wrong, SHOWN):
        row: dict[str, Any] = {"index": i, "label": predictions["labels"][i]}
        for who in ("student", "teacher"):
            if who in predictions:
                row[who] = predictions[who][i]
            if who in (confidence or {}):
                row[f"{who}_confidence"] = (confidence or {})[who][i]
        shown.append(row)
    return {"total": len(wrong), "shown": shown}


def class_numbers(predictions: Predictions) -> list[str]:
    """Names for classes that have none."""
    largest = max((max(values, default=0) for values in predictions.values()), default=-1)
    return [str(number) for number in range(largest + 1)]


def spread(candidates: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the candidates, evenly spaced: the same ones each time, and no preference among them."""
    if len(candidates) <= count:
        return list(candidates)
    return [candidates[i * len(candidates) // count] for i in range(count)]
