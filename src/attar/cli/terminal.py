"""What may reach a terminal, and what becomes of it once nobody reads."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any


def plain(text: str) -> str:
    """The text without what would steer a terminal or cannot be written: artifacts name classes, files and builders.

    Such characters are spelt out as Python does (`\\x1b`); letters of any script, spaces and line ends stay.
    """
    return "".join(
        c if c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


class Told:
    """A standard stream that goes quiet once nobody reads it (`| head`): what is computed goes on, and keeps its exit code.

    Letters that its encoding lacks are spelt out.
    """

    def __init__(self, stream: Any) -> None:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable[..., object], *given: str) -> None:
        try:
            do(*given)
        except BrokenPipeError:  # what waits in the buffer must go somewhere, or every later flush fails, too
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
