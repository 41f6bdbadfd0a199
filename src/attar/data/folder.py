"""A folder of pictures, a sub-folder for each class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.data.cache import tell
from attar.data.decoded import Pictures, decoded
from attar.data.images import DataError, ImageData, Progress
from attar.data.pictures import SUFFIXES

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")


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
    inner = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    train = next((inner[name] for name in TRAIN_NAMES if name in inner), None)
    tests = [inner[name] for name in TEST_NAMES if name in inner]
    if train is None and tests and not set(inner) - set(TEST_NAMES):
        raise DataError(f"{folder} has {tests[0].name}/ but no train/")
    parts = [(train or folder, False)] + [(test, True) for test in tests[:1] if train]
    for aside in tests[1:] if train else []:
        tell(progress, f"{folder.name}: {aside.name}/ is left aside; {tests[0].name}/ is the test part")
    inside = [(path, files, test) for place, test in parts for path, files in _class_folders(place)]
    for path, files, _ in inside:
        if not files:
            tell(
                progress, f"{folder.name}: {path.relative_to(folder)}/ has no pictures and is left out; it is no class"
            )
    found = [(path, files, test) for path, files, test in inside if files]
    class_names = [path.name for path, _, test in found if not test]
    if len(class_names) < 2:
        raise DataError(
            f"{parts[0][0]} has pictures of {len(class_names)} classes; needed are sub-folders, one for each class,"
            f" with pictures ({' '.join(sorted(SUFFIXES))})"
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


def _class_folders(place: Path) -> list[tuple[Path, list[Path]]]:
    """The sub-folders, and the pictures that each has at any depth, by name."""
    inner = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [
        (path, sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()))
        for path in inner
    ]


def _key(folder: Path, pictures: Sequence[_Picture], size: int | None) -> str:
    """Another store for other files, changed files, or another size."""
    content = hashlib.sha256(f"3 {folder.resolve()} {size}".encode())
    for picture in pictures:
        status = (folder / picture.path).stat()
        content.update(f"\n{picture.path} {picture.test} {status.st_size} {status.st_mtime_ns}".encode())
    return content.hexdigest()[:16]
