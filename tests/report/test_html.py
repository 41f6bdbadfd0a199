"""The page: whole, offline, safe from its data, and the network in it computes what torch computes."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision_ops import define_missing_operators

from attar.artifact.weights import own_tensors, to_bytes
from attar.models import build
from attar.report import html as page_module
from attar.report import report_html
from attar.report.operations import NotRunnableError
from attar.report.program import Program, to_program
from attar.report.samples import smaller, to_png

define_missing_operators()

NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&"
RUN = """
const network = require(process.argv[1]), read = JSON.parse(require("fs").readFileSync(0));
const bytes = process.argv[2] ? require("fs").readFileSync(process.argv[2]) : null;
const file = bytes && network.tensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const run = network.open(read.program, file ?? {});
const done = read.images.map(image => Array.from(network.whole(run(Uint8Array.from(image)))));
console.log(JSON.stringify(done));
"""


def facts(**changes) -> dict:
    """The least that a run says: no teacher, nothing held out, nothing pruned, no control."""
    test = {"hits": 9, "n": 12, "accuracy": 0.75, "interval": [0.47, 0.91]}
    counts = {"params": 1000, "macs": 5000, "bytes": 4000}
    least = {"name": "trial", "test": {"student": test}, "budget": {}, "cost": {"before": counts, "after": counts},
             "frontier": [], "mean": [0.4], "std": [0.3]}  # fmt: skip
    return {**least, **changes}


def frontier(held_out: float | None = 0.9) -> list[dict]:
    points = [
        {"step": i, "cost": {"params": 1000 - 100 * i, "macs": 5000 - 900 * i, "bytes": 4000 - 400 * i},
         "widths": {"conv.weight": 8 - i, EVIL: 9 - 2 * i}, "held_out": held_out}
        for i in range(4)
    ]  # fmt: skip
    before = None if held_out is None else 0.5
    return [points[0]] + [{**p, "removed": 3, "proof": 2e-16, "held_out_before": before} for p in points[1:]]


def network(channels: int = 1, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build("resnet20", widths=(4, 6, 8), in_channels=channels, classes=classes).eval()


def images(n: int = 12, channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def predictions(n: int = 12) -> dict[str, list[int]]:
    return {"labels": [i % 3 for i in range(n)], "student": [(i + (i % 4 == 0)) % 3 for i in range(n)],
            "teacher": [0] * n}  # fmt: skip


class Strict(HTMLParser):
    """Notes elements, attributes and whether everything that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.mark.parametrize("held_out", [0.9, None])
@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("pictures", [True, False])
def test_the_page_is_whole_with_any_facts_and_asks_nothing_of_others(held_out, pruned, pictures):
    given = facts(frontier=frontier(held_out) if pruned else [], budget={"params": 700} if pruned else {})
    shown = {"network": network(), "images": images(), "predictions": predictions()} if pictures else {}
    page = report_html(given, **shown)
    found = Strict(page).found
    for tag, attributes in found:
        assert not attributes.keys() & {"onclick", "onerror", "onload", "srcset", "action", "href"}, tag
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page)
    assert "75.00 %" in page and ("held" in page) == (pruned or "held-out" in page)
    assert ("program" in page_data(page)) == pictures
    assert len(page_data(page)["frontier"]["steps"]) == (4 if pruned else 0)


def test_data_never_become_markup():
    names = [EVIL, "b", "c"]
    teacher = {"hits": 6, "n": 12, "accuracy": 0.5, "interval": [0.2, 0.8]}
    given = facts(name=EVIL, frontier=frontier(), command=EVIL, summary=EVIL, data={"name": EVIL, "source": EVIL})
    given["test"] = {**given["test"], "teacher": teacher, EVIL: teacher}
    given["learning_curves"] = [{"stage": EVIL, "images": 1, "loss": float("nan"), "accuracy": 0.5, "held_out": None}]
    given["views"] = [{"name": EVIL, "flags": [EVIL], "bytes": 5}]
    given["controls"] = [{"name": EVIL, "test": teacher, "mcnemar": {"mid": 0.01}}]
    page = report_html(given, network=network(), images=images(), predictions=predictions(), class_names=names)
    assert "25.00 points above" in page
    found = Strict(page).found
    assert [tag for tag, _ in found].count("script") == 2
    assert not any("onerror" in attributes for _, attributes in found)
    assert page_data(page)["classes"] == names
    assert page_data(page)["curves"][0]["loss"] == [None]


def test_only_the_pages_own_script_may_run():
    page = report_html(facts())
    policy = next(a["content"] for tag, a in Strict(page).found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "'sha256-" in policy and "http" not in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_a_page_stays_under_its_size(monkeypatch):
    big = images(200, 3, 224)
    found = {"labels": [0] * 200, "student": [1] * 200}
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    given = facts(mean=[0.5] * 3, std=[0.2] * 3)
    page = report_html(given, network=model, images=big, predictions=found)
    assert len(page.encode()) < 3_000_000 and page_data(page)["trials"] and "Mistakes" in page
    monkeypatch.setattr(page_module, "LARGEST", 100_000)
    page = report_html(given, network=model, images=big, predictions=found)
    assert len(page.encode()) < 100_000 and "does not run the network: the page would be larger" in page


class Cumulated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(1)


class Banded(nn.Module):
    """torch has no `&` of what comparisons are to the page: an error that the translator does not foresee."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * ((x > -1) & (x < 1))


@pytest.mark.parametrize(
    "model, reason",
    [
        (nn.Sequential(nn.ConvTranspose2d(1, 3, 3), nn.Flatten(), nn.LazyLinear(3)), "transposed convolution"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3000), nn.Linear(3000, 3)), "numbers are more than"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3), Cumulated()), "no operation 'cumsum'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3), nn.Softplus(beta=2)), "softplus with arguments"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3), Banded()), "operations cannot be translated"),
    ],
)
def test_a_network_that_the_page_cannot_run_is_left_out_and_told(model, reason):
    model(torch.zeros(1, 1, 16, 16))
    page = report_html(facts(), network=model.eval(), images=images(), predictions=predictions())
    assert re.search(f"does not run the network: .*{reason}", page.replace("&#x27;", "'"))
    assert "program" not in page_data(page) and "Mistakes" in page


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_are_no_pictures_are_not_tried_in_the_browser(channels):
    given = facts(mean=[0.4] * channels, std=[0.3] * channels)
    page = report_html(given, network=network(channels), images=images(12, channels), predictions=predictions())
    assert f"does not run the network: its images have {channels} channels" in page
    assert not page_data(page).keys() & {"program", "trials"} and "Mistakes" in page


def test_pictures_are_what_they_were():
    image_module = pytest.importorskip("PIL.Image", reason="Pillow decodes the PNGs")
    import io

    import numpy as np

    for shape in ((1, 5, 7), (3, 9, 4), (3, 64, 64)):
        image = torch.randint(0, 256, shape, dtype=torch.uint8)
        seen = np.asarray(image_module.open(io.BytesIO(to_png(image)))).reshape(shape[1], shape[2], shape[0])
        assert torch.equal(torch.from_numpy(seen.copy()).permute(2, 0, 1), image)
    assert smaller(images(1, 3, 100)[0], 64).shape == (3, 64, 64)


class Mixed(nn.Module):
    """Operations that the families below lack."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=2, dilation=2)
        self.norm, self.group, self.shift = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Parameter(torch.randn(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer, self.last = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(x, (1, 0, 2, 1), value=0.5)
        x = self.norm(nn.functional.gelu(self.conv(x)))  # batch norm that cannot be folded
        x = nn.functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True) + nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        a, b = nn.functional.group_norm(self.group(x), 4, bias=self.shift).chunk(2, 1)
        x = torch.cat([nn.functional.leaky_relu(a, 0.2), nn.functional.elu(b) - 0.5], 1)
        x = x.flatten(2).transpose(1, 2)
        x = self.layer(x + self.attention(x, x, x, need_weights=False)[0])
        return self.last(x.mean(1)) * x.amax((1, 2))[:, None].clamp(min=0.1)


class Windows(nn.Module):
    """What windowed attention and weight-standardised networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.gain = nn.Parameter(torch.randn(8, 1, 3, 3)), nn.Parameter(torch.rand(8) + 0.5)
        self.bias, self.places = nn.Parameter(torch.randn(5, 2)), torch.randint(0, 5, (16, 16))
        self.qkv, self.last, self.mix = nn.Linear(8, 24), nn.Linear(8, 3), nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.kernel.reshape(1, 8, -1)  # standardised by batch norm, as timm does
        kernel = nn.functional.batch_norm(flat, None, None, self.gain, training=True).reshape_as(self.kernel)
        x = nn.functional.conv2d(x, kernel, stride=2)[:, :, :4, :4]
        gate = self.mix(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        x = (x * gate.sigmoid().expand_as(x)).permute(0, 2, 3, 1).roll((1, -2), (1, 2))
        q, k, v = self.qkv(x.reshape(-1, 16, 8)).view(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        mask = self.bias[self.places.view(-1)].view(16, 16, 2).permute(2, 0, 1)[None]
        a = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        b = torch.einsum("bhij,bhjd->bhid", (q @ k.transpose(-1, -2)).softmax(1), v)
        both = torch.stack([a, b], -1).square().sum(-1).transpose(1, 2).reshape(-1, 4, 4, 8).permute(0, 3, 1, 2)
        up = nn.functional.interpolate(both, scale_factor=2.0) + nn.functional.hardshrink(both).flip(3).repeat(
            1, 1, 2, 2
        )
        return self.last(up.mean((2, 3)))


NETWORKS = {
    "windows": (Windows, 1, 12),
    "vit": (
        lambda: build("timm:vit_tiny_patch16_224", classes=3, img_size=32, embed_dim=24, depth=2, num_heads=2),
        3,
        32,
    ),
    "swin": (
        lambda: build(
            "timm:swin_tiny_patch4_window7_224",
            classes=3,
            img_size=32,
            window_size=4,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(1, 2),
        ),
        3,
        32,
    ),
    "convnext": (lambda: build("timm:convnext_atto", classes=3, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20)), 3, 64),
    "resnet20": (lambda: build("resnet20", widths=(5, 7, 9), in_channels=1, classes=3), 1, 28),
    "cnn5": (lambda: build("cnn5", in_channels=1, classes=3), 1, 28),
    "densenet": (lambda: build("densenet_bc", in_channels=3, classes=3, depth=22, growth=6), 3, 16),
    "mobilenet": (lambda: build("torchvision:mobilenet_v3_small", classes=3, width_mult=0.35), 3, 33),
    "shufflenet": (lambda: build("torchvision:shufflenet_v2_x0_5", classes=3), 3, 64),
    "mixed": (Mixed, 1, 15),
    "weight_norm": (
        lambda: nn.Sequential(
            weight_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 13 * 13, 3)
        ),
        1,
        15,
    ),
}


FILE_LIMITS = {"resnet20": 1000, "windows": 200, "vit": 200, "mobilenet": 12_000, "weight_norm": 200}
"""Numbers that the page may hold itself, when the weights stay in their file: those of batch norms, and small tables."""


def settled(model: nn.Module, channels: int, size: int) -> nn.Module:
    """Batch norms with statistics of their own."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, channels, size, size))
    return model.eval()


def page_logits(program: Program, pixels: torch.Tensor, file: Path | None = None) -> torch.Tensor:
    """(N, classes) for uint8 (N, C, H, W), computed by the page's interpreter; `file` holds the weights."""
    asset = [str(files("attar.report").joinpath("assets", "network.js")), *([str(file)] if file else [])]
    given = json.dumps({"program": program.to_dict(), "images": pixels.flatten(1).tolist()})
    done = subprocess.run(
        [NODE, "-e", RUN, *asset], input=given, capture_output=True, text=True, timeout=120, check=True
    )
    return torch.tensor(json.loads(done.stdout))


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: nothing here runs the page's JavaScript")
@pytest.mark.parametrize(
    "name, where",
    [*((name, "float32") for name in NETWORKS), ("resnet20", "float16"),
     *((name, "file") for name in FILE_LIMITS)],
)  # fmt: skip
def test_the_pages_network_computes_the_logits_of_torch(name, where, monkeypatch, tmp_path: Path):
    make, channels, size = NETWORKS[name]
    torch.manual_seed(0)
    model = settled(make(), channels, size)
    monkeypatch.setattr("attar.report.program.FLOAT32_LIMIT", 0 if where == "float16" else 1_000_000)
    shift, scale = torch.full((channels,), 100.0), torch.full((channels,), 0.012)
    if where == "file":
        monkeypatch.setattr("attar.report.program.LARGEST", FILE_LIMITS[name])
        monkeypatch.setattr("attar.report.program.KNOWN_LIMIT", 20)
    program = to_program(model, (channels, size, size), shift.tolist(), scale.tolist(), beside=where == "file")
    if where != "file":
        assert not any(step["kind"] == "affine" for step in program.steps) or name in ("densenet", "mixed", "cnn5")
    assert any(isinstance(constant, str) for constant in program.constants) == (where == "file")
    pixels = images(3, channels, size)
    with torch.no_grad():
        wanted = model((pixels.float() - shift.view(-1, 1, 1)) * scale.view(-1, 1, 1))
    file = tmp_path / "model.safetensors" if where == "file" else None
    if file is not None:
        file.write_bytes(to_bytes(own_tensors(model)))
    gap = (page_logits(program, pixels, file) - wanted).abs().max() / wanted.abs().max()
    assert gap < (5e-3 if where == "float16" else 5e-6)


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: nothing here runs the page's JavaScript")
@pytest.mark.parametrize("shape", [(1, 4, 50, 2), (1, 8, 5, 10), (1, 1, 40, 10), (4, 4, 5, 5)])
def test_a_norm_is_folded_into_a_convolution_only_where_their_channels_are_the_same(shape):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    into, out = (nn.Flatten(0), nn.Unflatten(0, shape)), (nn.Flatten(0), nn.Unflatten(0, (1, 400)))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *into, norm, *out).eval()
    program, pixels = to_program(model, (1, 12, 12), [100.0], [0.012]), images(2, 1, 12)
    assert [step["kind"] for step in program.steps] == (["conv"] if shape == (1, 4, 50, 2) else ["conv", "affine"])
    with torch.no_grad():
        wanted = torch.cat([model((image[None].float() - 100) * 0.012) for image in pixels])
    assert torch.allclose(page_logits(program, pixels), wanted, atol=1e-5)


def test_writing_over_what_is_read_again_is_not_mistaken_for_a_new_tensor():
    class Reused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.relu_()
            return (y + x).flatten(1)

    class Viewed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            part = y[:, :, :2]
            part.relu_()
            return y.flatten(1)

    with pytest.raises(NotRunnableError, match="writes over"):
        to_program(Viewed(), (1, 4, 4), [0.0], [1.0])
    try:
        program = to_program(Reused(), (1, 4, 4), [0.0], [1.0])
    except NotRunnableError:
        return  # refusing is right, too
    assert [step["kind"] for step in program.steps] == ["binary", "unary", "binary"]


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: nothing here runs the page's JavaScript")
def test_channels_taken_for_images_are_pooled_each_and_refused_by_a_convolution():
    def apart(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(0, 1), nn.Unflatten(0, (4, 1)), *layers).eval()

    torch.manual_seed(0)
    back = nn.Flatten(0), nn.Unflatten(0, (1, -1))
    model, pixels = apart(nn.MaxPool2d(2), nn.Flatten(0, 1), nn.AvgPool2d(2, ceil_mode=True), *back), images(2, 1, 12)
    with torch.no_grad():
        wanted = torch.cat([model((image[None].float() - 100) * 0.012) for image in pixels])
    found = page_logits(to_program(model, (1, 12, 12), [100.0], [0.012]), pixels)
    assert wanted.shape == (2, 36) and torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(NotRunnableError, match="convolution of many images"):
        to_program(apart(nn.Conv2d(1, 2, 3), *back), (1, 12, 12), [100.0], [0.012])


class Written(nn.Module):
    """Writes over a part of what it makes: `change` gets (B, 4, H, W)."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change, self.conv = change, nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(self.conv(x)).mean((2, 3))


def part_of_a_part(y: torch.Tensor) -> torch.Tensor:
    y[:, :2, 1:].mul_(3)
    return y


def part_seen_before(y: torch.Tensor) -> torch.Tensor:
    part = y[:, :2]
    y.mul_(2)
    return torch.cat([y, part], 1)


def part_of_a_split(y: torch.Tensor) -> torch.Tensor:
    y.chunk(2, 1)[0].mul_(3)
    return y


def what_dropout_gave(y: torch.Tensor) -> torch.Tensor:
    nn.functional.dropout(y, 0.5, training=False).mul_(3)
    return y + 1


def known_before(y: torch.Tensor) -> torch.Tensor:
    known = torch.ones(1, 4, 4, 4)
    known[:, :2].mul_(y[:, :2])
    return known * y


def under_autocast(y: torch.Tensor) -> torch.Tensor:
    part = y[:, :2]
    with torch.autocast("cpu", enabled=False):
        y = y.relu_() * 2
    return torch.cat([y, part], 1)


@pytest.mark.parametrize(
    "change", [part_of_a_part, part_seen_before, part_of_a_split, what_dropout_gave, known_before, under_autocast]
)
def test_what_was_written_over_is_not_read_again_by_another_name(change):
    with pytest.raises(NotRunnableError, match="writes over"):
        to_program(Written(change), (1, 6, 6), [100.0], [0.012])


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: nothing here runs the page's JavaScript")
def test_the_result_of_writing_over_is_read_in_whole_and_in_parts():
    torch.manual_seed(0)
    model = Written(lambda y: torch.cat([(y := y.mul_(2).view(1, 4, 16)[:, 1:].relu_())[:, 1:], y], 1).unsqueeze(3))
    pixels = images(2, 1, 6)
    with torch.no_grad():
        wanted = torch.cat([model((image[None].float() - 100) * 0.012) for image in pixels])
    assert torch.allclose(page_logits(to_program(model, (1, 6, 6), [100.0], [0.012]), pixels), wanted, atol=1e-5)


@pytest.mark.parametrize("change", [nn.SELU(inplace=True), torch.Tensor.floor_, lambda y: y.copy_(y * 3)])
def test_writing_over_as_the_interpreter_cannot_is_no_view(change):
    with pytest.raises(NotRunnableError, match="no operation"):
        to_program(Written(change), (1, 6, 6), [100.0], [0.012])


def browse(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The page as headless Chromium has it after all that it does on loading."""
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += " --disable-component-update --enable-logging=stderr --virtual-time-budget=60000 --dump-dom"
    assert CHROMIUM is not None
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page cannot be opened")
@pytest.mark.parametrize("pruned", [True, False])
def test_the_page_runs_in_a_browser_offline(pruned, tmp_path: Path):
    given = facts(frontier=frontier() if pruned else [], budget={"params": 700} if pruned else {})
    given["learning_curves"] = [
        {"stage": "distil", "images": i, "loss": 1 / i, "accuracy": 0.5, "held_out": None} for i in range(1, 9)
    ]
    page = tmp_path / "report.html"
    names = [EVIL, "b", "c"]
    page.write_text(
        report_html(given, network=network(), images=images(), predictions=predictions(), class_names=names)
    )
    done = browse(page, tmp_path)
    assert "CONSOLE" not in done.stderr  # no error, and nothing that the policy had to stop
    gap = re.search(r'data-gap="([^"]+)" data-same="12/12"', done.stdout)
    assert gap and float(gap[1]) < 1e-5
    shown = done.stdout.partition("<script")[0]
    assert "computed here in" in shown and shown.count("<svg") == (3 if pruned else 2)
    assert ("Step 3 of 3" in shown) == pruned
    assert '<img src="x"' not in done.stdout


def test_constants_are_stored_whole():
    program = to_program(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), (1, 2, 2), [0.0], [1.0]).to_dict()
    assert len(base64.b64decode(program["numbers"])) == 4 * sum(program["constants"]) == 4 * 10


# What the page waits for outside of timers, such as a file being read, takes no virtual time, and virtual time leaps to its end
# where nothing but such waiting is left: some true work at every look holds it back.
ONCE = """
const once = (ready, then) => {
  const timer = setInterval(() => {
    for (let i = 0, x = 1; i < 3e6; i++) x = x * 1.1 % 7;
    if (!ready()) return;
    clearInterval(timer);
    then();
  }, 20);
};
"""
DROP = """
const paint = document.createElement("canvas"), context = paint.getContext("2d");
paint.width = 100; paint.height = 40;
context.fillStyle = "rgb(10, 200, 30)"; context.fillRect(0, 0, 100, 40);
context.fillStyle = "rgb(255, 0, 0)"; context.fillRect(0, 0, 25, 40); // cut off: the middle 40 x 40 are shown
const name = atob(paint.toDataURL().split(",")[1]), bytes = Uint8Array.from(name, c => c.charCodeAt(0));
const given = new DataTransfer();
given.items.add(new File([bytes], "<b>.png", { type: "image/png" }));
document.getElementById("file").files = given.files;
if (SWAP) document.getElementById("swap").checked = true;
document.getElementById("file").dispatchEvent(new Event("change"));
const answered = () => document.getElementById("answer").textContent;
once(() => answered().includes("computed here in") && !answered().includes("it is:"), () => {
  const seen = document.getElementById("seen"), data = seen.getContext("2d").getImageData(0, 0, 16, 16).data;
  document.body.dataset.seen = [0, 1, 2].map(c => new Set(data.filter((_, i) => i % 4 === c)).size + ":" + data[c]).join(" ");
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page cannot be opened")
@pytest.mark.parametrize(
    "channels, swap, seen",
    [(3, False, "1:10 1:200 1:30"), (3, True, "1:245 1:55 1:225"), (1, False, "1:124 1:124 1:124")],
)
def test_an_image_of_the_readers_own_is_cut_scaled_and_shown_to_the_network(channels, swap, seen, tmp_path: Path):
    given = facts(mean=[0.4] * channels, std=[0.3] * channels)
    text = report_html(given, network=network(channels), images=images(12, channels), predictions=predictions())
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)  # else nothing but the page's own script would run
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", f"<script>{ONCE}{DROP.replace('SWAP', str(swap).lower())}</script></body>"))
    done = browse(page, tmp_path)
    assert f'data-seen="{seen}"' in done.stdout
    shown = done.stdout.partition("<script")[0]
    assert "computed here in" in shown and "it is:" not in shown and "CONSOLE" not in done.stderr


GIVE = """
const give = (id, text, name) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), given = new DataTransfer();
  given.items.add(new File([bytes], name));
  document.getElementById(id).files = given.files;
  document.getElementById(id).dispatchEvent(new Event("change"));
};
const state = document.getElementById("weights-state");
give("weights-file", "WRONG", "other.safetensors");
once(() => state.className === "bad" && document.getElementById("answer").textContent, () => {
  document.body.dataset.before = document.getElementById("answer").textContent;
  document.body.dataset.wrong = state.textContent;
  give("weights-file", "RIGHT", "model.safetensors");
  once(() => state.textContent === ": read" && document.getElementById("answer").textContent.includes("computed here"), () => {});
});
const plot = document.querySelector("#frontier-plot svg"), dot = plot.querySelectorAll("circle")[1].getBoundingClientRect();
const at = { clientX: dot.x + dot.width / 2, clientY: dot.y + dot.height / 2, pointerType: "mouse", bubbles: true };
plot.dispatchEvent(new PointerEvent("pointermove", at));
document.body.dataset.step = document.getElementById("frontier-step").textContent;
document.body.dataset.widths = document.getElementById("widths").textContent;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page cannot be opened")
def test_a_large_network_runs_once_the_reader_gives_its_file_and_hovering_tells_a_step(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("attar.report.program.LARGEST", 1000)
    model, file = network(), tmp_path / "model.safetensors"
    file.write_bytes(to_bytes(own_tensors(model)))
    given = facts(frontier=frontier(), budget={"params": 700})
    text = report_html(given, network=model, images=images(), predictions=predictions(), weights=file)
    assert page_data(text)["program"]["file"]["bytes"] == file.stat().st_size
    assert len(text) < 100_000 + file.stat().st_size / 10  # the weights are not in it
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    right = file.read_bytes()
    script = GIVE.replace("RIGHT", base64.b64encode(right).decode())
    script = script.replace("WRONG", base64.b64encode(right[:-1] + b"!").decode())
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", f"<script>{ONCE}{script}</script></body>"))
    done = browse(page, tmp_path)
    assert "CONSOLE" not in done.stderr
    assert "before it has its weights" in re.search(r'data-before="([^"]*)"', done.stdout)[1]
    assert "not the file that this page was made with" in re.search(r'data-wrong="([^"]*)"', done.stdout)[1]
    gap = re.search(r'data-gap="([^"]+)" data-same="3/3"', done.stdout)
    assert gap and float(gap[1]) < 1e-5
    assert "computed here in" in done.stdout.partition("<script")[0]
    step = re.search(r'data-step="([^"]*)"', done.stdout)[1]
    assert "Step 1 of 3" in step and "900 parameters" in step and "90.00 %" in step
    assert "7 of 8" in re.search(r'data-widths="([^"]*)"', done.stdout)[1]


def test_the_verdict_tells_teacher_controls_and_ratios():
    given = facts(frontier=frontier(), budget={"params": 700}, latency={"teacher": 3.0, "before": 0.5, "after": 1.0})
    given["cost"] = {
        "teacher": {"params": 20_000, "macs": 10_000, "bytes": 80_000},
        "before": {"params": 2000, "macs": 10_000, "bytes": 8000},
        "after": {"params": 1000, "macs": 5000, "bytes": 4000},
    }
    given["test"]["teacher"] = {"hits": 12, "n": 12, "accuracy": 1.0, "interval": [0.76, 1.0]}
    given["against_teacher"] = {"first_only": 0, "second_only": 3, "exact": 0.25, "mid": 0.125}
    page = report_html(given).partition("<script")[0]
    for said in ("20× smaller", "2× smaller", "3× faster", "2× slower", "Its teacher is 25.00 points above", "20,000"):
        assert said in page, said
    assert "MISSED" in page and page.index("75.00 %") < page.index("MISSED") < page.index("Frontier")


def test_mistakes_are_shown_with_the_teachers_opinion():
    shown = predictions() | {"teacher": [2] * 12}
    sure = {"student": [0.61] * 12, "teacher": [0.87] * 12}
    page = report_html(
        facts(), network=network(), images=images(), predictions=shown, confidence=sure, class_names=["a", "b", "c"]
    )
    assert page.count("teacher: c 87\u00a0%") == 3 and "→ b 61\u00a0%" in page
    assert page_data(page)["trials"][0]["teacher_confidence"] == 0.87
