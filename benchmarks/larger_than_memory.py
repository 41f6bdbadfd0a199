"""Training views of more images than are held in memory: how many a second, and how much memory it takes.

    python benchmarks/larger_than_memory.py --gigabytes 6 --in-memory 512 --folder /somewhere/on/disk
    python benchmarks/larger_than_memory.py --page docs/larger-than-memory.md     # the page, from the record

Makes a store of random images, 3 x 160 x 160, forgets it from the system's cache of files, and takes views of it (crop, flip,
erasing) batch by batch as training does: by shards, and, for comparison, in fully random order from the mapped file. Each is
measured in a process of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from attar.data import Shards, Views
from attar.recipe import Augment
from attar.train.memory import keep_freed_memory

SHAPE, BATCH = (3, 160, 160), 128
ROW = 3 * 160 * 160
RECORD = Path(__file__).parents[1] / "records" / "larger-than-memory.json"


def make_store(file: Path, count: int) -> None:
    """Random bytes, on the disk and not in the cache of files."""
    generator = torch.Generator().manual_seed(0)
    with file.open("wb") as store:
        for start in range(0, count, 2048):
            rows = min(2048, count - start)
            store.write(torch.randint(0, 256, (rows, ROW), dtype=torch.uint8, generator=generator).numpy().data)
        store.flush()
        os.fsync(store.fileno())


def forget(file: Path) -> None:
    """Drop the file from the system's cache."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def memory(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{kind}:"))


def measure(file: Path, count: int, in_memory: int, how: str, seconds: float) -> dict[str, float]:
    """One epoch, or as much of it as the time allows."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as every run does
    labels = torch.zeros(count, dtype=torch.int64)
    shape = (count, *SHAPE)
    if how == "shards":
        images: torch.Tensor | Shards = Shards(file, shape, in_memory << 20, "cpu")
    else:
        images = torch.from_file(str(file), shared=False, size=count * ROW, dtype=torch.uint8).view(shape)
    views = Views(images, labels, Augment(), 0, mean=(0.5,) * 3, std=(0.3,) * 3)
    views.batch(0, torch.arange(2))  # tables and warm-up
    before = memory("VmRSS")
    forget(file)
    start = time.perf_counter()
    order, seen, most = views.order(0, torch.arange(count)), 0, 0
    for chosen in order.split(BATCH):
        views.batch(0, chosen)
        seen += len(chosen)
        most = max(most, memory("RssAnon"))
        if time.perf_counter() - start > seconds:
            break
    taken = time.perf_counter() - start
    return {
        "images": seen,
        "images_per_second": seen / taken,
        "megabytes_per_second": seen * ROW / taken / 1e6,
        "peak_megabytes": memory("VmHWM") / 1e6,
        "peak_own_megabytes": (memory("VmHWM") - before) / 1e6,
        "peak_anonymous_megabytes": most / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--in-memory", type=int, default=512, help="data.in_memory of a recipe, MB")
    parser.add_argument("--seconds", type=float, default=40.0, help="at most, for each")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("HOW", "COUNT"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.page:
        wanted.page.write_text(page(json.loads(RECORD.read_text())))
        return
    file = wanted.folder / "images.u8"
    if wanted.one:
        how, count = wanted.one[0], int(wanted.one[1])
        print(json.dumps(measure(file, count, wanted.in_memory, how, wanted.seconds)))
        return
    count = int(wanted.gigabytes * 1e9 / ROW)
    start = time.perf_counter()
    make_store(file, count)
    facts = {
        "images": count,
        "bytes": count * ROW,
        "shape": SHAPE,
        "in_memory": wanted.in_memory,
        "batch": BATCH,
        "seconds_to_write": round(time.perf_counter() - start, 1),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "found": {},
    }
    for how in ("shards", "mapped, random order"):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", how, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        facts["found"][how] = json.loads(done.stdout.splitlines()[-1])
        print(how, facts["found"][how], flush=True)
    file.unlink()
    RECORD.write_text(json.dumps(facts, indent=1) + "\n")


def page(facts: dict) -> str:
    """What was measured, in words."""
    rows = [
        f"| {how} | {found['images']:,} | {found['images_per_second']:,.0f} | {found['megabytes_per_second']:,.0f} | "
        f"{found['peak_anonymous_megabytes']:,.0f} | {found['peak_megabytes']:,.0f} |"
        for how, found in facts["found"].items()
    ]
    return "\n".join(
        [
            "# Images larger than memory",
            "",
            "<!-- made by benchmarks/larger_than_memory.py from records/larger-than-memory.json -->",
            "",
            "`folder:` and `hf:` data sets are decoded once into a store of raw bytes in attar's cache. Up to `data.in_memory`",
            "megabytes (4096 unless the recipe says otherwise) the training images are simply there; a larger data set is read",
            "from the store by shards of 8 MB: an epoch takes the shards in random order, a window of them at a time (half of",
            "`data.in_memory`), and shuffles the images within the window, while a thread reads the next window. The order is a",
            "function of seed and epoch as ever, and every view is the same, to the bit, as if all images were in memory.",
            "",
            f"Measured on a store of {facts['images']:,} random images, {' x '.join(map(str, facts['shape']))}, "
            f"{facts['bytes'] / 1e9:.1f} GB, with `data.in_memory = {facts['in_memory']}`: training views (crop, flip,",
            f"erasing) in batches of {facts['batch']}, one core, the file not in the system's cache at the start; "
            f"torch {facts['torch']}.",
            "",
            "| order | images taken | images a second | MB a second | memory of its own, MB | most resident, MB |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Memory of its own is what the process allocated (anonymous, libraries and batches included); resident counts pages",
            "of the mapped file too, which the system takes back when it needs them.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
