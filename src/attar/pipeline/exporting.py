"""Views of an artifact: which are wanted, how they are made, and what is said of each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from attar import artifact
from attar.artifact import INT8, ONNX, PT2
from attar.artifact.folder import WEIGHTS
from attar.pipeline.evaluation import data_of
from attar.recipe import Export, RecipeError

Facts = dict[str, Any]
EAGER = WEIGHTS
"""The network itself, loaded by attar and run by torch: what views are held against."""
TOLERATED_LOSS = 0.002
"""Share of the test images that a view may lose against the network before that is flagged."""
TOLERATED_DIFFERING = 0.01
"""Share of the test images on which a view may say another class than the network before that is flagged."""
TOLERATED_SLOWNESS = 1.1


Wanted = Mapping[str, bool | None]
"""View by file name -> make it (True: whatever happens, None: where its libraries are installed) or not."""


def wanted_views(settings: Export) -> Wanted:
    """What a recipe's [export] table wants."""
    return {PT2: settings.pt2, ONNX: settings.onnx, INT8: settings.int8}


def check_libraries(wanted: Wanted) -> None:
    """See that views which must be made can be made here.

    Raises:
        RecipeError: naming the library that is missing and how to get it.
    """
    for name, must in wanted.items():
        if must and (missing := artifact.missing_libraries(name)):
            raise RecipeError(f"{name} is asked for and needs {', '.join(missing)}: pip install 'attar[onnx]'")


def add_views(
    folder: Path, wanted: Wanted, images: torch.Tensor, allow: Collection[str], note: Callable[[str], None]
) -> list[Facts]:
    """Add the views that are wanted and possible; each replays the golden batch and is timed.

    Args:
        folder: the artifact.
        wanted: which views.
        images: uint8 (N, C, H, W), training images that tell int8 its ranges.
        allow: builders that the artifact may call, as for `attar.load`.
        note: told a line for each view.

    Returns:
        For the network and every view: `name`, and either `bytes`, `difference`, `agreement`, `agrees` and
        `milliseconds` (median for one image on one thread), or `error`.
    """
    makers: dict[str, Callable[[], artifact.View]] = {
        PT2: lambda: artifact.export_pt2(folder, allow=allow),
        ONNX: lambda: artifact.export_onnx(folder, allow=allow),
        INT8: lambda: artifact.quantise_int8(folder, images),
    }
    found: list[Facts] = []
    for name, make in makers.items():
        must = wanted.get(name, False)
        if must is False:
            continue
        if must is None and (missing := artifact.missing_libraries(name)):
            note(f"{name} is left out: {', '.join(missing)} not installed (pip install 'attar[onnx]')")
        elif must is None and name == INT8 and ONNX not in artifact.view_names(folder):
            note(f"{name} is left out: it is made from {ONNX}")
        else:
            found.append(_add(folder, name, make, note))
    return [_network(folder, allow), *found] if found else []


def export_views(
    path: str | Path,
    onnx: bool,
    pt2: bool,
    int8: bool,
    data: str | None = None,
    folder: str | Path | None = None,
    int8_images: int = 512,
    allow: Collection[str] = (),
    note: Callable[[str], None] = print,
) -> list[Facts]:
    """Add the views that are asked for to a saved artifact; int8 brings `model.onnx`, which it is made from, along.

    Args:
        path: the artifact.
        data, folder: whose training images tell int8 its ranges; by default the data that the artifact was made for.
        int8_images: how many of them.
        allow, note: as for `add_views`, whose result is returned.

    Raises:
        ArtifactError: the folder is no artifact, or may not be loaded.
        DataError, ValueError: the data cannot be had, or is of another shape.
        RecipeError: a library is missing.
    """
    artifact.load(path, allow=allow)  # refuse a strange folder before anything is made of it
    there = artifact.view_names(path)
    wanted = {PT2: pt2, ONNX: onnx or (int8 and ONNX not in there), INT8: int8}
    check_libraries(wanted)
    images = artifact.golden_images(path)
    if int8:
        images = data_of(path, data, folder, lambda text, done: note(text)).images
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        images = images[order[:int8_images]]  # folders lie in the order of their classes
    return add_views(Path(path), wanted, images, allow, note)


def _add(folder: Path, name: str, make: Callable[[], artifact.View], note: Callable[[str], None]) -> Facts:
    """Make one view; a failure is a fact like any other, since the network itself is saved."""
    try:
        view = make()
        seconds = artifact.seconds_per_batch(artifact.open_view(folder, name, threads=1), _one(folder))
    except artifact.ArtifactError as error:
        note(f"{name} FAILED: {error}")
        return {"name": name, "error": str(error)}
    note(f"{name}: {view}{'' if view.agrees else ': DISAGREES with the network'}")
    return {
        "name": name,
        "bytes": view.bytes,
        "difference": view.difference,
        "agreement": view.agreement,
        "agrees": view.agrees,
        "milliseconds": 1e3 * seconds,
    }


def _network(folder: Path, allow: Collection[str]) -> Facts:
    """The row of the network itself."""
    model = artifact.load(folder, allow=allow)
    seconds = artifact.seconds_per_batch(artifact.runner_of(model), _one(folder))
    size = (folder / EAGER).stat().st_size
    return {"name": EAGER, "bytes": size, "difference": 0.0, "agreement": 1.0, "agrees": True,
            "milliseconds": 1e3 * seconds}  # fmt: skip


def _one(folder: Path) -> torch.Tensor:
    return artifact.golden_images(folder)[:1]


def views_on_test(
    folder: Path, views: list[Facts], student: artifact.Evaluation, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Facts]:
    """Every view's hits on the test images, and the images on which it says something else than the network."""
    found: dict[str, Facts] = {}
    for row in views:
        name = row["name"]
        if "error" in row:
            continue
        try:
            done = student if name == EAGER else artifact.evaluate(artifact.open_view(folder, name), images, labels)
        except artifact.ArtifactError as error:
            found[name] = {"error": str(error)}
            continue
        differing = int((done.predictions != student.predictions).sum())
        found[name] = {"hits": done.correct, "n": done.images, "accuracy": done.accuracy, "differing": differing}
    return found


def judged(views: list[Facts], tested: dict[str, Facts]) -> list[Facts]:
    """What was found of every view, with what is wrong with it in words under `flags`."""
    rows = [{**row, **({"test": tested[row["name"]]} if row["name"] in tested else {})} for row in views]
    by_name = {row["name"]: row for row in rows if "error" not in row}
    replaced = {ONNX: EAGER, PT2: EAGER, INT8: ONNX}
    return [
        {**row, "flags": _flags(row, by_name[EAGER], by_name.get(replaced.get(row["name"], EAGER)))} for row in rows
    ]


def faults(row: Facts) -> list[str]:
    """Why a view is not the network in another file, in words; nothing where it is."""
    if "error" in row:
        return [f"failed: {row['error']}"]
    found = []
    if not row["agrees"]:
        found.append(
            f"disagrees on the golden batch: logits off by {row['difference']:.1%}, {row['agreement']:.1%} same class"
        )
    if "error" in row.get("test", {}):
        found.append(f"failed on the test images: {row['test']['error']}")
    return found


def _flags(row: Facts, network: Facts, replaced: Facts | None) -> list[str]:
    """What is wrong with a view, held against the network and, for its pace, against the file that it replaces."""
    flags = faults(row)
    if "error" in row:
        return flags
    if replaced and (pace := row["milliseconds"] / replaced["milliseconds"]) > TOLERATED_SLOWNESS:
        flags.append(f"slower than {replaced['name']}: {pace:.1f} times its milliseconds")
    if (int8 := row.get("int8")) and int8["fine_tuned"] is not None:
        told = {"network": "the network", "post_training": "after training", "fine_tuned": "fine-tuned for int8"}
        accuracies = ", ".join(f"{int8[key]:.2%} {words}" for key, words in told.items())
        why = "" if int8["agrees"] else ", which strays from the golden batch"
        flags.append(f"held-out accuracy {accuracies}{why}; what ships is that {told[int8['shipped']]}")
    test = row.get("test", {})
    if "error" in test:
        return flags
    if test and test["differing"] > TOLERATED_DIFFERING * test["n"]:
        flags.append(f"disagrees with the network on {test['differing']:,} of {test['n']:,} test images")
    if test and (lost := network["test"]["accuracy"] - test["accuracy"]) > TOLERATED_LOSS:
        flags.append(f"loses {100 * lost:.2f} points on the test images")
    return flags
