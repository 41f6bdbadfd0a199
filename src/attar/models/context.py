"""What surrounds a call or an export of a network for a while: its mode, and silence."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from torch import nn


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All modules in train or eval mode inside, each back in its own mode after.

    By `train` on the way back too, as a module may do more there than set a flag: merge weights, say.
    """
    before = {module: module.training for module in model.modules()}
    root = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(root)
        for module, mode in before.items():  # from the outside in
            if module.training != mode:
                module.train(mode)
        for module, mode in before.items():
            module.training = mode


@contextmanager
def exporter_quiet() -> Iterator[None]:
    """Without what exporters log, print and warn of, for their authors: what the user must know comes as an error."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
