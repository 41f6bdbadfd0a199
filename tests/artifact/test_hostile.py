"""Artifacts that were harmed, cut short, or made to harm: refused clearly, and nothing that they name is run."""

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save
from saved_artifacts import GIVE, TAKE, change_architecture, images, network, node, put_graph, rewrite, save_network
from torchvision_ops import define_missing_operators

from attar.artifact import ArtifactError, classify, export_pt2, load, predict, verify
from attar.artifact.limits import bounded
from attar.prune.shipped import shipped

define_missing_operators()


INPUT = {"size": [1, 8, 8], "mean": [0.3], "std": [0.4]}


def assert_refused(folder: Path, words: str) -> None:
    """Loading raises ArtifactError with the words; verifying fails without raising, and says them too."""
    with pytest.raises(ArtifactError, match=words):
        load(folder)
    found = verify(folder)
    assert not found.passed
    assert any(check.passed is False for check in found.checks) and "FAIL" in str(found)


@pytest.mark.parametrize("name", ["model.safetensors", "arch.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "extend", "empty", "remove"])
def test_harmed_files(artifact, name, harm):
    path = artifact / name
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(
            {
                "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "truncate": content[:middle],
                "extend": content + b"\0",
                "empty": b"",
            }[harm]
        )
    assert_refused(artifact, f"{name} (is|has|is missing)")


def test_files_that_only_verify_reads(artifact):
    (artifact / "report.json").write_text('{"accuracy": 1}')
    (artifact / "golden.safetensors").write_bytes(b"x" * 100)
    (artifact / "more.bin").write_bytes(b"?")
    (artifact / ".DS_Store").write_bytes(b"not of interest")
    load(artifact)
    failed = {check.name for check in verify(artifact).checks if check.passed is False}
    assert failed == {"file report.json", "file golden.safetensors", "no other files", "golden batch"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\x80\x04]",
        b'{"format": "attar artifact", "version": 1}',
        b'{"format": "attar artifact", "version": 2, "files": {}}',
        b'{"format": "attar artifact", "version": 1.0, "files": {}}',
        b'{"format": "attar artifact", "version": true, "files": {}}',
        b'{"format": "attar artifact", "version": 1, "files": {"arch.json": 3}}',
        b'{"format": "attar artifact", "version": 1, "files": {"arch.json": {"bytes": -1, "sha256": "00"}}}',
        b'{"format": "attar artifact", "version": 1, "files": {"a": {}, "a": {}}}',
        b"[" * 100_000,
    ],
)
def test_manifests_that_are_none(artifact, content):
    (artifact / "manifest.json").write_bytes(content)
    assert_refused(artifact, "manifest.json")


def test_sizes_that_no_file_has(artifact):
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["bytes"] = 10**30
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(artifact, "not the file that was saved")


def test_what_is_no_folder(tmp_path, artifact):
    assert_refused(tmp_path / "nowhere", "no folder")
    assert_refused(artifact / "arch.json", "no folder")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "no artifact")


def test_another_version_is_named(artifact):
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps(manifest | {"version": 7}))
    assert_refused(artifact, "version 7, this attar reads version 1; a newer attar")


def test_another_version_of_the_architecture(artifact):
    change_architecture(artifact, version=2)
    assert_refused(artifact, "arch.json has format version 2")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", "..", ".", "a//b", "C:\\x", "a\0b", ""])
def test_names_that_leave_the_folder(artifact, name):
    (artifact.parent / "secret").write_text("x")
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(artifact, "no name for a file")


@pytest.mark.parametrize("name", ["model.safetensors", "arch.json", "manifest.json", "report.json"])
def test_links_are_not_followed(artifact, name):
    elsewhere = artifact.parent / "elsewhere"
    shutil.move(artifact / name, elsewhere)
    (artifact / name).symlink_to(elsewhere)
    if name == "report.json":
        assert [c.name for c in verify(artifact).checks if c.passed is False] == ["file report.json"]
    else:
        assert_refused(artifact, f"{name}.*link")


def test_a_linked_subfolder_is_not_followed(artifact):
    shutil.move(artifact / "plots", artifact.parent / "plots")
    (artifact / "plots").symlink_to(artifact.parent / "plots")
    assert not verify(artifact).passed


def test_a_pipe_does_not_hang(artifact):
    (artifact / "model.safetensors").unlink()
    os.mkfifo(artifact / "model.safetensors")
    assert_refused(artifact, "no plain file")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"builder": {"name": "os:system", "arguments": {"command": "touch ran"}}}, "'os:system'.*nothing was run"),
        ({"builder": {"name": "harmful:build", "arguments": {}}}, "'harmful:build'.*nothing was run"),
        ({"builder": {"name": "attar.models:build", "arguments": {"name": "resnet20"}}}, "nothing was run"),
        ({"builder": {"name": "timm:hf-hub:someone/net", "arguments": {}}}, "timm has no network"),
        ({"builder": {"name": "timm:local-dir:elsewhere", "arguments": {}}}, "timm has no network"),
        (
            {"builder": {"name": "timm:resnet10t", "arguments": {"pretrained": True}}},
            r"weights from elsewhere \(pretrained",
        ),
        ({"builder": {"name": "timm:resnet10t", "arguments": {"checkpoint_path": "x.pth"}}}, "weights from elsewhere"),
        ({"builder": {"name": "torchvision:resnet18", "arguments": {"weights": "DEFAULT"}}}, "weights from elsewhere"),
        ({"builder": {"name": "torchvision:../x", "arguments": {}}}, "torchvision has no classifier"),
        ({"builder": {"name": "resnet20", "arguments": {"widths": [4, 6, 8], "class": 3}}}, "no argument 'class'"),
        ({"builder": {"name": "resnet20", "arguments": {"widths": [4, 6]}}}, "3 whole numbers"),
        ({"builder": {"name": "resnet20", "arguments": {"widths": [4, 6, 8], "classes": 4}}}, r"fc\.(weight|bias) is"),
        ({"builder": {"name": "resnet32", "arguments": {"widths": [4, 6, 8], "classes": 3}}}, "lacks layer1.3"),
        ({"builder": {"name": ":", "arguments": {}}}, "names no network"),
        ({"builder": "resnet20"}, "builder is"),
        ({"builder": {"name": "resnet20"}}, "builder is"),
        ({"builder": None}, "pass builder="),
        ({"input": [1, 8, 8]}, "input must"),
        ({"input": INPUT | {"size": [1, 8]}}, "input size"),
        ({"input": INPUT | {"size": [1, 8, 1 << 40]}}, "input size"),
        ({"input": INPUT | {"size": [1, 8, 8.0]}}, "input size"),
        ({"input": INPUT | {"mean": ["0.3"]}}, "mean"),
        ({"input": INPUT | {"std": [0]}}, "std"),
        ({"input": INPUT | {"std": 0.4}}, "std"),
        ({"dtype": "object"}, "dtype"),
        ({"dtype": ["float32"]}, "dtype"),
        ({"dtype": "float64"}, "float32.*float64"),
        ({"class_names": "abc"}, "class_names"),
        ({"budget": {"params": "many"}}, "budget"),
        ({"budget": {"params": 10**400}}, "budget"),
        ({"counts": {"params": -1}}, "counts"),
        ({"input": INPUT | {"mean": [10**400]}}, "mean"),
        ({"budget": {"__class__": 1}}, "budget"),
        ({"counts": [1]}, "counts"),
        ({"surgery": "none"}, "surgery"),
        ({"hooks": "harmful:build"}, "keys"),
    ],
)
def test_architectures_made_to_harm(artifact, changes, words, monkeypatch):
    ran = artifact.parent / "ran"
    (artifact.parent / "harmful.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(artifact.parent)
    monkeypatch.chdir(artifact.parent)
    change_architecture(artifact, **changes)
    assert_refused(artifact, words)
    assert not ran.exists() and "harmful" not in sys.modules


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("resnet20", {"widths": [1 << 20, 1 << 20, 1 << 20], "classes": 3}, "takes more than 1,024 MB"),
        ("resnet20", {"widths": [4, 6, 1 << 60], "classes": 3}, "number above 1,048,576"),
        ("resnet20", {"widths": [4, 6, 0], "classes": 3}, "whole number"),
        ("resnet50", {"widths": [4096, 4096, 4096, 4096]}, "takes more than"),
        ("torchvision:resnet18", {"num_classes": 1 << 20}, "takes more than"),
        ("timm:vit_tiny_patch16_224", {"depth": 10**6, "embed_dim": 3, "num_heads": 1}, "more than 200,000 steps"),
        ("timm:vit_tiny_patch16_224", {"depth": 10**4, "embed_dim": 3, "num_heads": 1}, "more than 20,000 parts"),
        ("timm:vit_tiny_patch16_224", {"embed_dim": 3 << 18}, "takes more than"),
        ("timm:vit_tiny_patch16_224", {"img_size": 1 << 20}, "takes more than"),
        ("timm:resnet18", {"in_chans": 10**6}, "takes more than"),
        ("timm:resnet18", {"block": "os.system"}, "cannot be built"),
    ],
)
def test_bombs_of_shapes_are_refused_before_memory_is_taken(artifact, name, arguments, words):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change_architecture(artifact, builder={"name": name, "arguments": arguments})
    with pytest.raises(ArtifactError, match=words):
        load(artifact)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5 * (1 << 20)  # kilobytes: 1.5 GB


def test_bounds_leave_nothing_behind():
    with pytest.raises(ArtifactError), bounded(1000):
        torch.nn.Linear(100, 100)
    assert torch.nn.Linear(100, 100).weight.numel() == 10_000
    with bounded(40_000), pytest.raises(ArtifactError):
        [torch.nn.Linear(100, 10) for _ in range(11)]  # all together


def header(tensors: dict, extra: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + extra


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 1 << 62) + b"{}",
        header({"fc.bias": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"fc.bias": {"dtype": "F32", "shape": [1 << 31, 1 << 31, 1 << 31], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"fc.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 50]}}, b"\0" * 4),
        header({"fc.bias": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"fc.bias": {"dtype": "object", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        b"\x80\x05\x95cos\nsystem\n(S'touch ran'\ntR.",
    ],
)
def test_weights_files_that_are_none(artifact, content):
    rewrite(artifact, "model.safetensors", content)
    assert_refused(artifact, "cannot be read as safetensors")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("conv1.weight"), "lacks conv1.weight"),
        (lambda w: w.update({"layer9.weight": torch.zeros(1)}), "has layer9.weight, which the network has not"),
        (lambda w: w.update({f"x{i}": torch.zeros(1) for i in range(9)}), "x0, x1, x2, x3, x4 and 4 more"),
        (lambda w: w.update({"fc.bias": torch.zeros(4)}), r"fc.bias is float32 \[4\].*float32 \[3\]"),
        (lambda w: w.update({"fc.bias": torch.zeros(3, dtype=torch.float64)}), "fc.bias is float64"),
        (lambda w: w.update({"bn1.num_batches_tracked": torch.zeros(())}), "num_batches_tracked is float32"),
        (lambda w: w.update({"fc.bias": torch.tensor([0, torch.nan, 0])}), "fc.bias holds NaN"),
        (lambda w: w.update({"fc.bias": torch.tensor([0, -torch.inf, 0])}), "fc.bias holds NaN or infinite"),
        (lambda w: w.update({"bn1.running_var": torch.full((4,), torch.nan)}), "bn1.running_var holds NaN"),
    ],
)
def test_weights_that_do_not_fit(artifact, change, words):
    tensors = load_file(artifact / "model.safetensors")
    change(tensors)
    rewrite(artifact, "model.safetensors", save(tensors))
    assert_refused(artifact, words)


def test_verify_counts_for_itself(artifact):
    counts = json.loads((artifact / "arch.json").read_text())["counts"]
    change_architecture(artifact, counts=counts | {"params": 99}, budget={"params": 99})
    load(artifact)
    found = {check.name: check for check in verify(artifact).checks}
    assert found["counts"].passed is False and "recorded 99" in found["counts"].detail
    change_architecture(artifact, counts=counts, budget={"params": counts["params"] - 1})
    found = {check.name: check for check in verify(artifact).checks}
    assert found["counts"].passed and found["budget"].passed is False


def test_verify_does_not_say_that_a_latency_holds(artifact):
    change_architecture(artifact, budget={"params": 10_000, "latency": 0.005})
    found = {check.name: check for check in verify(artifact).checks}["budget"]
    assert found.passed and found.detail.startswith("10,000 params; latency of 5 ms not measured here")
    change_architecture(artifact, budget={"latency": 0.005})
    found = {check.name: check for check in verify(artifact).checks}["budget"]
    assert found.passed is None and "not measured here" in found.detail


def test_other_weights_than_those_of_the_golden_batch(artifact):
    tensors = load_file(artifact / "model.safetensors")
    tensors["fc.bias"][1] += 0.01
    rewrite(artifact, "model.safetensors", save(tensors))
    load(artifact)
    failed = [check for check in verify(artifact).checks if check.passed is False]
    assert [check.name for check in failed] == ["golden batch"] and "0.01" in failed[0].detail


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_other_class_names_than_logits(artifact, names):
    change_architecture(artifact, class_names=names)
    failed = {check.name: check.detail for check in verify(artifact).checks if check.passed is False}
    assert failed == {"golden batch": f"{len(names)} class names for 3 logits"}
    Image.fromarray(images()[0, 0].numpy()).save(artifact.parent / "picture.png")
    with pytest.raises(ArtifactError, match=f"{len(names)} class names for 3 logits"):
        list(classify(artifact, [artifact.parent / "picture.png"]))


@pytest.mark.parametrize("part", ["builder", "surgery"])
def test_deep_nesting(artifact, part):
    deep = json.loads("[" * 700 + "]" * 700)
    arguments = {"widths": [4, 6, 8], "classes": 3}
    builder = {"name": "resnet20", "arguments": {**arguments, "x": deep}}
    surgery = {"tensors": {}, "attributes": {"conv1": {"stride": deep}}}
    change_architecture(artifact, **{part: {"builder": builder, "surgery": surgery}[part]})
    assert_refused(artifact, "arch.json cannot be read: it is nested more than 100 deep")


READ_X = {"node": "x"}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("x", "placeholder", "class"), GIVE],
        [node("x", "placeholder", "2"), GIVE],
        [node("x", "placeholder", "self"), GIVE],
        [node("x", "placeholder", "x.y"), GIVE],
        [node("x", "placeholder", "x", 1), node("y", "placeholder", "y"), GIVE],
        [TAKE, node("y", "placeholder", "x"), GIVE],
        [TAKE, node("x", "placeholder", "y"), GIVE],
        [node("x", "placeholder", "\uff58"), GIVE],
        [TAKE, node("a", "get_attr", "if"), GIVE],
        [TAKE, node("a", "get_attr", "__class__.__init__.__globals__"), GIVE],
        [TAKE, node("a", "get_attr", "0.__dict__"), GIVE],
        [TAKE, node("a", "get_attr", "_\uff3fclass_\uff3f"), GIVE],
        [TAKE, node("a", "call_function", "aten.relu.default", READ_X, kwargs={"dict": {"if": 1}}), GIVE],
        [TAKE, node("a", "call_function", "aten.relu.default", READ_X, kwargs=3), GIVE],
        [TAKE, 3],
    ],
)
def test_captured_graphs_that_are_no_code(artifact, nodes):
    put_graph(artifact, *nodes)
    assert_refused(artifact, "surgery does not fit the network: .*graph|no name")


def test_a_captured_graph_that_fails_when_it_runs(artifact):
    put_graph(
        artifact, node("x", "placeholder", "torch"), node("y", "call_function", "aten.relu.default", READ_X), GIVE
    )
    with pytest.raises(ArtifactError, match="the network cannot run"):
        predict(load(artifact), images())


def test_an_input_size_without_images_of_it_is_not_run(artifact, monkeypatch):
    def run(self, images):
        assert images.shape[-1] <= 8
        return torch.zeros(len(images), 3)

    monkeypatch.setattr(type(network()), "forward", run)
    change_architecture(artifact, input=INPUT | {"size": [1, 4096, 4096]})
    found = {check.name: check for check in verify(artifact).checks}
    assert found["golden batch"].passed is False and "must be uint8" in found["golden batch"].detail
    assert found["counts"].passed is None and "size" in found["counts"].detail


@pytest.mark.parametrize(
    "name, operands, words",
    [
        ("pow", [10, 10**9], "power beyond"),
        ("pow", [-(10**9), 10**9], "power beyond"),
        ("pow", [1, 10**9], ""),
        ("mul", [2**40, 2**40], "integer above"),
        ("mul", ["x", 10**12], "no numbers"),
        ("mul", [[0], 10**12], "no numbers"),
        ("mod", ["%1000000000d", 1], "no numbers"),
        ("mul", [2**20, 2**20], ""),
        ("pow", [2, 0.5], ""),
    ],
)
def test_arithmetic_of_captured_graphs_is_bounded(artifact, name, operands, words):
    put_graph(artifact, TAKE, node("y", "call_function", f"operator.{name}", *operands), GIVE)
    model = load(artifact)
    found = {check.name: check for check in verify(artifact).checks}
    if words:
        assert words in found["counts"].detail and words in found["golden batch"].detail
        with pytest.raises(ArtifactError, match=words):
            predict(model, images())
    assert found["counts"].detail and ("captured graph" in found["counts"].detail) == bool(words)
    assert shipped(model)["layer1"]["graphs"][0]["nodes"][1]["target"] == f"operator.{name}"


GOLDEN = [
    {},
    {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)},
    {"images": torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "logits": torch.zeros(0, 3)},
    {"images": torch.zeros(2, 1, 8, 8), "logits": torch.zeros(2, 3)},
    {"images": torch.zeros(2, 1, 9, 8, dtype=torch.uint8), "logits": torch.zeros(2, 3)},
    {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "logits": torch.zeros(2, 4)},
    {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "logits": torch.full((2, 3), torch.nan)},
]


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_batches_that_prove_nothing(artifact, golden):
    rewrite(artifact, "golden.safetensors", save(golden))
    assert [check.name for check in verify(artifact).checks if check.passed is False] == ["golden batch"]


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_batches_that_prove_nothing_of_a_view(artifact, golden):
    export_pt2(artifact)
    rewrite(artifact, "golden.safetensors", save(golden))
    found = [check.name for check in verify(artifact, run_programs=True).checks if check.passed is False]
    assert found == ["golden batch", "view model.pt2"]


def test_a_save_that_is_cut_off_leaves_the_old_one(artifact, monkeypatch):
    real = os.fsync
    for last in range(1, 12):
        calls = 0

        def fail(handle: int, last: int = last) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError):
            save_network(artifact, network())
        monkeypatch.setattr(os, "fsync", real)
        assert verify(artifact).passed
        assert [path.name for path in artifact.parent.iterdir()] == ["artifact"]
