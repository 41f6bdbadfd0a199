"""Cut every network of tests/networks.tsv and tests/transformers_networks.py, twice, and write docs/coverage.md from that.

    python scripts/coverage_matrix.py --out build/coverage.jsonl            # all that is not in the file yet
    python scripts/coverage_matrix.py --out build/coverage.jsonl --only vit # names with `vit` in them, again
    python scripts/coverage_matrix.py --out build/coverage.jsonl --part 1/2 # and 2/2 beside it: two at once
    python scripts/coverage_matrix.py --out build/coverage.jsonl --page docs/coverage.md --report

Each network (those of transformers from small configurations) is built with random weights in a process of its own (one
thread, with a time limit), cut evenly to 50 % of every group, built again and cut at a random share of every group. A cut
passes when the proof is under 1e-10 in float64 (masked original against cut network), the answer keeps its shape in eval and
train mode, a train-mode backward pass gives every parameter a finite gradient that had one before, and at least 10 % of the
parameters are gone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from torchvision_ops import define_missing_operators  # noqa: E402

define_missing_operators()

import timm  # noqa: E402
import torchvision  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers_networks import TRANSFORMERS  # noqa: E402

import attar  # noqa: E402
from attar.pipeline.environment import environment  # noqa: E402
from attar.prune import Pruner, count_params  # noqa: E402

CUTS = ("even", "random")


def networks() -> list[dict[str, str]]:
    lines = (ROOT / "tests" / "networks.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    small = [{"library": "transformers", "name": name, "input_size": "64", "parameters": "0"} for name in TRANSFORMERS]
    return [*(dict(zip(names, line.split("\t"))) for line in lines[1:] if line), *small]


def build(library: str, name: str, size: int) -> torch.nn.Module:
    """The network with random weights, made for images of this size where its builder lets one say so."""
    torch.manual_seed(0)
    if library == "transformers":
        return attar.build(f"hf:{name}", classes=10, in_channels=3, **TRANSFORMERS[name])
    if library == "timm":
        try:
            model = timm.create_model(name, pretrained=False, img_size=size)
            model(torch.randn(2, 3, size, size))
            return model
        except (TypeError, RuntimeError):
            return timm.create_model(name, pretrained=False)
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return torchvision.models.get_model(name, weights=None, **options)


def shares(pruner: Pruner, cut: str) -> dict[int, torch.Tensor]:
    """Units that stay: half of every row, or a random share of every group."""
    generator = torch.Generator().manual_seed(1)
    kept = {}
    for index, group in enumerate(pruner.groups):
        if group.protected:
            continue
        row = torch.zeros(group.size, dtype=torch.int64) if group.row is None else group.row
        length = int((row == row[0]).sum())
        share = 0.5 if cut == "even" else float(torch.empty(()).uniform_(0.3, 0.9, generator=generator))
        keep = max(1, int(length * share))
        mask = torch.zeros(group.size, dtype=torch.bool)
        for number in row.unique().tolist():
            units = torch.nonzero(row == number)[:, 0]
            mask[units[torch.randperm(length, generator=generator)[:keep]]] = True
        kept[index] = mask
    return kept


def shapes(model: torch.nn.Module, inputs: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(model(inputs)) if isinstance(leaf, torch.Tensor)]


def try_cut(library: str, name: str, size: int, cut: str) -> dict[str, Any]:
    model = build(library, name, size)
    if name == "inception_v3" and library == "torchvision":
        size = 299  # its auxiliary head cannot train on anything much smaller
    inputs = torch.randn(2, 3, size, size)
    expected = [shapes(model.train(mode), inputs) for mode in (False, True)]
    before = count_params(model)
    start = time.perf_counter()
    pruner = Pruner(model, inputs)
    captured = time.perf_counter()
    done = pruner.cut(shares(pruner, cut))
    end = time.perf_counter()
    model = pruner.model
    same = [shapes(model.train(mode), inputs) for mode in (False, True)] == expected
    model.zero_grad()
    sum(leaf.square().mean() for leaf in tree_leaves(model(inputs)) if isinstance(leaf, torch.Tensor)).backward()
    finite = all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    covered = sum(p.grad is not None for p in model.parameters())
    after = count_params(model)
    good = same and finite and covered > 0 and done.proof < 1e-10 and after <= 0.9 * before
    return {
        "verdict": "pass" if good else "fail",
        "before": before,
        "after": after,
        "proof": done.proof,
        "runs": pruner.mode.partition(",")[0],
        "parts": len(pruner.parts),
        "why": pruner.why_graph,
        "same_shapes": same,
        "capture_seconds": round(captured - start, 2),
        "cut_seconds": round(end - captured, 2),
        "notes": list(done.notes)[:5],
        "reports": list(pruner.reports)[:5],
    }


def work(row: dict[str, str], pipe: Any) -> None:
    torch.set_num_threads(1)
    for cut in CUTS:
        try:
            result = try_cut(row["library"], row["name"], int(row["input_size"]), cut)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {error} [{Path(where.filename).name}:{where.lineno}]"
            result = {"verdict": "refused", "why": message[:1500]}
        pipe.send({**row, "cut": cut, **result})
    pipe.close()


def run(row: dict[str, str], seconds: float) -> list[dict[str, Any]]:
    """Both cuts of one network in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(row, theirs))
    process.start()
    theirs.close()
    results, end = [], time.monotonic() + seconds
    while len(results) < len(CUTS):
        try:
            if not ours.poll(max(0.0, end - time.monotonic())):
                break
            results.append(ours.recv())
        except EOFError:
            break
    for cut in CUTS[len(results) :]:
        why = "time limit" if time.monotonic() >= end else "the process died"
        results.append({**row, "cut": cut, "verdict": "died", "why": why})
    process.kill()
    process.join()
    return results


def read(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The last result of every network and cut."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    return {(row["library"], row["name"], row["cut"]): row for row in rows}


def page(results: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """docs/coverage.md, from results alone."""
    rows = [
        row
        for row in networks()
        if row["library"] != "transformers" or (row["library"], row["name"], "even") in results
    ]
    lines = ["# Coverage", "", "Made by `scripts/coverage_matrix.py` from what it ran; not edited by hand.", ""]
    lines += [__doc__.split("\n\n")[2].replace("\n", " ").strip(), ""]
    ran = len({(library, name) for library, name, _ in results})
    commits = sorted({str(result.get("commit")) for result in results.values()})  # or what is known of it, in words
    lines += [
        f"{ran} of {len(rows)} networks have been run; one that is not listed has not, and counts as not passed. "
        f"The code was that of commit {', '.join(commits)}.",
        "",
    ]
    lines += [
        "A network runs its own code (`module`) after a cut, or its captured graph (`graph`) where its own cannot follow. "
        "Where single modules cannot (attention that takes the width of its heads from what comes in), only these run "
        "their part of the graph, and the table says how many.",
        "",
        "| set | networks | both cuts pass | even 50 % | random | own module (both) | and no part of it a graph (both) "
        "| Torch-Pruning 1.6.1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for library in ("torchvision", "timm", "transformers"):
        mine = [row for row in rows if row["library"] == library]
        if not mine:
            continue
        found = [[results.get((library, row["name"], cut), {}) for cut in CUTS] for row in mine]
        passed = [[r.get("verdict") == "pass" for r in pair] for pair in found]
        own = [all(p) and all(r.get("runs") == "module" for r in pair) for p, pair in zip(passed, found)]
        alone = sum(o and not any(r.get("parts") for r in pair) for o, pair in zip(own, found))
        theirs = sum(row["torch_pruning_1.6.1"] != "fail" for row in mine) if library != "transformers" else "not tried"
        lines.append(
            f"| {library} | {len(mine)} | {sum(map(all, passed))} | {sum(p[0] for p in passed)} | "
            f"{sum(p[1] for p in passed)} | {sum(own)} | {alone} | {theirs} |"
        )
    lines += ["", "| network | input | cut | verdict | parameters | error | runs | seconds (capture, cut) | remark |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for cut in CUTS:
            r = results.get((row["library"], row["name"], cut))
            if r is None:
                continue
            label = f"| {row['library']}:{row['name']} | {row['input_size']} | {cut} | {r['verdict']} |"
            if "after" in r:
                label += f" {r['before']:,} → {r['after']:,} | {r['proof']:.1e} | {r['runs']}"
                label += f", {r['parts']} parts |" if r.get("parts") else " |"
                label += f" {r['capture_seconds']}, {r['cut_seconds']} | |"
            else:
                label += (
                    f" {int(row['parameters']):,} | | | | {r['why'][:160].replace('|', '/').replace(chr(10), ' ')} |"
                )
            lines.append(label)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, one JSON object a line; read to go on")
    parser.add_argument("--only", default="", help="run networks with this in their name, again")
    parser.add_argument("--largest", type=float, default=float("inf"), help="skip networks with more parameters")
    parser.add_argument("--part", default="1/1", help="2/3: of three processes that share a file, what the second does")
    parser.add_argument("--seconds", type=float, default=600, help="time limit for a network")
    parser.add_argument("--failed", action="store_true", help="run again what did not pass")
    parser.add_argument("--graphs", action="store_true", help="run again what ran its captured graph")
    parser.add_argument("--count", type=int, default=10**6, help="stop after so many networks")
    parser.add_argument("--page", type=Path, help="write the page here")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    results = read(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    commit = environment()["commit"]
    rows = sorted(networks(), key=lambda r: int(r["parameters"]))[part - 1 :: parts]
    for row in [] if options.report else rows:
        keys = [(row["library"], row["name"], cut) for cut in CUTS]
        wanted = options.only in row["name"] if options.only else not all(key in results for key in keys)
        if options.failed:
            wanted = any(results.get(key, {}).get("verdict") != "pass" for key in keys) and options.only in row["name"]
        if options.graphs:
            wanted = any(results.get(key, {}).get("runs") == "graph" for key in keys) and options.only in row["name"]
        if not wanted or int(row["parameters"]) > options.largest:
            continue
        options.count -= 1
        if options.count < 0:
            break
        for result in run({**row, "commit": commit}, options.seconds):
            results[result["library"], result["name"], result["cut"]] = result
            with options.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(
                f"{result['library']}:{result['name']:<34} {result['cut']:<7} {result['verdict']:<8} {result.get('runs', ''):<7}"
                f"{result.get('proof', float('nan')):9.1e}  {result.get('why', '')[:200]}",
                flush=True,
            )
    if options.page:
        options.page.write_text(page(results))


if __name__ == "__main__":
    main()
