"""A small network, its artifact, and the means to harm it."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_structure, treespec_dumps

from attar.artifact import save
from attar.models import BuilderSpec
from attar.prune.graph import numbers

SPEC = BuilderSpec("resnet20", {"widths": (4, 6, 8), "classes": 3})


def images(count: int = 8, size: tuple[int, int, int] = (1, 8, 8)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, *size), dtype=torch.uint8, generator=generator)


def network(spec: BuilderSpec = SPEC) -> nn.Module:
    """Freshly made, with BatchNorm statistics that are not those of a fresh one."""
    torch.manual_seed(0)
    model = spec.build()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def save_network(folder: Path, model: nn.Module, spec: BuilderSpec | None = SPEC, **changes) -> Path:
    arguments = {
        "input_size": (1, 8, 8),
        "mean": (0.3,),
        "std": (0.4,),
        "golden": images(),
        "class_names": ("a", "b", "c"),
        "budget": {"params": 10_000},
        "extras": {"report.json": "{}", "plots/frontier.txt": b"points"},
    }
    return save(folder, model, spec, **(arguments | changes))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and mend the manifest, as somebody would who wants to be believed."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_architecture(folder: Path, **changes) -> None:
    data = json.loads((folder / "arch.json").read_text()) | changes
    rewrite(folder, "arch.json", json.dumps(data).encode())


def node(name: str, op: str, target: str, *args, **changes) -> dict:
    """One entry of a captured graph as arch.json holds it."""
    return {"name": name, "op": op, "target": target, "args": list(args), "kwargs": {"dict": {}}} | changes


TAKE = node("x", "placeholder", "x")
GIVE = node("output", "output", "output", [{"node": "x"}])


def put_graph(folder: Path, *nodes: dict) -> None:
    """Let the artifact's first block run these nodes in place of its own code."""
    inputs, outputs = (treespec_dumps(tree_structure(call)) for call in (((0,), {}), 0))
    graph = {"nodes": nodes, "numbers": numbers([torch.zeros(1)]), "inputs": inputs, "outputs": outputs}
    surgery = {"tensors": {}, "attributes": {}, "graphs": {"layer1": {"graphs": [graph], "constants": {}}}}
    change_architecture(folder, surgery=surgery)
