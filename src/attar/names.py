"""Names: the closest known one, and a user's own functions as `package.module:function`. Below all rooms; imports no torch."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")


def closest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the nearest known word, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def names_function(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def function_named(name: str, kinds: Iterable[str] = ()) -> Callable[..., Any]:
    """Import the module and find its function. The current folder is looked in last, whatever started Python.

    Args:
        name: `package.module:function`; `__main__:function` is one of the script or notebook that is running.
        kinds: words that may stand before the colon for something else, to suggest where one was mistyped.

    Raises:
        ValueError: no such module or function; with the closest name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} names no function: write package.module:function")
    here = os.getcwd()  # noqa: PTH109 (sys.path holds strings)
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(match["module"])
    except ImportError as error:
        hint = closest(match["module"], kinds)
        raise ValueError(
            f"{name!r}: cannot import {match['module']!r} ({error}){hint}; is it on the Python path?"
        ) from error
    function = getattr(module, match["function"], None)
    if not callable(function):
        hint = closest(match["function"], [word for word in vars(module) if not word.startswith("_")])
        raise ValueError(f"{match['module']} has no function {match['function']!r}{hint}")
    return function
