"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), the binary versions: no pickle."""

from pathlib import Path

import torch
from torch import Tensor

from attar.data.images import ImageData, Progress, image_data
from attar.data.published import Published, PublishedFile, find

_PIXELS = 3 * 32 * 32
_WEB = "https://www.cs.toronto.edu/~kriz/"
CIFAR10 = Published(
    title="CIFAR-10",
    name="cifar10",
    files=(
        PublishedFile("data_batch_1.bin", 30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        PublishedFile("data_batch_2.bin", 30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        PublishedFile("data_batch_3.bin", 30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        PublishedFile("data_batch_4.bin", 30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        PublishedFile("data_batch_5.bin", 30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        PublishedFile("test_batch.bin", 30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ),
    web=_WEB,
    archive="cifar-10-binary.tar.gz",
    inner_folders=("cifar10", "cifar-10-batches-bin"),
)
CIFAR100 = Published(
    title="CIFAR-100",
    name="cifar100",
    files=(
        PublishedFile("train.bin", 153700000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        PublishedFile("test.bin", 30740000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    ),
    web=_WEB,
    archive="cifar-100-binary.tar.gz",
    inner_folders=("cifar100", "cifar-100-binary"),
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""
CIFAR100_CLASSES = tuple(_FINE_NAMES.split())


def load_cifar10(folder: Path | None = None, progress: Progress | None = None) -> ImageData:
    """50,000 training and 10,000 test images, (3, 32, 32), in 10 classes. Raises DataError, see `published.find`."""
    return _load(CIFAR10, CIFAR10_CLASSES, 1, folder, progress)


def load_cifar100(folder: Path | None = None, progress: Progress | None = None) -> ImageData:
    """50,000 training and 10,000 test images, (3, 32, 32), in 100 fine classes. Raises DataError, as above."""
    return _load(CIFAR100, CIFAR100_CLASSES, 2, folder, progress)


def _load(
    wanted: Published, class_names: tuple[str, ...], label_bytes: int, folder: Path | None, progress: Progress | None
) -> ImageData:
    found = find(wanted, folder, progress)
    *train, test = (_records(found.content[file.name], label_bytes) for file in wanted.files)
    images, labels = torch.cat([images for images, _ in train]), torch.cat([labels for _, labels in train])
    return image_data(wanted.name, (images, labels), test, class_names, found.source)


def _records(content: bytearray, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Images and (fine) labels: a record is the label, in CIFAR-100 after the coarse one, and the red, green and blue
    planes, row by row."""
    records = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, label_bytes + _PIXELS)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).contiguous()
    return images, records[:, label_bytes - 1].to(torch.int64)
