"""Runs: the stages of a recipe in order, in a folder that survives anything."""

from attar.pipeline.control import control
from attar.pipeline.evaluation import evaluate_artifact
from attar.pipeline.folder import RunError
from attar.pipeline.interrupt import Interrupted
from attar.pipeline.run import run
from attar.pipeline.watch import Update, Watcher

__all__ = ["Interrupted", "RunError", "Update", "Watcher", "control", "evaluate_artifact", "run"]
