"""Artifacts whose files would take all memory, never end, or hang who opens them: refused in words."""

import io
import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from saved_artifacts import GIVE, TAKE, change_architecture, node, put_graph, rewrite

from attar.artifact import ArtifactError, bench, load, open_view, verify
from attar.artifact.limits import within_memory
from attar.artifact.pt2_view import check_entry
from attar.operations import operation_named
from attar.pipeline import evaluate_artifact
from attar.prune import families, propagate

FLAT = [helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["f"], ["flat"])]
FIRST = helper.make_node("Slice", ["flat", "zero", "three", "one"], ["first"])
NUMBERS = {"zero": [0], "three": [3], "one": [1], "many": [10**10], "trips": 2**62, "yes": True}


def onnx_file(nodes: list, functions: list = ()) -> bytes:
    """An ONNX file with an artifact's inputs and outputs, and these nodes in it."""
    pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    numbers = [
        numpy_helper.from_array(np.array(v, dtype=bool if k == "yes" else np.int64), k) for k, v in NUMBERS.items()
    ]
    graph = helper.make_graph([*FLAT, FIRST, *nodes], "g", [pixels], [logits], numbers)
    opsets = [helper.make_opsetid("", 18), *[helper.make_opsetid("own", 1) for _ in functions]]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)
    return model.SerializeToString()


def loop() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return onnx_file([helper.make_node("Loop", ["trips", "yes", "first"], ["logits"], body=body)])


def bomb() -> bytes:
    return onnx_file([
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["first", "sum"], ["logits"]),
    ])  # fmt: skip


def own_function() -> bytes:
    same = [helper.make_node("Identity", ["x"], ["y"])]
    function = helper.make_function("own", "Same", ["x"], ["y"], same, [helper.make_opsetid("", 18)])
    return onnx_file([helper.make_node("Same", ["first"], ["logits"], domain="own")], [function])


def other_domain() -> bytes:
    return onnx_file([helper.make_node("EPContext", ["first"], ["logits"], domain="com.microsoft")])


def for_training() -> bytes:
    model = onnx.load_from_string(onnx_file([helper.make_node("Identity", ["first"], ["logits"])]))
    model.training_info.add().algorithm.name = "steps"
    return model.SerializeToString()


@pytest.mark.parametrize(
    "make, words", [(other_domain, "EPContext of 'com.microsoft'"), (for_training, "for training")]
)
def test_what_is_not_of_the_standard_is_refused(artifact, make, words):
    rewrite(artifact, "model.onnx", make())
    with pytest.raises(ArtifactError, match=words):
        open_view(artifact, "model.onnx")
    assert {check.name for check in verify(artifact).checks if check.passed is False} == {"view model.onnx"}


@pytest.mark.parametrize("make, words", [(loop, "repeats itself .Loop"), (own_function, "functions of its own")])
def test_graphs_that_could_run_forever(artifact, make, words):
    onnx.checker.check_model(onnx.load_from_string(make()))
    rewrite(artifact, "model.onnx", make())
    with pytest.raises(ArtifactError, match=words):
        open_view(artifact, "model.onnx")
    failed = {check.name for check in verify(artifact).checks if check.passed is False}
    assert failed == {"view model.onnx"}
    assert "FAIL" in str(verify(artifact)) and bench(artifact, "onnx", batches=(1,), seconds=0).error


def test_an_onnx_file_that_wants_more_memory_than_there_may_be(artifact):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    rewrite(artifact, "model.onnx", bomb())
    failed = {check.name: check.detail for check in verify(artifact).checks if check.passed is False}
    assert set(failed) == {"view model.onnx"} and "ONNX Runtime cannot run the file" in failed["view model.onnx"]
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # kilobytes


def test_the_limit_on_memory_ends_with_the_context():
    pytest.importorskip("resource")
    with pytest.raises(MemoryError), within_memory(1 << 28):
        bytearray(1 << 30)
    assert len(bytearray(1 << 30)) == 1 << 30


def test_images_larger_than_any(artifact):
    change_architecture(artifact, input={"size": [1, 65536, 65536], "mean": [0.3], "std": [0.4]})
    with pytest.raises(ArtifactError, match="no image is that large"):
        load(artifact)
    assert not verify(artifact).passed


def test_a_file_full_of_holes(artifact):
    with (artifact / "model.safetensors").open("r+b") as file:
        file.truncate(40 << 30)
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["bytes"] = 40 << 30
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="larger than"):
        load(artifact)


def test_a_report_that_is_a_pipe_or_names_code_or_the_net(artifact):
    for source, words in (("os:getcwd", "to run that code"), ("hf:someone/something", "say --data")):
        rewrite(artifact, "report.json", json.dumps({"recipe": {"data": {"source": source, "folder": None}}}).encode())
        with pytest.raises(ValueError, match=words):
            evaluate_artifact(artifact)
    (artifact / "report.json").unlink()
    os.mkfifo(artifact / "report.json")
    with pytest.raises(ValueError, match=r"no plain file|has no report.json"):
        evaluate_artifact(artifact)


def write_program(folder: Path, model: dict) -> None:
    """A model.pt2 that holds this and nothing else."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/models/model.json", json.dumps(model))
    rewrite(folder, "model.pt2", content.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.from_file.out",
        "aten.save.default",
        "aten.set_.source_Storage",
        "aten.manual_seed.default",
        "aten.pow.int_to_int",
        "aten._cummax_helper.default",
        "aten._reshape_alias.default",
        "aten._sparse_coo_tensor_unsafe.default",
        # these write past their memory where indices, lengths or scales are not what their callers make
        "aten.max_pool2d_with_indices_backward.default",
        "aten._embedding_bag.default",
        "aten.lstm.input",
        "aten.rnn_tanh.data",
        "aten.special_legendre_polynomial_p.n_scalar",  # this one takes for ever
        "aten.segment_reduce.default",
        "aten.ctc_loss.IntList",
        "aten._weight_norm_interface.default",
        "aten._upsample_bilinear2d_aa.default",
        "aten.native_batch_norm.default",
        "aten.repeat_interleave.Tensor",  # lengths whose sum overflows
        "aten.add.out",
        "aten.__init__.__func__",
    ],
)
def test_operations_that_reach_beyond_tensors(artifact, name):
    write_program(artifact, {"target": f"torch.ops.{name}"})
    assert [check.name for check in verify(artifact).checks if check.passed is False] == ["view model.pt2"]
    with pytest.raises(ArtifactError, match="no tensor operation"):
        open_view(artifact, "model.pt2")
    put_graph(artifact, TAKE, node("y", "call_function", name, {"node": "x"}), GIVE)
    with pytest.raises(ArtifactError, match=r"no tensor operation|no operation of torch"):
        load(artifact)


@pytest.mark.parametrize(
    ("name", "given", "in_program"),
    [
        ("aten._to_copy.default", {"dtype": 255}, {"as_int": 255}),
        ("aten.zeros_like.default", {"layout": 7}, {"as_int": 7}),
        ("aten.clone.default", {"memory_format": -1}, {"as_int": -1}),
        ("aten.clone.default", {"memory_format": {"node": "x"}}, {"as_tensor": {"name": "x"}}),
        ("aten.zeros_like.default", {"dtype": {"dtype": "quint8"}}, None),
        ("aten.div.Scalar_mode", {"other": -1, "rounding_mode": "trunc"}, {"as_string": "trunc"}),
        ("aten.grid_sampler.default", {"grid": {"node": "x"}, "interpolation_mode": 7}, {"as_int": 7}),
    ],
)
def test_what_operations_take_without_looking(artifact, name, given, in_program):
    """torch reads past its tables for such a type or layout, divides -2**63 by -1, or leaves memory as it finds it."""
    bad = list(given)[-1]
    words = f"{name.split('.')[1]} may not be given {bad}="
    put_graph(artifact, TAKE, node("y", "call_function", name, {"node": "x"}, kwargs={"dict": given}), GIVE)
    with pytest.raises(ArtifactError, match=words):
        load(artifact)
    if in_program is None:
        return
    inputs = [{"name": bad, "arg": in_program, "kind": 2}]
    write_program(artifact, {"nodes": [{"target": f"torch.ops.{name}", "inputs": inputs, "outputs": []}]})
    with pytest.raises(ArtifactError, match=words):
        open_view(artifact, "model.pt2")


def test_arguments_of_a_program_stand_in_their_places(artifact):
    inputs = [{"name": name, "arg": {"as_int": 1}, "kind": 1} for name in ("self", "alpha")]
    write_program(artifact, {"nodes": [{"target": "torch.ops.aten.add.Tensor", "inputs": inputs, "outputs": []}]})
    with pytest.raises(ArtifactError, match="out of their places"):
        open_view(artifact, "model.pt2")


@pytest.mark.parametrize(
    "name", ["aten.relu_.default", "aten.__and__.Tensor", "aten.einsum.default", "aten._assert_scalar.default"]
)
def test_operations_that_networks_are_made_of(name):
    assert str(operation_named(f"torch.ops.{name}")) == name


def test_what_the_engine_follows_may_be_named():
    """But for what does not hold its arguments against memory, and numbers' types, which are operations of Python."""
    names = {*propagate.RULES, *families.MOVES, *families.SAME, *families.UNSET, "randint", "randperm"}
    packets = {name: getattr(torch.ops.aten, name, None) for name in names}
    refused = {
        name
        for name, packet in packets.items()
        if packet is not None and not any(may_be_named(name, overload) for overload in packet.overloads())
    }
    assert refused == {"_native_batch_norm_legit_functional", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}


def may_be_named(name: str, overload: str) -> bool:
    try:
        operation_named(f"torch.ops.aten.{name}.{overload}")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("expression", ["1" * 30 + "x", "-1" * 30 + "x", "(" * 20_000, "Mul(" * 2000 + "2**9"])
def test_expressions_that_take_for_ever(artifact, expression):
    write_program(artifact, {"expr_str": expression})
    start = time.process_time()
    assert next(check.detail for check in verify(artifact).checks if check.passed is False).endswith("which is no size")
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "expression", ["Symbol('s77', positive=True, integer=True)", "Add(Mul(Integer(-2), Symbol('u0')), -1)"]
)
def test_expressions_that_are_sizes(expression):
    check_entry("expr_str", expression)
