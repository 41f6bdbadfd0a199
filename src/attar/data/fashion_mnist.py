"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017).

The checksums are of the uncompressed files of the release after 31 August 2017. Debian ships the same bytes under
another gzip header: with the official header put back, its four files have the MD5 sums of the official page.
"""

from pathlib import Path

import torch

from attar.data.images import ImageData, Progress, image_data
from attar.data.published import Published, PublishedFile, find

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST = Published(
    title="Fashion-MNIST",
    name="fashion-mnist",
    files=(
        PublishedFile(
            "train-images-idx3-ubyte", 47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        PublishedFile(
            "train-labels-idx1-ubyte", 60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        PublishedFile(
            "t10k-images-idx3-ubyte", 7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte", 10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    ),
    web="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    inner_folders=("fashion-mnist", "FashionMNIST/raw", "raw"),
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    package="dataset-fashion-mnist",
)


def load_fashion_mnist(folder: Path | None = None, progress: Progress | None = None) -> ImageData:
    """60,000 training and 10,000 test images, (1, 28, 28), in 10 classes. Raises DataError, see `published.find`."""
    found = find(FASHION_MNIST, folder, progress)
    images, labels, test_images, test_labels = (_payload(found.content[file.name]) for file in FASHION_MNIST.files)
    shape = (-1, 1, 28, 28)
    return image_data(
        FASHION_MNIST.name,
        (images.reshape(shape), labels.to(torch.int64)),
        (test_images.reshape(shape), test_labels.to(torch.int64)),
        CLASS_NAMES,
        found.source,
    )


def _payload(content: bytearray) -> torch.Tensor:
    """An idx file without its header: flat uint8. The fourth byte is the number of dimensions, 4 bytes each follow."""
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * content[3])
