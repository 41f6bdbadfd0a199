"""attar's cache on disk: where it is, files that appear whole or not at all, and one process at a time."""

import contextlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from attar.data.images import DataError, Progress

log = logging.getLogger("attar.data")


def cache_folder() -> Path:
    """$ATTAR_CACHE, else $XDG_CACHE_HOME/attar, else ~/.cache/attar. It need not exist."""
    if chosen := os.environ.get("ATTAR_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "attar"
    return Path("~/.cache/attar").expanduser()


def tell(progress: Progress | None, line: str, level: int = logging.INFO) -> None:
    """Says a line to whoever watches, else to the log at this level."""
    if progress is None:
        log.log(level, line)
    else:
        log.info(line)
        progress(line, None)


def paced(progress: Progress | None, seconds: float = 2.0) -> Progress:
    """A callback for inner loops: passes a line on when none was for `seconds`, and swallows the rest."""
    last = time.monotonic()

    def pass_on(line: str, fraction: float | None) -> None:
        nonlocal last
        if progress is not None and time.monotonic() - last >= seconds:
            last = time.monotonic()
            progress(line, fraction)

    return pass_on


def make_folder(folder: Path) -> None:
    """Raises DataError if the folder cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write to the cache folder {folder} ({error.strerror or error}); set ATTAR_CACHE to another folder"
        ) from error


def under_way(path: Path) -> Path:
    """A file beside `path`, to be renamed over it once it is whole; no process has the same, in another container neither."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


@contextlib.contextmanager
def one_at_a_time(folder: Path, progress: Progress | None) -> Iterator[bool]:
    """Holds the folder's lock, so that processes that need the same data fetch it once; gives whether it is held.

    Where the system or the file system has no locks nothing is held: files still appear whole, only fetched twice.
    """
    try:
        import fcntl

        file = (folder / ".lock").open("a")
    except (ImportError, OSError):
        yield False
        return
    with file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
                break
            except BlockingIOError:
                if not told:
                    tell(progress, f"another process is fetching into {folder}; waiting for it")
                    told = True
                time.sleep(0.2)
            except OSError:
                held = False
                break
        yield held
