"""Data sets by name, the split, and batches of views."""

from attar.data.dataset import Dataset, from_dataset
from attar.data.images import DataError, ImageData, Progress, checked, pixel_statistics
from attar.data.load import load_data, runs_code
from attar.data.mixup import Mixup
from attar.data.shards import Shards
from attar.data.split import Split, split
from attar.data.views import Views, home_of, random_order, sent

__all__ = [
    "DataError",
    "Dataset",
    "ImageData",
    "Mixup",
    "Progress",
    "Shards",
    "Split",
    "Views",
    "checked",
    "from_dataset",
    "home_of",
    "load_data",
    "pixel_statistics",
    "random_order",
    "runs_code",
    "sent",
    "split",
]
