"""Files in the teacher's place: whatever is damaged or unknown in one is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from attar.distil import OutputsError, Pool, export_pool, kept_pools, read_outputs
from attar.distil.pools import digest_of
from attar.distil.store import blocks

ZOO = Path(__file__).parents[2] / "zoo/teachers/fashion-mnist.safetensors"
SAMPLES = torch.arange(0, 900, 3)


@pytest.fixture
def filled(tmp_path):
    """A pool of one view epoch of 300 samples and 10 classes."""
    samples = {"count": len(SAMPLES), "digest": digest_of(SAMPLES)}
    facts = {"samples": samples, "view_seed": 0, "coding": "float16", "classes": 10, "row_bytes": 20}
    rows = Pool(facts, tmp_path / "views", 1 << 30).open(0, SAMPLES, 20)
    for block in range(blocks(len(SAMPLES))):
        rows.write(block, np.full_like(rows.data[rows._span(block)], block + 1))
    (kept,) = kept_pools(tmp_path / "views")
    return kept


@pytest.fixture
def file(filled, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(export_pool(filled))
    return path


def changed(path: Path, tensors=None, **facts) -> Path:
    with safe_open(path, "pt") as found:
        before = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        said = json.loads(found.metadata()["attar"])
    save_file({**before, **(tensors or {})}, path, {"attar": json.dumps({**said, **facts})})
    return path


def test_samples_that_are_not_those_of_the_rows_are_refused(file):
    assert torch.equal(read_outputs(file, 1.0).samples, SAMPLES)
    with pytest.raises(OutputsError, match="checksums do not fit"):
        read_outputs(changed(file, {"samples": SAMPLES + 1}), 1.0)


def test_an_unknown_coding_is_refused_as_other_faults_of_a_file_are(file):
    with pytest.raises(OutputsError, match="kept as 'float8', which this version of attar does not know"):
        read_outputs(changed(file, coding="float8"), 1.0)


@pytest.mark.parametrize("damage", ["other", "cut", "gone"])
def test_a_pool_whose_samples_are_damaged_is_not_exported(filled, damage):
    ids = filled.path / "samples.npy"
    content = ids.read_bytes()
    ids.unlink()
    if damage != "gone":
        ids.write_bytes(content[:-9] + {"other": b"x" * 9, "cut": b""}[damage])
    with pytest.raises(OutputsError, match=rf"samples\.npy is damaged; `attar cache clear {filled.key}`"):
        export_pool(filled)


def test_the_zoos_file_is_read():
    found = read_outputs(ZOO, 4.0)
    assert found.rows.shape == (8, 55_000, 12) and found.test is not None
