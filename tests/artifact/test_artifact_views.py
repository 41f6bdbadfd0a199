"""ONNX, int8 and pt2 views: they compute what the network does, without attar; what is no network is not opened."""

import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from saved_artifacts import images, network, rewrite, save_network
from torch import nn

from attar.artifact import (
    ArtifactError,
    evaluate,
    export_onnx,
    export_pt2,
    load,
    open_view,
    predict,
    quantise_int8,
    verify,
    view_names,
)
from attar.data import load_data
from attar.models import BuilderSpec, build

SPEC = BuilderSpec("resnet20", {"widths": [8, 12, 16]})


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """An artifact with all views of a network that knows digits."""
    data = load_data("digits")
    torch.manual_seed(0)
    model = build(SPEC.name, **SPEC.arguments)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    x = (data.images.float() - 76.5) / 102
    for _ in range(8):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), data.labels[batch]).backward()
            optimiser.step()
    folder = save_network(
        tmp_path_factory.mktemp("views") / "digits",
        model,
        SPEC,
        golden=data.images[:32],
        class_names=data.class_names,
        budget={},
    )
    assert export_onnx(folder).agrees
    assert export_pt2(folder).agrees
    assert quantise_int8(folder, data.images[:512]).agrees
    return folder


@pytest.fixture
def harmed(trained, tmp_path) -> Path:
    """A copy to be harmed."""
    return Path(shutil.copytree(trained, tmp_path / "artifact"))


def test_all_views_do_as_the_network_does(trained):
    data = load_data("digits")
    eager = evaluate(load(trained), data.test_images, data.test_labels)
    assert eager.accuracy > 0.93
    assert view_names(trained) == ["model.onnx", "model.int8.onnx", "model.pt2"]
    for name, limit in (("model.onnx", 0), ("model.pt2", 0), ("model.int8.onnx", 3)):
        found = evaluate(open_view(trained, name, threads=1), data.test_images, data.test_labels, batch=100)
        assert (found.predictions != eager.predictions).sum() <= limit, name
    assert verify(trained, run_programs=True).passed


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "model.pt2"])
@pytest.mark.parametrize("batch", [1, 2, 77])
def test_the_batch_is_free(trained, name, batch):
    data = load_data("digits")
    wanted = predict(load(trained), data.test_images[:batch])
    assert torch.allclose(predict(open_view(trained, name), data.test_images[:batch]), wanted, atol=0.2)


def without_attar(code: str, *arguments: str) -> str:
    """Run code in a Python that cannot import attar."""
    blocked = "import sys; sys.modules['attar'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_onnx_runs_without_attar_and_without_torch(trained):
    code = """
import numpy, onnxruntime, json, struct
sys.modules['torch'] = None
raw = open(sys.argv[1] + '/golden.safetensors', 'rb').read()
size = struct.unpack('<Q', raw[:8])[0]
head = json.loads(raw[8:8 + size])
def tensor(name, kind):
    start, end = head[name]['data_offsets']
    return numpy.frombuffer(raw[8 + size + start:8 + size + end], kind).reshape(head[name]['shape'])
for name in ('model.onnx', 'model.int8.onnx'):
    session = onnxruntime.InferenceSession(sys.argv[1] + '/' + name)
    found = session.run(['logits'], {'images': tensor('images', 'uint8')})[0]
    print(name, abs(found - tensor('logits', 'float32')).max(), session.get_modelmeta().custom_metadata_map)
"""
    lines = without_attar(code, str(trained)).splitlines()
    differences = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert differences["model.onnx"] < 1e-3 and differences["model.int8.onnx"] < 3
    assert "attar.class_names" in lines[0] and "attar.mean" in lines[1]


def test_pt2_runs_without_attar(trained):
    code = """
import torch
from safetensors.torch import load_file
golden = load_file(sys.argv[1] + '/golden.safetensors')
network = torch.export.load(sys.argv[1] + '/model.pt2').module()
print((network(golden['images']) - golden['logits']).abs().max().item())
"""
    assert float(without_attar(code, str(trained))) < 1e-3


def test_files_tell_nothing_of_where_they_were_made(trained):
    for name in ("model.onnx", "model.int8.onnx", "model.pt2", "arch.json", "model.safetensors"):
        content = (trained / name).read_bytes()
        for trace in (b".py", b"site-packages", b"stack_trace", str(Path.cwd()).encode(), b"/tmp"):
            assert trace not in content, (name, trace)


def test_no_pickle_in_the_pt2(trained):
    with zipfile.ZipFile(trained / "model.pt2") as archive:
        others = [name for name in archive.namelist() if "/weights/weight_" not in name]
        assert all(not archive.read(name).startswith((b"\x80", b"PK")) for name in others)
        assert archive.read("archive/data/sample_inputs/model.pt") == b""


def test_int8_is_int8_by_channel(trained):
    model = onnx.load(trained / "model.int8.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 21
    for node in convolutions:
        pixels, weight = makers[node.input[0]], makers[node.input[1]]
        assert pixels.op_type == weight.op_type == "DequantizeLinear"
        assert tensors[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert abs(onnx.numpy_helper.to_array(tensors[weight.input[0]]).astype(int)).max() == 64
        assert tensors[weight.input[1]].dims == [tensors[weight.input[0]].dims[0]]
        assert tensors[pixels.input[2]].data_type == onnx.TensorProto.UINT8
    sizes = {name: (trained / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")}
    assert sizes["model.int8.onnx"] < 0.7 * sizes["model.onnx"]


def test_int8_says_the_same_by_the_kernels_of_int8_as_by_those_of_float(trained):
    """Processors without VNNI saturate where two products pass 32,767: those kernels must not be asked for that."""
    images = load_data("digits").images[:256].numpy()
    logits = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession((trained / "model.int8.onnx").read_bytes(), options)
        logits.append(session.run(["logits"], {"images": images})[0])
    assert abs(logits[0] - logits[1]).max() < 0.02 * abs(logits[0]).max()


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_ways_to_choose_ranges(harmed, method, capsys):
    view = quantise_int8(harmed, load_data("digits").images[:128], method=method)
    assert view.agrees and "same class" in str(view)
    assert capsys.readouterr() == ("", "")
    assert verify(harmed).passed


def test_int8_needs_the_onnx(artifact):
    with pytest.raises(ArtifactError, match="export it first"):
        quantise_int8(artifact, images())


def test_what_cannot_be_quantised_is_told(harmed):
    good = load_data("digits").images[:8]
    with pytest.raises(ArtifactError, match="method must be one of"):
        quantise_int8(harmed, good, method="best")
    with pytest.raises(ArtifactError, match="must be uint8"):
        quantise_int8(harmed, good.float())
    with pytest.raises(ArtifactError, match="must be uint8"):
        quantise_int8(harmed, good[:0])
    with pytest.raises(ArtifactError, match="cannot run"):
        quantise_int8(harmed, images(8, (1, 9, 9)))


def test_missing_libraries_are_named(harmed, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError, match=r"pip install 'attar\[onnx\]'"):
        open_view(harmed, "model.onnx")
    found = {check.name: check for check in verify(harmed).checks}
    assert found["view model.onnx"].passed is None and "skip" in str(verify(harmed))
    assert verify(harmed).passed
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ArtifactError, match=r"pip install 'attar\[onnx\]'"):
        export_onnx(harmed)


def test_a_view_of_another_network_is_found_out(harmed, tmp_path):
    other = save_network(tmp_path / "other", network(SPEC), SPEC, golden=images(32), class_names=(), budget={})
    export_onnx(other)
    for name in ("model.onnx", "model.int8.onnx"):
        rewrite(harmed, name, (other / "model.onnx").read_bytes())
    failed = {check.name for check in verify(harmed).checks if check.passed is False}
    assert failed == {"view model.onnx", "view model.int8.onnx"}


def test_a_view_of_weights_that_hardly_differ_is_found_out_by_what_it_says(harmed):
    file = onnx.load_from_string((harmed / "model.int8.onnx").read_bytes())
    (fact,) = (fact for fact in file.metadata_props if fact.key == "attar.weights_sha256")
    fact.value = "0" * 64
    rewrite(harmed, "model.int8.onnx", file.SerializeToString())
    (failed,) = (check for check in verify(harmed).checks if check.passed is False)
    assert failed.name == "view model.int8.onnx" and "was made of other weights (000000000000)" in failed.detail


@pytest.mark.parametrize("content", [b"", b"\x08\x07garbage", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_views_that_are_none(harmed, name, content):
    rewrite(harmed, name, content)
    with pytest.raises(ArtifactError):
        open_view(harmed, name)
    assert [check.name for check in verify(harmed).checks if check.passed is False] == [f"view {name}"]


def test_views_are_checked_by_hash_and_known_by_name(harmed):
    with pytest.raises(ArtifactError, match="no view"):
        open_view(harmed, "model.tflite")
    (harmed / "model.pt2").write_bytes((harmed / "model.pt2").read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        open_view(harmed, "model.pt2")


def test_onnx_reads_no_file_beside_it(harmed, monkeypatch):
    secret = harmed / "secret.bin"
    secret.write_bytes(b"\0" * 4096)
    model = onnx.load(harmed / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    monkeypatch.chdir(harmed)
    rewrite(harmed, "model.onnx", model.SerializeToString())
    with pytest.raises(ArtifactError, match="numbers outside itself"):
        open_view(harmed, "model.onnx")


def change_program(
    folder: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED
) -> None:
    """Rewrite the parts of model.pt2."""
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    rewrite(folder, "model.pt2", buffer.getvalue())


def replace_in_program(pattern: str, by: str) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        text = parts["archive/models/model.json"].decode()
        changed = re.sub(pattern, lambda _: by, text, count=1)
        assert changed != text
        json.loads(changed)
        parts["archive/models/model.json"] = changed.encode()

    return change


def in_config(parts: dict[str, bytes]) -> None:
    name = "archive/data/weights/model_weights_config.json"
    parts[name] = parts[name].replace(b'"use_pickle": false', b'"use_pickle": true', 1)


@pytest.mark.parametrize(
    "change, words",
    [
        (replace_in_program(r"torch\.ops\.aten\.relu\.default", "torch.hub.load"), "calls 'torch.hub.load'"),
        (replace_in_program(r"torch\.ops\.aten\.relu\.default", "torch.ops.load_library"), "load_library"),
        (replace_in_program(r"torch\.ops\.aten\.relu\.default", "_operator.attrgetter"), "attrgetter"),
        (replace_in_program(r"torch\.ops\.aten\.relu\.default", "#higher_order"), "higher_order"),
        (
            replace_in_program(r'"expr_str": "[^"]*"', "\"expr_str\": \"__import__('os').system('touch ran')\""),
            "no size",
        ),
        (replace_in_program(r'"guards_code": \[\]', '"guards_code": ["print(1)"]'), "guards_code"),
        (replace_in_program(r"builtins\.tuple", "os.popen"), "own kind"),
        (in_config, "holds a pickle"),
        (lambda parts: parts.update({"archive/data/sample_inputs/model.pt": b"\x80\x04"}), "holds a pickle"),
        (lambda parts: parts.update({"archive/data/aotinductor/model/x.so": b"\x7fELF"}), "which no network needs"),
        (lambda parts: parts.update({"archive/data/constants/custom_obj_0": b"\x80"}), "which no network needs"),
        (lambda parts: parts.update({"archive/../../x": b""}), "which no network needs"),
        (lambda parts: parts.update({"other/models/model.json": b"{}"}), "repeated"),
        (lambda parts: parts.pop("archive/models/model.json"), "no program"),
        (lambda parts: parts.update({"archive/models/model.json": b"{"}), "cannot be read"),
        (lambda parts: parts.update({"archive/models/model.json": b"{}"}), "cannot load"),
    ],
)
def test_programs_made_to_harm(harmed, change, words, monkeypatch):
    monkeypatch.chdir(harmed)
    change_program(harmed, change)
    with pytest.raises(ArtifactError, match=words):
        open_view(harmed, "model.pt2")
    assert not verify(harmed, run_programs=True).passed
    assert not (harmed / "ran").exists()


def test_a_compressed_program_may_be_a_bomb(harmed):
    change_program(harmed, lambda parts: parts.update({"archive/byteorder": b"\0" * 10_000_000}), zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="repeated or compressed"):
        open_view(harmed, "model.pt2")


def test_a_program_that_was_only_repacked_still_opens(harmed):
    change_program(harmed, lambda parts: None)
    assert verify(harmed, run_programs=True).passed


def test_half_precision_networks_are_told_what_to_do(tmp_path):
    folder = save_network(tmp_path / "half", network().to(torch.bfloat16))
    for export in (export_onnx, export_pt2):
        with pytest.raises(ArtifactError, match="float32"):
            export(folder)
