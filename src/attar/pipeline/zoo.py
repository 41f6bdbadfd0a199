"""The zoo: artifacts of recorded runs, each with a card to read and a pointer to its record.

zoo/README.md                 the table
zoo/NAME/README.md            the model card, generated
zoo/NAME/entry.json           where it comes from: the record, and the SHA-256 of the weights
zoo/NAME/artifact/            the artifact, without what its record holds
records/RECIPE/SEED/          the record, beside the zoo
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar import artifact
from attar.artifact.folder import ARCHITECTURE, GOLDEN, WEIGHTS
from attar.artifact.manifest import PART, read_file, read_manifest, replace_folder, write_files
from attar.data import load_data
from attar.files import write_whole
from attar.pipeline.evaluation import check_harmless
from attar.pipeline.folder import RunError, read_json
from attar.report import wilson_interval
from attar.report.card import model_card, zoo_table
from attar.report.markdown import commits

SHIPPED = (WEIGHTS, ARCHITECTURE, GOLDEN, artifact.ONNX, artifact.INT8)
"""Files of an artifact that the zoo keeps, where there are any; the report's facts are in the record."""
LARGEST_FILE = 16 << 20


@dataclass(frozen=True)
class Entry:
    """One artifact of a zoo."""

    name: str
    folder: Path
    description: artifact.Description
    sha256: str
    """Of the weights."""
    bytes: int
    """Of the weights' file."""
    place: Path
    """Of its record."""
    record: dict[str, Any]
    predictions: dict[str, list[int]]
    """Of every test image: `labels`, `student`, and perhaps others."""

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    def facts(self) -> dict[str, Any]:
        """What tables and cards tell; accuracy is counted anew from the single predictions."""
        pairs = zip(self.predictions["labels"], self.predictions["student"], strict=True)
        right = [label == said for label, said in pairs]
        hits, n = sum(right), len(right)
        return {
            "name": self.name,
            "budget": self.description.budget,
            "counts": self.description.counts,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "test": {"hits": hits, "n": n, "accuracy": hits / n, "interval": wilson_interval(hits, n)},
        }


def find_zoo(given: str | Path | None = None) -> Path:
    """The zoo's folder: the one given, else `zoo` in the checkout that attar was imported from, else `zoo` here.

    Raises:
        RunError: there is none; says where it was looked for.
    """
    if given is not None:
        places = [Path(given)]
    else:
        checkout = Path(__file__).resolve().parents[3]  # src/attar/pipeline
        places = [checkout / "zoo"] if (checkout / "pyproject.toml").is_file() else []
        places.append(Path("zoo"))
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(map(str, places))
    raise RunError(
        f"there is no zoo at {looked}: it is a folder of attar's repository, not of the installed package; "
        "name one with --zoo FOLDER"
    )


def entries(zoo: Path) -> list[Entry]:
    """All artifacts of a zoo, by name."""
    return [read_entry(zoo, file.parent.name) for file in sorted(zoo.glob("*/entry.json"))]


def read_entry(zoo: Path, name: str) -> Entry:
    """One artifact and its record.

    Raises:
        RunError: there is no such one (with the names that there are), or its record is missing.
        ArtifactError: it was changed.
    """
    folder = zoo / name
    if not (folder / "entry.json").is_file():
        known = ", ".join(file.parent.name for file in sorted(zoo.glob("*/entry.json"))) or "nothing yet"
        raise RunError(f"{zoo} has no {name!r}; it has {known}")
    pointer = read_json(folder / "entry.json")
    place = Path(os.path.normpath(zoo / pointer["record"]))
    record, predictions = read_record(place)
    files = read_manifest(folder / "artifact")
    if files[WEIGHTS].sha256 != pointer["sha256"]:
        raise artifact.ArtifactError(f"{folder}: the weights are not those that were recorded")
    description = artifact.describe(folder / "artifact")
    return Entry(name, folder, description, files[WEIGHTS].sha256, files[WEIGHTS].bytes, place, record, predictions)


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """A record's facts and predictions; raises RunError where there is none."""
    try:
        return read_json(path / "record.json"), read_json(path / "predictions.json")
    except OSError as error:
        raise RunError(f"there is no record at {path} ({error.strerror}); records lie beside the zoo") from None


def get(zoo: Path, name: str, target: Path) -> Path:
    """Copy an artifact, checked before and after, into a folder that is not there yet; returns it.

    Raises:
        RunError: there is no such artifact, or the folder exists.
        ArtifactError: the artifact, or what was written, is not what was recorded.
    """
    entry = read_entry(zoo, name)
    if target.exists():
        raise RunError(f"{target} exists; name another folder, or move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_artifact(entry.artifact, target)
    return target


def evaluate(
    zoo: Path,
    name: str,
    folder: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    data: str | None = None,
) -> artifact.Agreement:
    """Run an artifact on the test images again and hold every single answer against its record.

    Args:
        zoo: the folder.
        name: of the artifact.
        folder: where the data's files are, as `data.folder` in a recipe.
        note: told about downloads.
        data: the data set; needed where the record names a function or a set of Hugging Face's, which take the user's word.

    Raises:
        RunError: there is no such artifact or record, or the data are not those of the record.
        ArtifactError: it cannot be opened.
        DataError: the data cannot be had.
        ValueError: the data have to be named.
    """
    entry = read_entry(zoo, name)
    wanted = entry.record["recipe"]["data"]
    if data is None:
        check_harmless(entry.artifact, wanted["source"])
    images = load_data(data or wanted["source"], folder, lambda text, done: note(text), wanted.get("size"))
    if images.fingerprint != entry.record["data"]["fingerprint"]:
        raise RunError(
            f"these data are not those of the record: fingerprint {images.fingerprint[:16]}, recorded "
            f"{entry.record['data']['fingerprint'][:16]}"
        )
    recorded = torch.tensor(entry.predictions["student"])
    return artifact.agreement(artifact.load(entry.artifact), images.test_images, images.test_labels, recorded)


def add(source: Path, name: str, zoo: Path, records: Path) -> Path:
    """Put the artifact of a finished and recorded run into the zoo; the same again changes nothing.

    Args:
        source: the run's folder, or its artifact.
        name: under which it shall stand.
        zoo: the folder; made if it is not there.
        records: where records are kept; must lie where the zoo can point to it.

    Returns:
        The entry's folder.

    Raises:
        RunError: the run has not finished, has no record here, was made with edited or unknown code, another run's artifact has
            the name, or a file is too large.
        ArtifactError: the artifact does not verify.
    """
    if not PART.fullmatch(name):
        raise RunError(f"{name!r} is no name for a folder: use letters, digits, . _ and -")
    folder = source / "artifact" if (source / "artifact").is_dir() else source
    if not (folder / "report.json").is_file():
        raise RunError(f"{source} is no finished run: it has no report; `attar run` with the same --out goes on")
    if not (checked := artifact.verify(folder)):
        raise artifact.ArtifactError(f"{folder} does not verify:\n{checked}")
    facts = read_json(folder / "report.json")
    record = recorded(facts, read_json(folder / "predictions.json"), records)
    check_clean(facts)
    target = zoo / name
    weights = read_manifest(folder)[WEIGHTS]
    pointer = {
        "format": 1,
        "record": Path(os.path.relpath(record, zoo)).as_posix(),
        "test_read": facts["test_read"],
        "sha256": weights.sha256,
    }
    if (target / "entry.json").is_file() and read_json(target / "entry.json") != pointer:
        raise RunError(f"{target} holds another run's artifact; choose another name, or remove it first")
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "artifact").exists():
        copy_artifact(folder, target / "artifact")
    write_whole(target / "entry.json", json.dumps(pointer, indent=1) + "\n")
    return renew(zoo, name)


def renew(zoo: Path, name: str) -> Path:
    """Write an artifact's card and the zoo's table anew, from the records; returns the entry's folder."""
    entry = read_entry(zoo, name)
    where = read_json(entry.folder / "entry.json")["record"]
    card = model_card(entry.facts(), entry.record, f"../{where}")
    write_whole(entry.folder / "README.md", card)
    write_whole(zoo / "README.md", zoo_table([one.facts() for one in entries(zoo)]))
    return entry.folder


def recorded(facts: dict[str, Any], predictions: dict[str, list[int]], records: Path) -> Path:
    """The folder of a run's record, if it is this very run's; raises RunError."""
    path = records / facts["name"] / str(facts["recipe"]["seed"])
    how = "write it with `attar record RUN` first"
    if not (path / "record.json").is_file():
        raise RunError(f"this run is not recorded: there is no {path}; {how}")
    record, kept = read_record(path)
    if record["test_read"] != facts["test_read"] or kept["student"] != predictions["student"]:
        raise RunError(f"{path} is the record of another run of this recipe and seed; {how}, elsewhere")
    return path


def check_clean(facts: dict[str, Any]) -> None:
    """Raise RunError unless every start of the run says which commit it was made with, and that nothing was edited."""
    for commit in commits(facts):
        if commit == "unknown":
            raise RunError(
                "this run does not know the commit of attar that made it, so it cannot be made again; not added"
            )
        if "+" in commit:
            raise RunError(
                f"this run was made with edited code ({commit[:12]} and changes), so it cannot be made again; not added"
            )


def copy_artifact(folder: Path, target: Path) -> None:
    """The files that the zoo keeps, whole or not at all, and verified.

    Raises:
        ArtifactError: what is there, or what was written, does not verify.
        RunError: a file is too large.
    """
    files = read_manifest(folder)
    kept = {file: read_file(folder, files, file) for file in SHIPPED if file in files}
    if large := [file for file, content in kept.items() if len(content) > LARGEST_FILE]:
        raise RunError(f"{', '.join(large)}: files of the zoo have at most {LARGEST_FILE:,} bytes")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_files(partial, kept)
        if not (checked := artifact.verify(partial)):
            raise artifact.ArtifactError(f"{folder} does not verify:\n{checked}")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
