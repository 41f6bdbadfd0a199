"""A user's own function by name, `package.module:function`: for networks, data, losses and importance."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from attar.recipe.words import did_you_mean

_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")


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
        hint = did_you_mean(match["module"], kinds)
        raise ValueError(
            f"{name!r}: cannot import {match['module']!r} ({error}); {hint}is it on the Python path?"
        ) from error
    function = getattr(module, match["function"], None)
    if not callable(function):
        hint = did_you_mean(match["function"], [word for word in vars(module) if not word.startswith("_")])
        raise ValueError(f"{match['module']} has no function {match['function']!r}; {hint}".rstrip("; "))
    return function
