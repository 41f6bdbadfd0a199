"""A folder of pictures, a sub-folder for each class."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.data.cache import tell
from attar.data.decoded import Pictures, decoded
from attar.data.images import DataError, ImageData, Progress
from attar.data.pictures import SUFFIXES

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_OF_SYSTEMS = ("Thumbs.db", "desktop.ini")
"""What Windows leaves behind in folders."""
_LIKE_A_PART = re.compile(r"(train|test|val|dev)(ing|id|idation)?(set|data|images)?([\W_\d].*)?")
"""Names of folders that are no classes: train_set, test-images, val2017."""


@dataclass(frozen=True)
class _Picture:
    path: str
    """Relative to the folder, with slashes."""
    label: int
    test: bool


def load_folder(folder: Path, progress: Progress | None = None, size: int | None = None) -> ImageData:
    """The pictures of `folder/train/CLASS/` and `folder/test/CLASS/`, or of `folder/CLASS/`.

    Without a test folder (a validation folder will do) a fixed fifth of each class is the test part.
    They are decoded into attar's cache once, to `size` x `size` or what suits them: see `decoded`.
    Raises DataError if there is no such layout, no good picture for a class, or no room.
    """
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist or is not a folder")
    listed, class_names = _listing(folder, progress)
    pictures = Pictures(
        title=f"folder {folder}",
        names=[picture.path for picture in listed],
        labels=[picture.label for picture in listed],
        test=[picture.test for picture in listed],
        class_names=class_names,
        open_some=lambda indices: [folder / listed[index].path for index in indices],
    )
    name = folder.resolve().name
    return decoded(pictures, "folders", name, _key(folder, listed, size), size, progress)


def _listing(folder: Path, progress: Progress | None) -> tuple[list[_Picture], list[str]]:
    """The pictures in a fixed order, and the class names."""
    parts = _parts(folder, progress)
    whole = [(path, list(_files_in(path)), test) for place, test in parts for path in _sub_folders(place)]
    _tell_of_other_files(folder, [file for _, files, _ in whole for file in files], progress)
    inside = [(path, sorted(filter(_is_picture, files)), test) for path, files, test in whole]
    for path, files, _ in inside:
        if not files:
            tell(
                progress, f"{folder.name}: {path.relative_to(folder)}/ has no pictures and is left out; it is no class"
            )
    found = [(path, files, test) for path, files, test in inside if files]
    if parts == [(folder, False)]:
        _tell_of_inner_classes(folder, {path: files for path, files, _ in found}, progress)
    class_names = [path.name for path, _, test in found if not test]
    if len(class_names) < 2:
        raise DataError(
            f"{parts[0][0]} has pictures of {len(class_names)} class{'' if len(class_names) == 1 else 'es'}; needed are two at"
            f" least, each a sub-folder with pictures ({' '.join(sorted(SUFFIXES))})"
        )
    for path, _, _ in found:
        if path.name not in class_names:
            raise DataError(f"{path} has no counterpart among the classes of {parts[0][0]}")
    pictures = [
        _Picture(file.relative_to(folder).as_posix(), class_names.index(path.name), test)
        for path, files, test in found
        for file in files
    ]
    return pictures, class_names


def _parts(folder: Path, progress: Progress | None) -> list[tuple[Path, bool]]:
    """The places that have the class folders, and whether each is the test part."""
    inner = {path.name.lower(): path for path in _sub_folders(folder)}
    train = next((inner[name] for name in TRAIN_NAMES if name in inner and _sub_folders(inner[name])), None)
    tests = [inner[name] for name in TEST_NAMES if name in inner]
    if train is None:
        if tests and not set(inner) - set(TEST_NAMES):
            raise DataError(f"{folder} has {tests[0].name}/ but no train/")
        if any(name.startswith("train") for name in inner) and all(_LIKE_A_PART.fullmatch(name) for name in inner):
            raise DataError(
                f"{folder} has {', '.join(f'{path.name}/' for path in inner.values())}, which look like parts and not like"
                " classes; name them train/ and test/ (or val/)"
            )
        return [(folder, False)]
    labelled = [
        test for test in tests if any(_is_picture(file) for path in _sub_folders(test) for file in _files_in(path))
    ]
    parts = [(train, False)] + [(test, True) for test in labelled[:1]]
    used = [place for place, _ in parts]
    for aside in inner.values():
        if aside not in used:
            if aside in tests and aside not in labelled:
                what = "it has no class folders with pictures"
            else:
                what = f"{labelled[0].name}/ is the test part" if labelled else "a test part is called test/ or val/"
            tell(progress, f"{folder.name}: {aside.name}/ is left aside; {what}")
    return parts


def _tell_of_inner_classes(folder: Path, found: dict[Path, list[Path]], progress: Progress | None) -> None:
    """Says so where all class folders have the same sub-folders and nothing else: they may be parts of the data."""
    steps = [{(*file.relative_to(path).parts[:-1], "")[0] for file in files} for path, files in found.items()]
    same = sorted(set.intersection(*steps)) if steps else []
    if len(same) > 1 and "" not in same:
        tell(
            progress,
            f"{folder.name}: each class, {', '.join(path.name for path in list(found)[:10])}, has the folders"
            f" {', '.join(same[:10])}; if these are the classes, name the outer ones train/ and test/",
            logging.WARNING,
        )


def _tell_of_other_files(folder: Path, files: Sequence[Path], progress: Progress | None) -> None:
    """Says which files of the class folders are left out, by what their names end with."""
    others = Counter(
        file.suffix.lower() or file.name
        for file in files
        if file.suffix.lower() not in SUFFIXES and file.name not in _OF_SYSTEMS
    )
    if others:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in others.most_common(10))
        tell(progress, f"{folder.name}: files that are no pictures attar reads are left out: {kinds}", logging.WARNING)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _files_in(place: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files at any depth, through links, too, unless they lead in a circle; what is hidden, or in a hidden folder, is none."""
    here = place.resolve()
    if here in above:
        return
    for path in place.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_in(path, (*above, here))
        else:
            yield path


def _sub_folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _key(folder: Path, pictures: Sequence[_Picture], size: int | None) -> str:
    """Another store for other files, changed files, or another size."""
    content = hashlib.sha256(f"3 {folder.resolve()} {size}".encode(errors="surrogateescape"))
    for picture in pictures:
        status = (folder / picture.path).stat()
        content.update(
            f"\n{picture.path} {picture.test} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape")
        )
    return content.hexdigest()[:16]
