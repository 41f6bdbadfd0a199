"""Where Fashion-MNIST is looked for, and that only the published bytes are taken."""

import gzip
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attar.data import DataError, ImageData, fashion_mnist, fetch, load_data
from attar.data.cache import cache_folder
from attar.data.fashion_mnist import FASHION_MNIST, load_fashion_mnist

NAMES = [file.name for file in FASHION_MNIST.files]
PACKAGE = "dataset-fashion-mnist"


@pytest.fixture(scope="session")
def gz_files(fashion: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the four files, made anew from the loaded pixels in the published format."""
    folder = tmp_path_factory.mktemp("files")
    parts = (
        (fashion.images, fashion.labels),
        (fashion.test_images, fashion.test_labels),
    )
    contents = []
    for images, labels in parts:
        count = len(images).to_bytes(4, "big")
        side = (28).to_bytes(4, "big")
        contents.append(b"\0\0\x08\x03" + count + side + side + images.numpy().tobytes())
        contents.append(b"\0\0\x08\x01" + count + labels.to(torch.uint8).numpy().tobytes())
    for name, content in zip(NAMES, contents):
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    return folder


@pytest.fixture
def mine(gz_files: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(gz_files, tmp_path / "mine", copy_function=os.link))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache, no system folder, no web and no apt; gives the cache folder to be."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ATTAR_CACHE", str(cache))
    changed = replace(FASHION_MNIST, web="http://127.0.0.1:9/", system_folder=tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", changed)
    monkeypatch.setattr(fetch.shutil, "which", lambda tool: None)
    return cache


def spoil(path: Path, content: bytes) -> None:
    path.unlink()  # it is a hard link
    path.write_bytes(content)


def test_the_real_one(fashion: ImageData) -> None:
    assert fashion.images.shape == (60_000, 1, 28, 28)
    assert fashion.test_images.shape == (10_000, 1, 28, 28)
    assert fashion.images.dtype == torch.uint8
    assert torch.bincount(fashion.labels).tolist() == [6000] * 10
    assert torch.bincount(fashion.test_labels).tolist() == [1000] * 10
    assert fashion.labels[:6].tolist() == [9, 0, 0, 3, 0, 2]  # the first images are well known
    assert fashion.class_names[9] == "Ankle boot"
    assert fashion.fingerprint == "a80ae2daf4542670ef75cd91a6b665b2dfa5a5a421ed863ee125189f36e17638"


def test_folder_given(mine: Path, alone: Path, fashion: ImageData) -> None:
    for folder in (mine, mine.parent):
        if folder == mine.parent:
            mine.rename(folder / "fashion-mnist")
        data = load_data("fashion-mnist", folder)
        assert data.fingerprint == fashion.fingerprint
        assert str(folder) in data.source
    assert not alone.exists()


def test_uncompressed_files_do(mine: Path, alone: Path, fashion: ImageData) -> None:
    for name in NAMES[1:]:
        (mine / name).write_bytes(gzip.decompress((mine / f"{name}.gz").read_bytes()))
        (mine / f"{name}.gz").unlink()
    assert load_data("fashion-mnist", mine).fingerprint == fashion.fingerprint


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "index, change, complaint",
    [
        (2, lambda raw: gzip.compress(raw, 1)[:-5000], "truncated"),
        (3, lambda raw: gzip.compress(raw, 1)[: len(raw) // 4], "truncated"),
        (3, lambda raw: gzip.compress(raw[:-1], 1), "truncated or another file: 10007 bytes uncompressed, 10008 exp"),
        (1, lambda raw: gzip.compress(flipped(raw, 5000), 1), "corrupt.*sha256"),
        (3, lambda raw: flipped(gzip.compress(raw, 1), 2000), "cannot be read|corrupt|truncated"),
        (3, lambda raw: b"<html>log in to the hotel's network</html>", "cannot be read.*[Nn]ot a gzip"),
        (3, lambda raw: b"", "truncated"),
        (
            1,
            lambda raw: gzip.compress(raw + bytes(10**7), 1),
            "another file: 10060008 or more bytes uncompressed, 60008 expected",
        ),
    ],
)
def test_a_bad_file_is_named_and_refused(mine: Path, alone: Path, index: int, change: object, complaint: str) -> None:
    path = mine / f"{NAMES[index]}.gz"
    spoil(path, change(gzip.decompress(path.read_bytes())))  # type: ignore[operator]
    with pytest.raises(DataError, match=complaint) as caught:
        load_data("fashion-mnist", mine)
    assert str(path) in str(caught.value)


def test_swapped_files_are_recognised(mine: Path, alone: Path) -> None:
    train, test = mine / f"{NAMES[1]}.gz", mine / f"{NAMES[3]}.gz"
    spoil(test, train.read_bytes())
    with pytest.raises(DataError, match=r"t10k-labels.*is swapped: it holds the content of train-labels-idx1-ubyte"):
        load_data("fashion-mnist", mine)


def test_a_missing_file_is_named(mine: Path, alone: Path) -> None:
    (mine / f"{NAMES[2]}.gz").unlink()
    with pytest.raises(DataError, match=f"{NAMES[2]}.*missing"):
        load_data("fashion-mnist", mine)


def test_nowhere(tmp_path: Path, alone: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    told: list[str] = []
    with pytest.raises(DataError) as caught:
        load_data("fashion-mnist", empty, lambda line, fraction: told.append(line))
    message = str(caught.value)
    for place in (str(empty), str(alone), str(tmp_path / "system"), "127.0.0.1:9", "no apt-get"):
        assert place in message
        assert any(place in line for line in told)
    assert f"Put {NAMES[0]}.gz" in message
    assert not list(alone.rglob("*.gz"))
    with pytest.raises(DataError, match="does not exist"):
        load_data("fashion-mnist", tmp_path / "no such folder")


def test_a_bad_cache_is_told_and_passed_over(
    mine: Path, alone: Path, tmp_path: Path, fashion: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    cached = alone / "fashion-mnist" / f"{NAMES[3]}.gz"
    shutil.copytree(mine, cached.parent)
    cached.write_bytes(cached.read_bytes()[:1000])
    shutil.copytree(mine, tmp_path / "system")
    data = load_data("fashion-mnist")
    assert data.source.startswith("system folder")
    assert data.fingerprint == fashion.fingerprint
    assert any(record.levelname == "WARNING" and str(cached) in record.message for record in caplog.records)


class Site:
    """A real web server of a folder."""

    def __init__(self, folder: Path) -> None:
        import functools
        import http.server
        import threading

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(mine: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    served = Site(mine)
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", replace(fashion_mnist.FASHION_MNIST, web=served.address))
    yield served
    served.close()


def test_download(site: Site, alone: Path, fashion: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "fashion-mnist" / ".fetch-killed").mkdir(parents=True)
    told: list[tuple[str, float | None]] = []
    monkeypatch.setattr(fetch, "paced", lambda progress: progress)
    data = load_data("fashion-mnist", progress=lambda line, fraction: told.append((line, fraction)))
    assert site.address in data.source
    assert data.fingerprint == fashion.fingerprint
    assert [fraction for line, fraction in told if "train-images" in line][-1] == 1.0
    assert sorted(path.name for path in (alone / "fashion-mnist").iterdir()) == [
        ".lock",
        *sorted(f"{name}.gz" for name in NAMES),
    ]
    assert load_data("fashion-mnist").source == f"cache {alone / 'fashion-mnist'}"


def test_a_bad_download_never_reaches_the_cache(site: Site, mine: Path, alone: Path) -> None:
    spoil(mine / f"{NAMES[3]}.gz", gzip.compress(bytes(10_008)))
    with pytest.raises(DataError, match=f"downloaded from {site.address}.*{NAMES[3]}.*corrupt"):
        load_data("fashion-mnist")
    assert not list(alone.rglob("*.gz"))
    (mine / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(DataError, match=rf"{NAMES[3]}.gz: (File )?[Nn]ot [Ff]ound"):
        load_data("fashion-mnist")


def _load(address: str, cache: str, results) -> None:  # type: ignore[no-untyped-def]
    os.environ["ATTAR_CACHE"] = cache
    fashion_mnist.FASHION_MNIST = replace(FASHION_MNIST, web=address, system_folder=None)
    torch.set_num_threads(1)
    results.put(load_fashion_mnist().fingerprint)


def test_two_processes_at_once(site: Site, alone: Path, fashion: ImageData) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_load, args=(site.address, str(alone), results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {results.get(timeout=60) for _ in processes} == {fashion.fingerprint}
    for process in processes:
        process.join()


def test_a_name_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline machine's name look-up may hang; it must not hold up the next source."""
    import socket
    import threading

    stop = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: stop.wait(30))
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.3)
    with pytest.raises(fetch.FetchError, match="no answer"):
        fetch.download("http://example.invalid/file", Path("never"), limit=1)
    stop.set()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg-deb")
def test_debian_package(mine: Path, alone: Path, fashion: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the real layout, built here; in place of apt-get a script that first lacks its lists."""
    tools = alone.parent / "tools"
    tools.mkdir()
    tree = alone.parent / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    (tree / "DEBIAN" / "control").write_text(control)
    shutil.copytree(mine, tree / "opt/attar-test/fashion-mnist")
    archive = tools / f"{PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, archive], check=True, capture_output=True)
    script = tools / "apt-get"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tools}/calls\ncase "$*" in\n'
        f"*lists*update) touch {tools}/updated; echo 'E: one source of many is down'; exit 100;;\n"
        f"*lists*download*) [ -e {tools}/updated ] && cp {archive} .;;\n"
        '*) echo "E: Unable to locate package" >&2; exit 100;;\nesac\n'
    )
    script.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("ATTAR_CACHE", str(alone))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    changed = replace(FASHION_MNIST, web="http://127.0.0.1:9/", system_folder=Path("/opt/attar-test/fashion-mnist"))
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", changed)
    data = load_data("fashion-mnist")
    assert PACKAGE in data.source
    assert data.fingerprint == fashion.fingerprint
    assert len((tools / "calls").read_text().splitlines()) == 3  # download fails, update, download
    assert sorted(path.name for path in (alone / "fashion-mnist").iterdir())[1:] == sorted(f"{n}.gz" for n in NAMES)


def test_a_failing_apt_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "apt-get"
    script.write_text('#!/bin/sh\necho "Reading"\necho "E: no network today" >&2\nexit 100\n')
    script.chmod(0o755)
    shutil.copy(script, tmp_path / "dpkg-deb")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(fetch.FetchError, match="apt-get update failed: E: no network today"):
        fetch.debian_package("dataset-fashion-mnist", scratch)


def test_cache_that_cannot_be_written(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot write to the cache folder .* set ATTAR_CACHE"):
        load_data("fashion-mnist")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("ATTAR_CACHE")
    assert cache_folder() == Path("/two/attar")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/three/.cache/attar")
