"""Published data sets: files whose content is known by checksum, wherever they can be had."""

import contextlib
import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attar.data.cache import cache_folder, make_folder, one_at_a_time, tell
from attar.data.fetch import FetchError, debian_package, download
from attar.data.images import DataError, Progress


@dataclass(frozen=True)
class PublishedFile:
    """`size` (bytes) and `sha256` are of the uncompressed content."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """A data set's files and the places that have them.

    Each file lies in a folder as `name.gz` or `name`, or all of them in the .tar.gz `archive`.
    """

    title: str
    name: str
    """Of its folder in attar's cache."""
    files: tuple[PublishedFile, ...]
    web: str
    """The address of the folder that has the files (.gz) or the archive."""
    archive: str | None = None
    inner_folders: tuple[str, ...] = ()
    """Where else inside a folder that the user gives."""
    system_folder: Path | None = None
    package: str | None = None
    """Debian's package, which installs into the system folder."""

    @property
    def downloads(self) -> tuple[str, ...]:
        """What is fetched from the web and kept in the cache."""
        return (self.archive,) if self.archive else tuple(f"{file.name}.gz" for file in self.files)


@dataclass(frozen=True)
class Found:
    """The content of each file by name, checked, and where it was."""

    content: Mapping[str, bytearray]
    source: str


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class BadFileError(DataError):
    """A file that is there but not the published one."""


def find(wanted: Published, folder: Path | None = None, progress: Progress | None = None) -> Found:
    """Looks in `folder`, attar's cache, the system folder, the official download and Debian's package, in this order.

    Raises DataError for a bad file in `folder` (elsewhere it is told and passed over), and where no place has the
    files, with what each place lacked.
    """
    refusals: list[str] = []
    if folder is not None:
        if not os.path.isdir(folder):  # noqa: PTH112 (unlike Path, no PermissionError from a closed parent)
            raise DataError(f"the data folder {folder} does not exist or is not a folder")
        for place in (folder, *(folder / inner for inner in wanted.inner_folders)):
            if _present(place, wanted):
                return _read_all(place, wanted, f"folder {place}")
        refusals.append(f"folder {folder}: has none of {_names(wanted)}")
        tell(progress, f"{wanted.title}: not in {refusals[-1]}; looking further", logging.WARNING)
    for step in (_from_cache, _from_system, _from_web, _from_debian):
        try:
            return step(wanted, progress)
        except (DataError, FetchError) as error:
            refusals.append(str(error))
            bad = isinstance(error, BadFileError)
            tell(progress, f"{wanted.title}: {error}; looking further", logging.WARNING if bad else logging.INFO)
    raise DataError(
        f"{wanted.title} was found nowhere:\n"
        + "\n".join(f"  - {line}" for line in refusals)
        + f"\nPut {' '.join(wanted.downloads)} from {wanted.web} into a folder and name that folder,"
        + f" or into {cache_folder() / wanted.name}"
    )


def _from_cache(wanted: Published, progress: Progress | None) -> Found:
    return _from_folder(cache_folder() / wanted.name, wanted, "cache")


def _from_system(wanted: Published, progress: Progress | None) -> Found:
    if wanted.system_folder is None:
        raise FetchError("system folder: none is known for it")
    return _from_folder(wanted.system_folder, wanted, "system folder")


def _from_folder(folder: Path, wanted: Published, what: str) -> Found:
    if not _present(folder, wanted):
        raise DataError(f"{what} {folder}: has no {wanted.title}")
    return _read_all(folder, wanted, f"{what} {folder}")


def _from_web(wanted: Published, progress: Progress | None) -> Found:
    limit = sum(file.size for file in wanted.files)

    def fetch(scratch: Path) -> Path:
        tell(progress, f"{wanted.title}: downloading from {wanted.web}")
        for name in wanted.downloads:
            download(wanted.web + name, scratch / name, limit, progress)
        return scratch

    return _into_cache(fetch, wanted, f"downloaded from {wanted.web}", progress)


def _from_debian(wanted: Published, progress: Progress | None) -> Found:
    package, folder = wanted.package, wanted.system_folder
    if package is None or folder is None:
        raise FetchError("Debian: has no package of it")

    def fetch(scratch: Path) -> Path:
        tell(progress, f"{wanted.title}: fetching Debian's package {package}")
        return debian_package(package, scratch, progress) / folder.relative_to("/")

    return _into_cache(fetch, wanted, f"Debian's package {package}", progress)


def _into_cache(fetch: Callable[[Path], Path], wanted: Published, what: str, progress: Progress | None) -> Found:
    """Fetches into a scratch folder inside the cache, checks the files, and only then moves them into place."""
    folder = cache_folder() / wanted.name
    make_folder(folder)
    with one_at_a_time(folder, progress) as alone:
        with contextlib.suppress(DataError):  # another process may have fetched it while this one waited
            return _read_all(folder, wanted, f"cache {folder}")
        for left_over in folder.glob(".fetch-*") if alone else ():  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            try:
                fetched = fetch(Path(scratch))
                found = _read_all(fetched, wanted, f"cache {folder}, {what}")
                for name in wanted.downloads:
                    _move(fetched / name, folder / name)
            except BadFileError as error:
                raise BadFileError(f"{what}: {error}") from error
            except OSError as error:
                raise DataError(f"{what}: {error}") from error
        for file in wanted.files:
            (folder / file.name).unlink(missing_ok=True)  # an unpacked copy that was refused
    tell(progress, f"{wanted.title}: kept in {folder}")
    return found


def _move(source: Path, target: Path) -> None:
    """Renames, once the content is safely on the disk: the target is whole or not there."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)


def _names(wanted: Published) -> str:
    packed = f"{wanted.archive}, " if wanted.archive else ""
    return packed + ", ".join(f"{file.name}[.gz]" for file in wanted.files)


def _present(folder: Path, wanted: Published) -> bool:
    """True if any of the files is there: then all must be, and be right."""
    return _archive(folder, wanted) is not None or any(_path(folder, file) is not None for file in wanted.files)


def _archive(folder: Path, wanted: Published) -> Path | None:
    path = folder / wanted.archive if wanted.archive else None
    return path if path is not None and os.path.exists(path) else None  # noqa: PTH110 (as above)


def _path(folder: Path, file: PublishedFile) -> Path | None:
    candidates = (folder / f"{file.name}.gz", folder / file.name)
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110 (as above)


def _read_all(folder: Path, wanted: Published, source: str) -> Found:
    archive = _archive(folder, wanted)
    if archive is not None:
        return Found(_read_archive(archive, wanted), source)
    content = {}
    for file in wanted.files:
        path = _path(folder, file)
        if path is None:
            raise BadFileError(f"{folder}: {file.name}[.gz] is missing")
        with _reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content[file.name] = _checked(stream, file, path, wanted)
    return Found(content, source)


def _read_archive(path: Path, wanted: Published) -> dict[str, bytearray]:
    """The files' content straight from the archive: nothing is unpacked, so no member's path matters."""
    files = {file.name: file for file in wanted.files}
    limit = 2 * sum(file.size for file in wanted.files)
    content: dict[str, bytearray] = {}
    with _reading(path), tarfile.open(path, "r|gz") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            stream = archive.extractfile(member) if name in files and member.isreg() else None
            if stream is not None and name not in content:
                content[name] = _checked(stream, files[name], Path(f"{path}:{member.name}"), wanted)
            if len(content) == len(files):
                return content
            if member.offset_data + member.size > limit:
                raise BadFileError(f"{path} is another archive: more than twice as long as expected")
    missing = [name for name in files if name not in content]
    raise BadFileError(f"{path} is another archive: {', '.join(missing)} missing")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise BadFileError(f"{path} is truncated: the gzip stream ends early") from error
    except tarfile.ReadError as error:
        raise BadFileError(f"{path} is truncated or corrupt: {error}") from error
    except (OSError, zlib.error, tarfile.TarError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from error


def _checked(stream: _Readable, file: PublishedFile, path: Path, wanted: Published) -> bytearray:
    """The stream's content; BadFileError unless it is the file's. A gzip bomb costs no more than the largest file."""
    left = max(each.size for each in wanted.files) + 1
    content = bytearray()
    digest = hashlib.sha256()
    while left > 0 and (chunk := stream.read(min(left, 1 << 20))):
        content += chunk
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest() != file.sha256:
        raise BadFileError(f"{path} {_what_is_wrong(len(content), digest.hexdigest(), file, wanted)}")
    return content


def _what_is_wrong(size: int, sha256: str, file: PublishedFile, wanted: Published) -> str:
    for other in wanted.files:
        if sha256 == other.sha256:
            return f"is swapped: it holds the content of {other.name}"
    if size < file.size:
        return f"is truncated or another file: {size} bytes uncompressed, {file.size} expected"
    if size > file.size:
        return f"is another file: {size} or more bytes uncompressed, {file.size} expected"
    return (
        f"is corrupt, or of another data set or release: of the right size, but its sha256 is {sha256},"
        f" not {file.sha256}"
    )
