"""The command line and its first commands. Whatever computes is imported only when its command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attar.cli.cache import cache
from attar.cli.errors import FAILED, end, explained, planning, under_way
from attar.cli.terminal import Told, plain
from attar.cli.values import builder_arguments, default_folder, limit, numbers
from attar.cli.zoo import zoo

if TYPE_CHECKING:
    from attar.recipe import Recipe

app = typer.Typer(
    name="attar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a trained classifier into a small one, prune it to a hard budget, ship it with proof.",
)
app.add_typer(cache, name="cache")
app.add_typer(zoo, name="zoo")

Allow = Annotated[
    list[str] | None, typer.Option(help="A builder of your own that the artifact may call; repeat for more.")
]
Widths = Annotated[str | None, typer.Option(help="Stage widths, e.g. 9,19,39: --argument widths=[9,19,39].")]
Argument = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For the builder, as a recipe's arguments; repeat for more."),
]
Input = Annotated[str, typer.Option(help="Channels, height and width of one image.")]
Classes = Annotated[int, typer.Option(help="Classes. Functions of your own are told them by --argument alone.")]
Tensorboard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write the curves and the frontier for TensorBoard too, in OUT/tensorboard."),
]


def _version(asked: bool) -> None:
    if asked:
        from attar import __version__

        print(f"attar {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values to override, e.g. distil.temperature=2."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; continued if it exists.", show_default="runs/NAME")
    ] = None,
    tensorboard: Tensorboard = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, plan the final shape and estimate the time; train nothing.")
    ] = False,
) -> None:
    """Do a whole run: teach, distil, prune, export, report. The same command continues a stopped run."""
    with explained():
        from attar.recipe import load_recipe

        checked = load_recipe(recipe, overrides or ())  # before torch is imported: a typo is answered at once
        folder = out or default_folder(checked.name)
        if not dry_run:
            carry_out(checked, folder, tensorboard)
            return
        from attar.cli.plan import rehearsal_text
        from attar.cli.show import shower
        from attar.pipeline.rehearsal import rehearse

        with planning(), shower() as watcher:
            found = rehearse(checked, folder, watcher)
        print(rehearsal_text(checked, found))


def carry_out(recipe: Recipe, folder: Path, tensorboard: bool = False) -> None:
    """Run a checked recipe in a folder, show its progress, and say where things are and what did not hold."""
    from attar.cli.show import shower
    from attar.pipeline import run
    from attar.pipeline.finish import not_held
    from attar.report import verdict_line
    from attar.train import Ranks

    with under_way(folder), shower(quiet=not Ranks.here().first) as watcher:
        facts = run(recipe, folder, watcher, tensorboard=tensorboard)
    if not facts:  # torchrun started several ranks, and this is not the first
        return
    print(f"\n{verdict_line(facts)}")
    print(f"report:   {folder / 'artifact' / 'report.md'}")
    print(f"artifact: {folder / 'artifact'}")
    if tensorboard:
        print(f"curves:   tensorboard --logdir {folder / 'tensorboard'}")
    if failed := not_held(recipe, facts):
        end(" ".join("; ".join(failed).split()), FAILED)


@app.command()
def summary(
    model: Annotated[
        str, typer.Argument(help="A builder: resnet20, timm:NAME, torchvision:NAME, package.module:function.")
    ],
    widths: Widths = None,
    argument: Argument = None,
    input: Input = "1,28,28",
    classes: Classes = 10,
) -> None:
    """Print a network's layers, parameters, MACs and memory."""
    with explained():
        shape, given = numbers(input, "--input", 3), builder_arguments(widths, argument)
        import attar
        from attar.pipeline.session import built

        print(attar.summary(built(model, given, shape[0], classes), tuple(shape)))


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A builder, as for summary.")],
    params: Annotated[str | None, typer.Option(help="Most parameters: a count, 100k, or a share such as 50%.")] = None,
    macs: Annotated[str | None, typer.Option(help="Most multiply-accumulates of one image; likewise.")] = None,
    bytes: Annotated[str | None, typer.Option(help="Most bytes of the file of weights; likewise.")] = None,
    latency: Annotated[str | None, typer.Option(help="Most seconds of a batch here: 0.005, 5ms, or a share.")] = None,
    batch: Annotated[int, typer.Option(help="Images in the batch whose latency is measured.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads that latency is measured with.")] = 1,
    weights: Annotated[
        Path | None,
        typer.Option(help="Trained weights to rank by: safetensors, or a state dict.", show_default="random"),
    ] = None,
    widths: Widths = None,
    argument: Argument = None,
    input: Input = "1,28,28",
    classes: Classes = 10,
    allocation: Annotated[str, typer.Option(help="even, global or isomorphic.")] = "global",
    importance: Annotated[str, typer.Option(help="The criterion that ranks units.")] = "group_norm",
    protect: Annotated[
        list[str] | None, typer.Option(help="Name or pattern of what stays whole; repeat for more.")
    ] = None,
    round_to: Annotated[int, typer.Option(help="Widths are kept multiples of this.")] = 1,
) -> None:
    """Dry run of a cut: what would go, widths and cost before and after, the smallest reachable. Changes nothing."""
    with explained():
        from attar.recipe import Budget

        if model.endswith(".toml"):
            raise ValueError(f"{model} is a recipe; what its cut would take is told by: attar run {model} --dry-run")
        budget = Budget(limit(params), limit(macs), limit(bytes), latency, batch, threads)
        shape, given = numbers(input, "--input", 3), builder_arguments(widths, argument)
        from attar.cli.plan import plan_text
        from attar.pipeline.plan import plan as plan_cut

        settings = {"allocation": allocation, "importance": importance, "protect": protect or (), "round_to": round_to}
        with planning():
            planned = plan_cut(model, given, shape, classes, budget, weights, settings)
        print(f"{model} under {budget}\n\n{plan_text(planned)}")
        if weights is None:
            print("the network's weights are random: --weights FILE ranks by trained ones")


@app.command()
def models() -> None:
    """List the networks that attar builds itself."""
    with explained():
        from attar.models import builders

        print("\n".join(builders()))


@app.command()
def load(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    allow: Allow = None,
) -> None:
    """Open an artifact and print what is in it."""
    with explained():
        import attar

        model = attar.load(artifact, allow=allow or ())
        print(attar.summary(model, model.artifact.input.size))


@app.command("eval")
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    data: Annotated[str | None, typer.Option(help="Data to evaluate on.", show_default="what it was made for")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data's files are.")] = None,
    view: Annotated[str | None, typer.Option(help="onnx, int8 or pt2.", show_default="the network in torch")] = None,
    allow: Allow = None,
) -> None:
    """Measure an artifact's accuracy on the test images of a data set."""
    with explained():
        from attar.pipeline import evaluate_artifact
        from attar.report import wilson_interval

        found, name = evaluate_artifact(artifact, data, folder, allow or (), view)
        low, high = wilson_interval(found.correct, found.images)
        print(f"{found.accuracy:.2%} [{low:.2%}, {high:.2%}] on {found.images:,} test images of {name}")


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    allow: Allow = None,
) -> None:
    """Check hashes, counts, golden outputs and the budget. Exit code 0 if all hold, 1 if one does not, 2 without an artifact."""
    with explained():
        import attar
        from attar.artifact.manifest import check_folder

        check_folder(artifact)
        verification = attar.verify(artifact, allow=allow or ())
        print(plain(str(verification)))
        if not verification.passed:
            raise typer.Exit(FAILED)


def main() -> None:
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:  # closed by whoever started this
            setattr(sys, name, Told(stream))
    if sys.platform == "darwin":  # read when torch is loaded: what MPS lacks, the CPU does
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    app()
