"""Data sets of Hugging Face's library `datasets`: by name, or from a folder or file on disk.

Only the files' bytes are asked of the library; they are decoded as those of a folder are.
"""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from attar.data.cache import tell
from attar.data.decoded import Pictures, decoded
from attar.data.images import DataError, ImageData, Progress
from attar.data.pictures import Source

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "val", "dev")
IMAGE_NAMES = ("image", "img", "pixels")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_FORMATS = {".parquet": "parquet", ".arrow": "arrow"}


def load_huggingface(
    name: str, folder: Path | None = None, progress: Progress | None = None, size: int | None = None
) -> ImageData:
    """The images of a data set that `datasets` knows, decoded once into attar's cache (see `decoded`).

    name: a folder of `save_to_disk`, of parquet files or of pictures, a .parquet or .arrow file, both relative to
        `folder` if they lie there; else a name on the hub, `NAME` or `NAME:CONFIGURATION`.

    The training part is `train`, the test part `test` or else `validation` (whichever has labels first); without one a
    fixed fifth of each class. Class names come with the labels' type; labels in words are sorted. Raises DataError.
    """
    try:
        import datasets
    except (ImportError, RuntimeError) as error:
        raise DataError(f"data sets of Hugging Face need its library: pip install 'attar[hf]' ({error})") from error
    title = f"hf:{name}"
    try:
        found = _opened(datasets, name, folder)
    except Exception as error:  # its readers, its network and its servers raise nearly anything
        raise DataError(
            f"{title} cannot be opened: {type(error).__name__}: {error!s:.300}; without a network, name the folder that "
            "`save_to_disk` wrote"
        ) from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    train = next((each for each in TRAIN_NAMES if each in splits), next(iter(splits)) if len(splits) == 1 else None)
    if train is None:
        raise DataError(f"{title} has the parts {', '.join(splits)}; needed is one called {TRAIN_NAMES[0]}")
    image = _column(title, splits[train], datasets.Image, IMAGE_NAMES, "images")
    label = _column(title, splits[train], datasets.ClassLabel, LABEL_NAMES, "labels")
    if not isinstance(splits[train].features[label], datasets.ClassLabel | datasets.Value):
        raise DataError(
            f"{title}: {label} holds several labels for an image, or none that is one; this is not supported"
        )
    test = next((each for each in TEST_NAMES if each in splits and _labelled(splits[each], label)), None)
    for aside in splits.keys() - {train, test}:
        tell(progress, f"{title}: its part {aside} is left aside")
    parts = [
        splits[each].select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        for each in (train, test)
        if each is not None
    ]
    class_names, labels = _labels(title, parts, label)
    names = [f"{['train', 'test'][number]}[{row}]" for number, part in enumerate(parts) for row in range(len(part))]
    pictures = Pictures(
        title=title,
        names=names,
        labels=labels,
        test=[False] * len(parts[0]) + [True] * (len(names) - len(parts[0])),
        class_names=class_names,
        open_some=lambda indices: _pictures(parts, image, indices),
    )
    key = hashlib.sha256(" ".join(["3", image, label, str(size), *(part._fingerprint for part in parts)]).encode())
    return decoded(pictures, "hf", Path(name).stem, key.hexdigest()[:16], size, progress)


def _opened(datasets: ModuleType, name: str, folder: Path | None) -> Any:
    """A data set or a dictionary of its parts."""
    place = (folder or Path()) / Path(name).expanduser()
    if place.suffix in _FORMATS and place.is_file():
        return datasets.load_dataset(_FORMATS[place.suffix], data_files=str(place))
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        return datasets.load_from_disk(str(place))
    if place.is_dir():
        return datasets.load_dataset(str(place))
    if place.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(f"there is no {place}")
    path, _, configuration = name.partition(":")
    return datasets.load_dataset(path, configuration or None)


def _column(title: str, part: Any, kind: type, names: Sequence[str], what: str) -> str:
    """The column of this kind; of several the one with the usual name; without any, the one with the usual name."""
    fitting = [name for name, feature in part.features.items() if isinstance(feature, kind)]
    usual = [name for name in names if name in (fitting or part.features)]
    if len(fitting) == 1:
        return fitting[0]
    if usual and (fitting or kind.__name__ == "ClassLabel"):
        return usual[0]
    raise DataError(
        f"{title} has the columns {', '.join(f'{name} ({type(f).__name__})' for name, f in part.features.items())}; "
        f"no telling which holds the {what}: rename it to {names[0]!r}"
    )


def _labelled(part: Any, label: str) -> bool:
    """Whether a part has labels; test parts of competitions have -1 in their place."""
    if label not in part.features:
        return False
    values = part.data.column(label).unique().to_pylist()
    return None not in values and -1 not in values


def _labels(title: str, parts: list[Any], label: str) -> tuple[list[str], list[int]]:
    """Class names, and the class number of every row, the parts one after another; a part may number classes its own way."""
    names = getattr(parts[0].features[label], "names", None)
    values: list[Any] = []
    for part in parts:
        own = getattr(part.features[label], "names", None)
        values += part[label] if own == names else [own[value] if own else value for value in part[label]]
    if any(value is None for value in values):
        raise DataError(f"{title}: {sum(value is None for value in values)} rows have no {label}")
    if names:
        numbers = {name: number for number, name in enumerate(names)}
        if unseen := sorted({value for value in values if isinstance(value, str)} - set(names)):
            raise DataError(
                f"{title}: the training part has no classes {', '.join(unseen[:10])}, which the test part has"
            )
        return [str(name) for name in names], [numbers[value] if isinstance(value, str) else value for value in values]
    known = sorted(set(parts[0][label]))
    if unseen := sorted(set(values) - set(known)):
        raise DataError(f"{title}: no training row has the labels {', '.join(map(str, unseen[:10]))} of the test part")
    if isinstance(known[0], bool | float) or len(known) > len(parts[0]) // 2 > 1:
        raise DataError(
            f"{title}: {label} holds {len(known)} different {type(known[0]).__name__}, which are no classes"
        )
    number = {value: index for index, value in enumerate(known)}
    return [str(value) for value in known], [number[value] for value in values]


def _pictures(parts: list[Any], image: str, indices: Sequence[int]) -> list[Source]:
    """The picture files of these rows, the rows of all parts counted through."""
    first = len(parts[0])
    found: list[Source] = []
    for part, rows in (
        (parts[0], [index for index in indices if index < first]),
        (parts[-1], [index - first for index in indices if index >= first]),
    ):
        for row in part[rows][image] if rows else []:
            content = (row or {}).get("bytes")
            path = (row or {}).get("path")
            found.append(Path(path) if content is None and path else BytesIO(content or b""))
    return found
