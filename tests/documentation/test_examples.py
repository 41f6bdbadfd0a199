"""The blocks of README and docs, run as they are written: a page is a session, from its first block to its last.

`sh` blocks are run line by line, `python` blocks in one namespace a page. A block with a title is a file that the page asks
the reader to save. `text title="prints"` is what the block before it prints. `toml` without a title is a part of a recipe. A
block whose first line is `# not run by the tests: WHY` is left out, for the reason that the reader sees; there are few.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torchvision_ops import define_missing_operators
from typer.testing import CliRunner

from attar.cli.app import app
from attar.recipe import check_recipe

ROOT = Path(__file__).parents[2]
GENERATED = ("recipe.md", "commands.md", "coverage.md", "benchmarks.md", "results.md")
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED)]
NOT_RUN = re.compile(r"# not run(?: by the tests)?: (.{10,})")
FEW = 8


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def left_out(self) -> bool:
        return NOT_RUN.match(self.text) is not None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in re.finditer(r"^```(\w*)(?: title=\"([^\"]*)\")?[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page.name, line, match[1], match[2] or "", match[3]))
    return found


class Session:
    """What one reader does, following one page."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""

    def do(self, block: Block) -> None:
        if block.language == "text" and block.title == "prints":
            assert self.printed.strip() == block.text.strip()
        elif block.left_out or block.language in ("text", "json", "html", ""):
            pass
        elif block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                self._line(line)
        elif block.language == "toml":
            check_part(block.text)
        else:
            raise AssertionError(f"nobody knows how to run a block of {block.language!r}")

    def _python(self, block: Block) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * block.line + block.text, block.page, "exec"), self.names)
        return out.getvalue()

    def _line(self, line: str) -> None:
        """A line of the shell; `attar` and `python FILE` within this process, which has torch at hand already."""
        words = [found for word in shlex.split(line, comments=True) for found in expanded(word)]
        wanted = int(match[1]) if (match := re.search(r"# exit code (\d+)", line)) else 0
        if not words:
            return
        if words[0] in ("attar", ".venv/bin/attar"):
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == wanted, f"{line}\n{result.output}\n{result.exception!r}"
        elif words[0] == "python" and words[1].endswith(".py"):
            runpy.run_path(words[1], run_name="__main__")
        else:
            subprocess.run(line, shell=True, check=True)


def expanded(word: str) -> list[str]:
    """The files that a pattern stands for, as a shell gives them."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def check_part(text: str) -> None:
    """A part of a recipe: every key in it is one, in a recipe that lacks nothing else."""
    train = {"epochs": 1}
    whole = {
        "name": "part",
        "data": {"source": "digits"},
        "teacher": {"model": "resnet20", "train": train},
        "student": {"model": "resnet20"},
        "distil": {"train": train},
    }
    for key, value in tomllib.loads(text).items():
        if key == "prune":
            value = {"budget": {"params": "50%"}, "train": train, **value}
        if key == "teacher" and {"members", "weights", "outputs", "model"} & set(value):
            whole["teacher"] = {}
        whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    check_recipe(whole)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    define_missing_operators()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # `python` is this one
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "teachers").symlink_to(ROOT / "zoo" / "teachers")  # whom recipes/quick.toml learns from
    (tmp_path / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*.toml"):  # with a few images in place of epochs, or this would take an hour
        quick = re.sub(r"^(epochs) = .*", r"\1 = 0.25", recipe.read_text(), flags=re.MULTILINE)
        quick = re.sub(r"^(warmup) = .*", r"\1 = 0", quick, flags=re.MULTILINE)
        (tmp_path / "recipes" / recipe.name).write_text(quick + "[export]\nonnx = false\npt2 = false\n")
    session = Session()
    for block in blocks(page):
        try:
            session.do(block)
        except BaseException as error:
            raise AssertionError(f"{page.name}, line {block.line}: {error}") from error
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_few_blocks_are_left_out() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.left_out]
    assert len(left_out) <= FEW, [f"{block.page}: {block.line}" for block in left_out]
