"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), wherever it can be had, and only the published bytes.

The checksums are of the uncompressed files of the release after 31 August 2017; Debian ships the same bytes under
another gzip header.
"""

import contextlib
import gzip
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.data.cache import cache_folder, make_folder, one_at_a_time, tell, write_whole
from attar.data.fetch import FetchError, debian_package, download
from attar.data.images import DataError, ImageData, Progress, image_data

NAME = "fashion-mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
WEB_PAGE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
PACKAGE = "dataset-fashion-mnist"


@dataclass(frozen=True)
class IdxFile:
    """One file of the release. `sha256` and `size` (bytes) are of the uncompressed content."""

    name: str
    header: int
    size: int
    sha256: str


FILES = (
    IdxFile(
        "train-images-idx3-ubyte", 16, 47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    IdxFile("train-labels-idx1-ubyte", 8, 60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    IdxFile("t10k-images-idx3-ubyte", 16, 7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    IdxFile("t10k-labels-idx1-ubyte", 8, 10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
)

_LARGEST = max(file.size for file in FILES)


def load_fashion_mnist(folder: Path | None = None, progress: Progress | None = None) -> ImageData:
    """60,000 training and 10,000 test images, (1, 28, 28), in 10 classes.

    Looked for in `folder`, attar's cache, the system folder, the official download and Debian's package, in this
    order. Raises DataError for a bad file in `folder`, and where no place has the data, with what each place lacked.
    """
    refusals: list[str] = []
    if folder is not None:
        if not os.path.isdir(folder):  # noqa: PTH112 (unlike Path, no PermissionError from a closed parent)
            raise DataError(f"the data folder {folder} does not exist or is not a folder")
        for place in (folder, folder / NAME, folder / "FashionMNIST" / "raw", folder / "raw"):
            if _present(place):
                return _load(place, f"folder {place}")
        refusals.append(f"folder {folder}: has none of {', '.join(file.name + '[.gz]' for file in FILES)}")
        tell(progress, f"Fashion-MNIST: not in {refusals[-1]}; looking further", logging.WARNING)
    for step in (_from_cache, _from_system, _from_web, _from_debian):
        try:
            return step(progress)
        except (DataError, FetchError) as error:
            refusals.append(str(error))
            bad = isinstance(error, BadFileError)
            tell(progress, f"Fashion-MNIST: {error}; looking further", logging.WARNING if bad else logging.INFO)
    raise DataError(
        "Fashion-MNIST was found nowhere:\n"
        + "\n".join(f"  - {line}" for line in refusals)
        + f"\nPut its four .gz files (from {WEB_PAGE}) into a folder and name that folder,"
        + f" or into {cache_folder() / NAME}"
    )


class BadFileError(DataError):
    """A file that is there but not the published one."""


def _from_cache(progress: Progress | None) -> ImageData:
    return _from_folder(cache_folder() / NAME, "cache")


def _from_system(progress: Progress | None) -> ImageData:
    return _from_folder(SYSTEM_FOLDER, "system folder")


def _from_folder(folder: Path, what: str) -> ImageData:
    if not _present(folder):
        raise DataError(f"{what} {folder}: has no Fashion-MNIST")
    return _load(folder, f"{what} {folder}")


def _from_web(progress: Progress | None) -> ImageData:
    def fetch(scratch: Path) -> Path:
        tell(progress, f"Fashion-MNIST: downloading from {WEB_PAGE}")
        for file in FILES:
            download(f"{WEB_PAGE}{file.name}.gz", scratch / f"{file.name}.gz", limit=file.size, progress=progress)
        return scratch

    return _into_cache(fetch, f"downloaded from {WEB_PAGE}", progress)


def _from_debian(progress: Progress | None) -> ImageData:
    def fetch(scratch: Path) -> Path:
        tell(progress, f"Fashion-MNIST: fetching Debian's package {PACKAGE}")
        return debian_package(PACKAGE, scratch, progress) / SYSTEM_FOLDER.relative_to("/")

    return _into_cache(fetch, f"Debian's package {PACKAGE}", progress)


def _into_cache(fetch: Callable[[Path], Path], what: str, progress: Progress | None) -> ImageData:
    """Fetches into a scratch folder inside the cache, checks the files, and only then moves them into place."""
    folder = cache_folder() / NAME
    make_folder(folder)
    with one_at_a_time(folder, progress) as alone:
        with contextlib.suppress(DataError):  # another process may have fetched it while this one waited
            return _load(folder, f"cache {folder}")
        for left_over in folder.glob(".fetch-*") if alone else ():  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            try:
                fetched = fetch(Path(scratch))
                data = _load(fetched, f"cache {folder}, {what}")
            except BadFileError as error:
                raise BadFileError(f"{what}: {error}") from error
            except OSError as error:
                raise DataError(f"{what}: {error}") from error
            for file in FILES:
                write_whole(folder / f"{file.name}.gz", (fetched / f"{file.name}.gz").read_bytes())
                (folder / file.name).unlink(missing_ok=True)  # an uncompressed copy that was refused
    tell(progress, f"Fashion-MNIST: kept in {folder}")
    return data


def _present(folder: Path) -> bool:
    """True if any of the files is there: then all must be, and be right."""
    return any(_path(folder, file) is not None for file in FILES)


def _path(folder: Path, file: IdxFile) -> Path | None:
    candidates = (folder / f"{file.name}.gz", folder / file.name)
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110 (as above)


def _load(folder: Path, source: str) -> ImageData:
    images, labels, test_images, test_labels = (_read(folder, file) for file in FILES)
    shape = (-1, 1, 28, 28)
    return image_data(
        NAME,
        (images.reshape(shape), labels.to(torch.int64)),
        (test_images.reshape(shape), test_labels.to(torch.int64)),
        CLASS_NAMES,
        source,
    )


def _read(folder: Path, file: IdxFile) -> torch.Tensor:
    """The payload of one idx file as flat uint8, checked against the published checksum."""
    path = _path(folder, file)
    if path is None:
        raise BadFileError(f"{folder}: {file.name}[.gz] is missing")
    buffer = bytearray()
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(path, limit=_LARGEST + 1):
            buffer += chunk
            digest.update(chunk)
    except EOFError as error:
        raise BadFileError(f"{path} is truncated: the gzip stream ends early") from error
    except (OSError, zlib.error) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from error
    if digest.hexdigest() != file.sha256:
        raise BadFileError(f"{path} {_what_is_wrong(len(buffer), digest.hexdigest(), file)}")
    return torch.frombuffer(buffer, dtype=torch.uint8, offset=file.header)


def _chunks(path: Path, limit: int) -> Iterator[bytes]:
    """The uncompressed content, at most `limit` bytes of it (a gzip bomb costs no more)."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while limit > 0 and (chunk := stream.read(min(limit, 1 << 20))):
            limit -= len(chunk)
            yield chunk


def _what_is_wrong(size: int, sha256: str, file: IdxFile) -> str:
    for other in FILES:
        if sha256 == other.sha256:
            return f"is swapped: it holds the content of {other.name}"
    if size < file.size:
        return f"is truncated or another file: {size} bytes uncompressed, {file.size} expected"
    if size > file.size:
        return f"is another file: {size} or more bytes uncompressed, {file.size} expected"
    return (
        f"is corrupt, or another data set's, or of the release before 31 August 2017: right size, but its sha256 is"
        f" {sha256}, not {file.sha256}"
    )
