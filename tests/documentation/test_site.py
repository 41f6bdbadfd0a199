"""The documentation's generated pages are what the code says, and the site builds strictly and fetches nothing."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from attar.cli.app import app

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_references_are_up_to_date() -> None:
    done = python("scripts/reference.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_reference_names_the_options_that_the_commands_take() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^## (attar [^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))

    def check(command: Any, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path} {name}")
        if not hasattr(command, "commands"):
            taken = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            shown = " ".join(re.findall(r"^\| `(--[^`]*)`", sections[path], re.MULTILINE))
            named = re.findall(r"(?<![\w-])--[a-z0-9-]+", shown)
            assert set(named) == {name for name in taken if name.startswith("--")} - {"--help"}, path

    check(get_command(app), "attar")


def test_help_shows_every_word_of_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")

    def check(command: Any, path: list[str]) -> None:
        shown = " ".join(CliRunner().invoke(app, [*path, "--help"]).output.replace("│", " ").split())
        for option in getattr(command, "params", []):
            assert " ".join((option.help or "").split()) in shown, (path, option.name)
            if isinstance(option.show_default, str):
                assert f"[default: ({option.show_default})]" in shown, (path, option.name)
        for paragraph in (command.help or "").split("\n\n"):
            assert " ".join(paragraph.split()) in shown, path
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, [*path, name])

    check(get_command(app), [])


def test_the_results_are_what_the_records_say() -> None:
    done = python("scripts/results.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material")
    done = python("-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.glob("**/*.html"))
    assert len(pages) > 10
    for page in pages:
        fetched = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text()
        )
        assert not fetched, (page.name, fetched)
    assert not re.search(r"@import|url\(\"?https?:", "".join(p.read_text() for p in tmp_path.glob("**/*.css")))


def test_readme_names_files_that_are_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (ROOT / target).exists(), (page.name, target)
