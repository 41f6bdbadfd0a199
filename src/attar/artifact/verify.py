"""Check an artifact against itself: files, counts, budget, golden outputs. All checks are made and reported."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from attar.artifact.description import Description
from attar.artifact.errors import ArtifactError
from attar.artifact.folder import GOLDEN, OWN, WEIGHTS, load
from attar.artifact.manifest import Entry, check_file, read_file, read_manifest, unlisted
from attar.artifact.replay import count, difference, exceeded, golden_logits
from attar.artifact.weights import from_bytes


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None where it could not be looked at here."""
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """What `verify` found; true if nothing failed."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        words = {True: "pass", False: "FAIL", None: "skip"}
        return "\n".join(f"{words[check.passed]}  {check.name}: {check.detail}".rstrip(": ") for check in self.checks)


def verify(
    path: str | Path,
    *,
    builder: Callable[..., nn.Module] | None = None,
    allow: Collection[str] = (),
) -> Verification:
    """Check a folder: hashes, no foreign files, loading, counts made anew, the budget, and the golden batch replayed.

    Never raises for what is wrong with the folder: that is a failed check. `builder` and `allow` are those of `load`.
    """
    checks = Checks()
    folder = Path(path)
    files = checks.run("manifest", lambda: read_manifest(folder), lambda found: f"{len(found)} files")
    if files is None:
        return checks.done()
    for name in [*(own for own in OWN if own not in files), *files]:
        checks.run(f"file {name}", partial(checked, folder, files, name))
    checks.run("no other files", lambda: none_unlisted(folder, files))
    model = checks.run("loads", lambda: load(folder, builder=builder, allow=allow))
    if model is None:
        return checks.done()
    description = model.artifact
    assert isinstance(description, Description)
    counts = checks.run("counts", lambda: recount(model, description, files[WEIGHTS].bytes), figures)
    if counts is not None:
        checks.run("budget", lambda: within(counts, description), figures)
    checks.run("golden batch", lambda: replay(folder, files, model, description), str)
    return checks.done()


class Checks:
    """Gathers checks: what raises ArtifactError has failed."""

    def __init__(self) -> None:
        self.found: list[Check] = []

    def run(self, name: str, check: Callable[[], Any], tell: Callable[[Any], str] = lambda _: "") -> Any:
        """Do the check and note how it went; returns its result, None if it failed."""
        try:
            result = check()
        except (ArtifactError, OSError) as error:
            self.found.append(Check(name, False, str(error)))
            return None
        self.found.append(Check(name, True, tell(result)))
        return result

    def done(self) -> Verification:
        return Verification(tuple(self.found))


def checked(folder: Path, files: dict[str, Entry], name: str) -> None:
    """A file that attar cannot do without, or that the manifest lists."""
    if name not in files:
        raise ArtifactError("the manifest does not list it")
    check_file(folder, name, files[name])


def none_unlisted(folder: Path, files: dict[str, Entry]) -> None:
    """Nothing lies in the folder that the manifest does not know."""
    if others := unlisted(folder, files):
        raise ArtifactError(f"the manifest does not list {', '.join(others[:5])}")


def recount(model: nn.Module, description: Description, file_bytes: int) -> dict[str, int]:
    """Counts made now; they must be those recorded."""
    counts = count(model, description, file_bytes)
    wrong = [
        f"{n:,} {kind}, recorded {description.counts.get(kind):,}"
        for kind, n in counts.items()
        if n != description.counts.get(kind)
    ]
    if wrong:
        raise ArtifactError("; ".join(wrong))
    return counts


def within(counts: dict[str, int], description: Description) -> dict[str, float]:
    """The recorded budget, held against counts made now."""
    if over := exceeded(counts, description.budget):
        raise ArtifactError("; ".join(over))
    return dict(description.budget)


def replay(folder: Path, files: dict[str, Entry], model: nn.Module, description: Description) -> str:
    """Compute the golden logits again."""
    golden = from_bytes(read_file(folder, files, GOLDEN), GOLDEN)
    if set(golden) != {"images", "logits"}:
        raise ArtifactError(f"{GOLDEN} must hold images and logits, not {', '.join(golden) or 'nothing'}")
    found = golden_logits(model, description.input, golden["images"])
    if differ := difference(golden["logits"], found):
        raise ArtifactError(differ)
    return f"{len(found)} images, logits within {(found - golden['logits']).abs().max().item():.1e}"


def figures(values: dict[str, float]) -> str:
    """`99,603 params, ...`, or `none` for an empty table."""
    return ", ".join(f"{value:,} {kind}" for kind, value in values.items()) or "none"
