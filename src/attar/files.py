"""Writing files so that a kill or a power cut leaves the old one or the new one, never a part."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

Content = bytes | str | Path
"""What a file is to hold; a path stands for the content of the file there."""


def write_whole(path: Path, content: Content, partial: Path | None = None) -> None:
    """Write beside the file, fsync, rename over it.

    Args:
        path: the file, in a folder that exists.
        content: what it is to hold.
        partial: where it is written first, `.NAME.partial` if None; where several processes may write the same file at once,
            each needs its own.
    """
    partial = partial or path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder last, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
