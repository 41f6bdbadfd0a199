"""The folder's list of files with sizes and SHA-256, and how files get into the folder: whole or not at all.

The manifest says what belongs to the artifact. Names are relative, with forward slashes; links, absolute names and `..`
are refused, so that no file outside the folder is ever read.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.artifact.errors import ArtifactError
from attar.files import Content, sync_folder, write_whole

FORMAT = "attar artifact"
VERSION = 1
MANIFEST = "manifest.json"
LARGEST_JSON = 64 << 20
DEEPEST_JSON = 100
LARGEST_FILE = 8 << 30
"""More is not read into memory: files with holes can claim any size."""
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")


@dataclass(frozen=True)
class Entry:
    """One file of the artifact."""

    bytes: int
    sha256: str


def check_name(name: Any) -> str:
    """Return the name if it is a plain path inside the folder; raises ArtifactError."""
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or len(parts) > 8 or not all(PART.fullmatch(part) for part in parts):
        raise ArtifactError(f"{name!r:.200} is no name for a file of an artifact: use letters, digits, . _ - and /")
    return name


def check_folder(folder: Path) -> None:
    """Raise ArtifactError unless there is a folder with a manifest."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder, so no artifact")
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}")


def read_manifest(folder: Path) -> dict[str, Entry]:
    """The files that belong to the artifact; raises ArtifactError if the folder is none or of another version."""
    check_folder(folder)
    data = parse_json(read_inside(folder, MANIFEST, LARGEST_JSON), MANIFEST)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(f"{folder} is no artifact: {MANIFEST} does not say {FORMAT!r}")
    check_version(data, MANIFEST)
    files = data.get("files")
    if not isinstance(files, dict):
        raise ArtifactError(f"{MANIFEST} lists no files")
    return {check_name(name): read_entry(name, entry) for name, entry in files.items()}


def read_entry(name: str, entry: Any) -> Entry:
    """One file's size and hash from the manifest."""
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ArtifactError(f"{MANIFEST} gives no size and SHA-256 for {name}")
    return Entry(size, digest)


def check_version(data: Mapping[str, Any], name: str) -> None:
    """Raise ArtifactError unless the data has this format's version."""
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        newer = "; a newer attar may read it" if type(version) is int and version > VERSION else ""
        raise ArtifactError(f"{name} has format version {version!r:.50}, this attar reads version {VERSION}{newer}")


def check_file(folder: Path, name: str, entry: Entry) -> None:
    """Raise ArtifactError unless the file is there, inside the folder, and what the manifest says."""
    path = inside(folder, name)
    size = path.stat().st_size
    if size != entry.bytes:
        raise ArtifactError(f"{name} has {size:,} bytes, the manifest says {entry.bytes:,}: cut short or changed")
    if hash_file(path) != entry.sha256:
        raise ArtifactError(f"{name} is not the file that was saved: its SHA-256 differs from the manifest's")


def read_file(folder: Path, files: Mapping[str, Entry], name: str) -> bytes:
    """The content of a listed file, checked against size and hash; raises ArtifactError."""
    if name not in files:
        raise ArtifactError(f"the artifact has no {name}; it has {', '.join(files) or 'no files'}")
    content = read_inside(folder, name, files[name].bytes)
    if len(content) != files[name].bytes or hashlib.sha256(content).hexdigest() != files[name].sha256:
        raise ArtifactError(f"{name} is not the file that was saved: its size or SHA-256 differs from the manifest's")
    return content


def read_inside(folder: Path, name: str, largest: int) -> bytes:
    """The content of a file in the folder, if it is not larger than said."""
    path = inside(folder, name)
    size = path.stat().st_size
    if size > (most := min(largest, LARGEST_FILE)):
        raise ArtifactError(f"{name} is larger than the {most:,} bytes that it may have")
    try:
        with path.open("rb") as file:
            return file.read(size)
    except MemoryError:
        raise ArtifactError(f"{name} has {size:,} bytes, more than there is memory for") from None


def inside(folder: Path, name: str) -> Path:
    """The path of a regular file in the folder; raises ArtifactError if it is missing, a link, or leads elsewhere."""
    path = folder
    for part in check_name(name).split("/"):
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"{name} leads through a link ({path.name}); an artifact has plain files only")
    if not path.exists():
        raise ArtifactError(f"{name} is missing from {folder}")
    if not path.is_file():
        raise ArtifactError(f"{name} is no plain file")
    return path


def parse_json(content: bytes, name: str) -> Any:
    """JSON without NaN, repeated keys and nesting that a recursion would fail on; raises ArtifactError."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key is repeated")
        return dict(pairs)

    try:
        data = json.loads(content, parse_constant=refuse, object_pairs_hook=unique)
        if nesting(data) > DEEPEST_JSON:
            raise ValueError(f"it is nested more than {DEEPEST_JSON} deep")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error
    return data


def nesting(data: Any) -> int:
    """How deep lists and tables lie in each other; counted without recursion."""
    depth, level = 0, [data]
    while level := [
        item
        for part in level
        if isinstance(part, dict | list)
        for item in (part.values() if isinstance(part, dict) else part)
    ]:
        depth += 1
    return depth


def unlisted(folder: Path, files: Mapping[str, Entry]) -> list[str]:
    """Names of files in the folder that the manifest does not list; hidden ones are left out of account."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    return [name for name in names if name not in files and name != MANIFEST]


def write_files(folder: Path, contents: Mapping[str, Content]) -> None:
    """Put files into the folder and onto the disk, then list them in the manifest; what was listed stays listed.

    Each file appears whole or not at all. Raises ArtifactError for a name that is none.
    """
    for name in contents:
        if check_name(name) == MANIFEST:
            raise ArtifactError(f"{MANIFEST} is attar's own")
    files = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        files[name] = Entry(path.stat().st_size, hash_file(path))
    listed = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in sorted(files.items())}
    write_whole(folder / MANIFEST, to_json({"format": FORMAT, "version": VERSION, "files": listed}))


def replace_folder(new: Path, target: Path) -> None:
    """Let the new folder take the target's place; an artifact that was there goes."""
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    new.replace(target)
    sync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(data: Any) -> str:
    """JSON as attar writes it: readable, and the same bytes for the same data."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
