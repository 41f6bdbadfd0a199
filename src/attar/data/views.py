"""Views: augmented images that are a pure function of (seed, epoch, sample).

The same bits whatever the batch they come in, its order, the number of threads, the process, and the device; so
teacher outputs computed once hold for every later use of the same view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from attar.data.augment import (
    ERASE_BOTTOM,
    ERASE_LEFT,
    ERASE_RIGHT,
    ERASE_TOP,
    LEFT,
    MIRROR,
    PARTNER,
    TOP,
    places,
)
from attar.data.images import DataError
from attar.data.mixup import SHARES, Mixup, mixed_labels
from attar.data.philox import Stream, check_seed, sort_key, words
from attar.data.shards import Shards

if TYPE_CHECKING:
    from attar.recipe import Augment

HOMES = {"mps": "cpu"}
"""Devices on which not every operation below is known to give the same bits; their views are made elsewhere and moved."""
_TABLES_KEPT = 2
_TABLE_ROWS = 32768  # so many that fit the cache, and few enough for torch to do each operation in one thread


class Views:
    """Batches of views of `images` (uint8 (N, C, H, W)), whole on `device`; sample ids are indices into `images`.

    Images that do not fit into memory come as `Shards`: the views are the same, an epoch's order follows the shards.

    mean, std: of each channel, for pixels in 0..1 (see `pixel_statistics`).
    order_seed: of the order in which an epoch takes the samples; the views' own seed unless given.
    mixup: mixes every view with that of another image; labels are then distributions.
    """

    def __init__(
        self,
        images: Tensor | Shards,
        labels: Tensor,
        augment: Augment,
        seed: int,
        device: torch.device | str = "cpu",
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        order_seed: int | None = None,
        mixup: Mixup | None = None,
    ) -> None:
        check_seed(seed)
        channels = images.shape[1]
        if images.dtype != torch.uint8 or len(labels) != len(images):
            raise DataError(f"views need uint8 images and as many labels, not {images.dtype}, {len(labels)} labels")
        if len(mean) != channels or len(std) != channels:
            raise DataError(f"mean and std must have a value for each of {channels} channels: {mean}, {std}")
        if min(std) <= 0:
            raise DataError(
                f"the standard deviation of channel {std.index(min(std))} is {min(std):g} and must be above 0: pixels that"
                " are all alike cannot be normalised by it; leave the channel out, or set data.mean and data.std"
            )
        home = home_of(device)
        self.images = images if isinstance(images, Shards) else images.to(home)
        self.labels = labels.to(home)
        self._home = self.images.device
        self.device = self._home if home == torch.device(device) else torch.device(device)
        if mixup is not None and isinstance(images, Shards):
            raise DataError("mixup takes images that fit into memory: a partner may be in any shard")
        self.augment, self.mixup = augment, mixup
        self.seed = seed
        self.order_seed = seed if order_seed is None else order_seed
        # Pixels are integers 0..255: (pixel - shift) * scale is two exactly rounded operations, the same everywhere.
        shift, scale = torch.tensor([mean, std], dtype=torch.float64).mul(255).view(2, 1, channels, 1, 1)
        self._shift, self._scale = shift.to(home, torch.float32), scale.reciprocal().to(home, torch.float32)
        self._tables: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    def order(self, epoch: int, samples: Tensor) -> Tensor:
        """The sample ids (int64, on the CPU) in the order of this epoch, whatever order they are given in."""
        shuffled = random_order(self.order_seed, epoch, samples)
        if not isinstance(self.images, Shards):
            return shuffled
        return self.images.order(shuffled, random_order(self.order_seed, epoch, self.images.shards_of(samples.cpu())))

    def batch(self, epoch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The views of these samples: float32 (B, C, H, W), normalised, and their labels, int64 (B,).

        Of mixtures the labels are float32 (B, classes): the shares of the two.
        """
        return self.augmented(samples.to(self._home), self.places(epoch), epoch)

    def augmented(self, samples: Tensor, places: Tensor, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
        """As `batch`, from what `places` says of the epoch, without waiting for the device.

        samples: int64 (B,), where the images are. epoch: a number, or an int64 tensor () there.
        """
        views, labels = self._augmented(samples, places, epoch)
        if self.mixup is not None:
            partner, share = places.index_select(0, samples)[:, PARTNER:].unbind(1)
            others, other_labels = self._augmented(partner.long(), places, epoch)
            own = share.to(torch.float32).div_(SHARES)
            views = views * own.view(-1, 1, 1, 1) + others * (1 - own).view(-1, 1, 1, 1)
            labels = mixed_labels(labels, other_labels, own, self.mixup.classes)
        return views.to(self.device), labels.to(self.device)

    def _augmented(self, samples: Tensor, places: Tensor, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
        """Each sample's own view, and its label, where the images are."""
        here = places.index_select(0, samples)
        pixels = self.images.index_select(0, samples)
        if self.augment.crop_padding > 0 or self.augment.flip > 0:
            pixels = _crop_and_mirror(pixels, here, self.augment.crop_padding)
        keep = _outside(here, pixels.shape) if self.augment.erase > 0 else None
        if keep is not None and self.augment.erase_fill == "random":
            pixels = torch.where(keep.bool(), pixels, _noise(self.seed, epoch, samples, pixels.shape))
        if keep is not None and self.augment.erase_fill == "black":
            pixels = pixels * keep
        views = self._normalise(pixels)
        if keep is not None and self.augment.erase_fill == "mean":
            views.mul_(keep).add_(0.0)  # makes -0.0 a plain 0.0
        return views, self.labels.index_select(0, samples)

    def plain(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The samples as they are: float32 (B, C, H, W), normalised, and their labels, int64 (B,)."""
        samples = samples.to(self._home)
        views = self._normalise(self.images.index_select(0, samples))
        return views.to(self.device), self.labels.index_select(0, samples).to(self.device)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).sub_(self._shift).mul_(self._scale)

    def places(self, epoch: int) -> Tensor:
        """Where each sample is cropped and erased in this epoch: int32 (N, 7), beside the images; two epochs are kept.

        With mixup two columns more: the partner's id and the share in 1/256.
        """
        if epoch not in self._tables:
            while len(self._tables) >= _TABLES_KEPT:
                del self._tables[next(iter(self._tables))]
            height, width = self.images.shape[2:]
            parts = torch.arange(len(self.images)).split(_TABLE_ROWS)
            table = torch.cat([places(self.augment, self.seed, epoch, part, (height, width)) for part in parts])
            if self.mixup is not None:
                drawn = torch.cat([self.mixup.draw(self.seed, epoch, part) for part in parts])
                table = torch.cat([table, drawn], 1)
            self._tables[epoch] = sent(table, self._home)
        return self._tables[epoch]


def home_of(device: torch.device | str) -> torch.device:
    """Where views for a device are made."""
    device = torch.device(device)
    return torch.device(HOMES.get(device.type, device))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; a GPU fetches it while the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def random_order(seed: int, epoch: int, samples: Tensor) -> Tensor:
    """The sample ids (int64, on the CPU) in an order that is a pure function of (seed, epoch, set of samples)."""
    samples = samples.cpu().sort().values
    first, second, _, _ = words(seed, Stream.ORDER, epoch, samples)
    return samples[torch.argsort(sort_key(first, second), stable=True)]


def _crop_and_mirror(pixels: Tensor, here: Tensor, padding: int) -> Tensor:
    """Each image's window of the original size in the image padded with black, mirrored or not: (B, C, H, W) as given.

    The padded images and their mirror images lie in one buffer, of which each row of the result is a run of W bytes:
    copying rows is several times faster than picking pixels.
    """
    count, channels, height, width = pixels.shape
    padded = pad(pixels, (padding,) * 4)
    both = torch.stack((padded, padded.flip(3))).view(-1)
    runs = both.as_strided((both.numel() - width + 1, width), (1, 1))
    mirror, top = here[:, MIRROR].long(), here[:, TOP].long()
    left = torch.where(mirror > 0, 2 * padding - here[:, LEFT], here[:, LEFT])
    _, _, padded_height, padded_width = padded.shape
    images = torch.arange(count * channels, device=pixels.device).view(count, channels, 1)
    images = images + mirror.view(count, 1, 1) * (count * channels)
    rows = torch.arange(height, device=pixels.device) + top.view(count, 1, 1)
    starts = (images * padded_height + rows) * padded_width + left.view(count, 1, 1)
    return runs.index_select(0, starts.view(-1)).view(pixels.shape)


def _outside(here: Tensor, shape: torch.Size) -> Tensor:
    """0 inside the erased rectangle, 1 elsewhere: uint8 (B, 1, H, W). Put together from rows, as above."""
    count, _, height, width = shape
    rows = torch.arange(height, device=here.device, dtype=torch.int32)
    columns = torch.arange(width, device=here.device, dtype=torch.int32)
    in_rows = (rows >= here[:, ERASE_TOP, None]) & (rows < here[:, ERASE_BOTTOM, None])
    beside = (columns < here[:, ERASE_LEFT, None]) | (columns >= here[:, ERASE_RIGHT, None])
    kinds = torch.cat((torch.ones_like(beside[:1]), beside)).to(torch.uint8)
    kind = in_rows * torch.arange(1, count + 1, device=here.device).view(count, 1)
    return kinds.index_select(0, kind.view(-1)).view(count, 1, height, width)


def _noise(seed: int, epoch: int | Tensor, samples: Tensor, shape: torch.Size) -> Tensor:
    """Random pixels, uint8 of the shape (B, C, H, W): the 16 bytes of each Philox block, in order."""
    count = shape[1:].numel()
    blocks = torch.arange((count + 15) // 16, device=samples.device)
    block_words = torch.stack(words(seed, Stream.FILL, epoch, samples[:, None], blocks), dim=-1)
    shifts = torch.arange(0, 32, 8, device=samples.device)
    noise = (block_words[..., None] >> shifts).to(torch.uint8)  # keeps the low byte
    return noise.reshape(len(samples), -1)[:, :count].reshape(shape)
