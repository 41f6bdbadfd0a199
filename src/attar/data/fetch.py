"""Getting files from outside: a web download that gives up quickly when offline, and Debian packages without root."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from attar.data.cache import paced
from attar.data.images import Progress

CONNECT_SECONDS = 6.0
STALL_SECONDS = 20.0
APT_SECONDS = 600.0


class FetchError(Exception):
    """A source that could not be reached or did not give what it should."""


def download(url: str, path: Path, limit: int, progress: Progress | None = None) -> None:
    """Downloads into `path`, at most `limit` bytes. Raises FetchError; a part may then be left in `path`."""
    pace = paced(progress)
    try:
        with _open(url) as response, path.open("wb") as file:
            length = int(response.headers.get("Content-Length") or 0)
            done = 0
            while chunk := response.read(1 << 16):
                done += len(chunk)
                if done > limit:
                    raise FetchError(f"{url}: more than {limit} bytes; this is not the file")
                file.write(chunk)
                pace(f"downloading {path.name}: {done / 1e6:.1f} MB", done / length if length else None)
            if done < length:
                raise FetchError(f"{url}: the connection ended after {done} of {length} bytes")
    except (OSError, HTTPException, ValueError) as error:
        raise FetchError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def _open(url: str) -> Any:
    """The response, or FetchError within CONNECT_SECONDS: in a thread, for name look-up knows no time limit."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        except Exception as error:  # handed over to the thread that asks
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not answer:
        raise FetchError(f"{url}: no answer in {CONNECT_SECONDS:.0f} s")
    if isinstance(answer[0], Exception):
        raise FetchError(f"{url}: {getattr(answer[0], 'reason', None) or answer[0]}") from answer[0]
    return answer[0]


def debian_package(name: str, scratch: Path, progress: Progress | None = None) -> Path:
    """Fetches a Debian package by apt into `scratch` and unpacks it there, without root; returns the unpacked tree.

    If apt's own package lists do not know it (a fresh container has none), lists are fetched into `scratch`.
    Raises FetchError.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"Debian's package {name}: there is no {tool} here")
    options = ["-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15"]
    if os.geteuid() == 0:  # else root's apt tries to become the user _apt, who cannot write here
        options += ["-o", "APT::Sandbox::User=root"]
    try:
        _apt(["download", name], options, scratch, progress)
    except FetchError:
        _download_with_fresh_lists(name, [*options, *_private_lists(scratch)], scratch, progress)
    archives = sorted(scratch.glob(f"{name}_*.deb"))
    if not archives:
        raise FetchError(f"Debian's package {name}: apt-get download left no file")
    tree = scratch / "tree"
    _run(["dpkg-deb", "-x", str(archives[0]), str(tree)], f"dpkg-deb -x {archives[0].name}", scratch, _silent)
    return tree


def _download_with_fresh_lists(name: str, options: list[str], scratch: Path, progress: Progress | None) -> None:
    """An update that fails is no reason to stop: it may be for a source that does not have the package anyway."""
    complaint: FetchError | None = None
    try:
        _apt(["update"], options, scratch, progress)
    except FetchError as error:
        complaint = error
    try:
        _apt(["download", name], options, scratch, progress)
    except FetchError as error:
        raise FetchError(f"{complaint}; {error}" if complaint else str(error)) from error


def _private_lists(scratch: Path) -> list[str]:
    """Options that keep apt's lists and caches in `scratch`, so that `apt-get update` needs no root."""
    options = []
    for key, folder in (("Dir::State::lists", "lists"), ("Dir::Cache", "cache")):
        (scratch / folder / "partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", f"{key}={scratch / folder}"]
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return [*options, "-o", "Debug::NoLocking=1", "-o", "APT::Update::Error-Mode=any"]


def _apt(arguments: list[str], options: list[str], scratch: Path, progress: Progress | None) -> None:
    pace = paced(progress)

    def watch(seconds: float) -> None:
        pace(f"apt-get {' '.join(arguments)}: {seconds:.0f} s, {_size(scratch) / 1e6:.1f} MB", None)

    _run(["apt-get", *options, *arguments], f"apt-get {' '.join(arguments)}", scratch, watch)


def _size(folder: Path) -> int:
    """Bytes in a folder in which files come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def _silent(seconds: float) -> None:
    pass


def _run(command: list[str], title: str, folder: Path, watch: Callable[[float], None]) -> None:
    """Runs a command in the folder, calling `watch` each second. Raises FetchError with its title and last words."""
    log = folder / "command.log"
    start = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise FetchError(f"{title} cannot be run: {error}") from error
        try:
            while process.poll() is None:
                seconds = time.monotonic() - start
                if seconds > APT_SECONDS:
                    raise FetchError(f"{title}: not done in {APT_SECONDS:.0f} s")
                try:
                    process.wait(1.0)
                except subprocess.TimeoutExpired:
                    watch(seconds)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith(("E:", "Err"))] or lines
        raise FetchError(f"{title} failed: {' '.join(errors[-2:])[:400]}")
