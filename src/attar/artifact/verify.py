"""Check an artifact against itself: files, counts, budget, golden outputs. All checks are made and reported."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from attar.artifact.description import Description, description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.folder import GOLDEN, OWN, WEIGHTS, load
from attar.artifact.limits import within_memory
from attar.artifact.manifest import Entry, check_file, read_file, read_manifest, unlisted
from attar.artifact.onnx_view import made_of
from attar.artifact.pt2_view import check_program
from attar.artifact.replay import check_golden, count, difference, exceeded, golden_logits
from attar.artifact.runners import open_view
from attar.artifact.views import INT8, ONNX, PT2, View, replay_view
from attar.artifact.weights import read_golden

MOST_MEMORY = 8 << 30
"""What computing with a network or a view may take, bytes."""


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
    run_programs: bool = False,
) -> Verification:
    """Check a folder: hashes, no foreign files, loading, counts made anew, the budget, and the golden batch replayed.

    Never raises for what is wrong with the folder: that is a failed check. Views in ONNX replay the golden batch where
    onnxruntime is installed; a `.pt2` is looked through for code, and run only on demand.

    Args:
        path: the artifact's folder.
        builder, allow: those of `load`.
        run_programs: run `model.pt2` too; for artifacts of your own, since torch's loader was not made for others'.
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
    if model is not None:
        with within_memory(MOST_MEMORY):
            check_model(checks, folder, files, model)
    for name in (ONNX, INT8, PT2):
        if name in files:
            with within_memory(MOST_MEMORY):
                checks.run(f"view {name}", partial(check_view, folder, files, name, run_programs), str)
    return checks.done()


def check_model(checks: "Checks", folder: Path, files: dict[str, Entry], model: nn.Module) -> None:
    """Counts, budget and golden batch of the network as loaded."""
    description = description_of(model)
    counts = checks.run("counts", lambda: recount(folder, files, model, description), figures)
    if counts is not None:
        checks.run("budget", lambda: within(counts, description), str)
    checks.run("golden batch", lambda: replay(folder, files, model, description), str)


def check_view(folder: Path, files: dict[str, Entry], name: str, run_programs: bool) -> "View | str":
    """Replay the golden batch with a view, as far as it is safe and possible here."""
    content = read_file(folder, files, name)
    if name == PT2 and not run_programs:
        check_program(content)
        return "holds tensors and tensor operations only; not run"
    if name != PT2 and find_spec("onnxruntime") is None:
        raise Skipped("onnxruntime is not installed")
    view = replay_view(folder, name, len(content), open_view(folder, name))
    if name != PT2 and (weights := made_of(content)) not in ("", files[WEIGHTS].sha256):
        raise ArtifactError(
            f"was made of other weights ({weights[:12]}) than the artifact's ({files[WEIGHTS].sha256[:12]})"
        )
    if not view.agrees:
        raise ArtifactError(str(view))
    return view


class Skipped(Exception):
    """A check that cannot be made here."""


class Checks:
    """Gathers checks: what raises has failed."""

    def __init__(self) -> None:
        self.found: list[Check] = []

    def run(self, name: str, check: Callable[[], Any], tell: Callable[[Any], str] = lambda _: "") -> Any:
        """Do the check and note how it went; returns its result, None if it failed."""
        try:
            result = check()
        except Skipped as reason:
            self.found.append(Check(name, None, str(reason)))
            return None
        except Exception as error:  # what somebody made up must not stop the other checks
            kind = "" if isinstance(error, ArtifactError) else f"{type(error).__name__}: "
            self.found.append(Check(name, False, kind + str(error)))
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


def recount(folder: Path, files: dict[str, Entry], model: nn.Module, description: Description) -> dict[str, int]:
    """Counts made now; they must be those recorded. The network runs at the input's size only if images of it came along."""
    try:
        check_golden(description.input, read_golden(read_file(folder, files, GOLDEN), GOLDEN)[0])
    except ArtifactError as error:
        raise Skipped("no golden images have the size that the network shall take") from error
    counts, recorded = count(model, description, files[WEIGHTS].bytes), dict(description.counts)
    recorded["bytes"] = recorded.pop("file_bytes", recorded.get("bytes", 0))  # as attar once called them
    wrong = [
        f"{n:,} {kind}, recorded {recorded.get(kind, 0):,}" for kind, n in counts.items() if n != recorded.get(kind)
    ]
    if wrong:
        raise ArtifactError("; ".join(wrong))
    return counts


def within(counts: dict[str, int], description: Description) -> str:
    """The recorded budget, held against counts made now."""
    if over := exceeded(counts, description.budget):
        raise ArtifactError("; ".join(over))
    counted = {kind: limit for kind, limit in description.budget.items() if kind in counts}
    seconds = description.budget.get("latency")
    measured = "" if seconds is None else f"latency of {1e3 * seconds:.4g} ms not measured here; attar bench measures"
    if measured and not counted:
        raise Skipped(measured)
    return "; ".join(part for part in (figures(counted), measured) if part)


def replay(folder: Path, files: dict[str, Entry], model: nn.Module, description: Description) -> str:
    """Compute the golden logits again; there must be as many as class names."""
    images, wanted = read_golden(read_file(folder, files, GOLDEN), GOLDEN)
    found = golden_logits(model, description.input, images)
    if differ := difference(wanted, found):
        raise ArtifactError(differ)
    description.names(found.shape[1])
    return f"{len(found)} images, logits within {(found - wanted).abs().max().item():.1e}"


def figures(values: dict[str, float]) -> str:
    """`99,603 params, ...`, or `none` for an empty table."""
    return ", ".join(f"{value:,} {kind}" for kind, value in values.items()) or "none"
