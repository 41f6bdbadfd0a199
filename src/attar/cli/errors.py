"""How commands end that do not go well: one clear message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from attar.cli.terminal import plain

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: what the user gave cannot be used; it was computed and did not hold; stopped by Ctrl-C."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that users can cause into one clear message and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        end("interrupted", INTERRUPTED)
    except ValueError as error:  # recipes, data, run folders, artifacts, budgets: each names cause, value and way out
        end(str(error), WRONG_INPUT)
    except OSError as error:
        end(f"{error.filename or 'file system'}: {error.strerror or error}", WRONG_INPUT)


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """Turn what can stop a run in its middle into a message and an exit code; its checkpoints are in `folder`."""
    from attar.pipeline import Interrupted
    from attar.prune import ProofError
    from attar.train import CheckpointError, Diverged, RankError, Ranks

    try:
        yield
    except Interrupted as stop:
        end(f"{stop}; saved, the same command goes on from here", INTERRUPTED, said=Ranks.here().first)
    except KeyboardInterrupt:
        end("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)
    except (Diverged, ProofError) as error:  # all ranks at once
        kept = f"\nThe last good checkpoint is in {folder}." if (folder / "checkpoint.safetensors").exists() else ""
        end(f"{error}{kept}", FAILED, said=Ranks.here().first)
    except CheckpointError as error:  # likewise
        end(str(error), FAILED, said=Ranks.here().first)
    except RankError as error:
        end(str(error), FAILED)


@contextmanager
def planning() -> Iterator[None]:
    """Turn a plan that fails, which leaves nothing behind, into a message and an exit code."""
    from attar.prune import ProofError
    from attar.train import Diverged

    try:
        yield
    except (Diverged, ProofError) as error:
        end(str(error), FAILED)


def end(message: str, code: int, said: bool = True) -> None:
    """End the command with an exit code, and unless another process says it, with a message."""
    if said:
        print(f"attar: {plain(message)}", file=sys.stderr)
    raise typer.Exit(code)
