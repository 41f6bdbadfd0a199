"""Ranks: processes that train one network together, as torchrun starts them, and what they tell each other.

Every rank runs the same program; each takes its share of every batch. What must be one (files, plans, measured times) the
first rank does and tells. Words go through gloo on the CPU, or shared memory where they are few and all ranks on one machine,
and so do the gradients of small networks; those of others go through gloo or nccl.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attar.train.mail import Mail

LOST = ("gloo", "nccl", "connection", "broken pipe", "socket", "timed out")
"""Words in the errors of a broken connection, which come as plain RuntimeErrors from several libraries."""

FREIGHT = 8 * 2**20
"""Bytes of gradients up to which they go through shared memory; two slots of every rank have to fit there."""

Made = TypeVar("Made")
Told = tuple[Mapping[str, Tensor], Any]
"""Tensors by name, and what JSON can hold."""


class RankError(RuntimeError):
    """The ranks cannot go on together."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job; alone unless said otherwise."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """Number of this rank on its machine: the GPU that it takes."""
    mail: Mail = field(default_factory=Mail, compare=False, repr=False)
    _freights: dict[int, Mail] = field(default_factory=dict, compare=False, repr=False)
    """For gradients, by the bytes of a slot."""

    @classmethod
    def here(cls) -> Ranks:
        """As torchrun told this process; alone where it did not start it."""
        if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))

    @property
    def first(self) -> bool:
        """Whether this rank writes, prints and decides."""
        return self.rank == 0

    @contextmanager
    def connected(self, cuda: bool) -> Iterator[None]:
        """Meet the other ranks, for as long as the context lasts; with nccl beside gloo if they use `cuda`.

        Raises:
            RankError: another rank was lost.
        """
        if self.count == 1:
            yield
            return
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            yield
        except RuntimeError as error:
            text = str(error).lower()
            if not isinstance(error, dist.DistError) and not (
                type(error) is RuntimeError and any(word in text for word in LOST)
            ):
                raise
            raise RankError(
                f"rank {self.rank} of {self.count} lost the others: one stopped or was killed, and what it said last stands "
                f"above ({str(error).splitlines()[0]:.200}). The same command goes on from the last checkpoint, on any "
                "number of ranks"
            ) from error
        finally:
            for mail in (self.mail, *self._freights.values()):
                mail.close()
        dist.destroy_process_group()

    def share(self, samples: Tensor) -> Tensor:
        """This rank's part of a batch: (n,) -> about (n / count,), parts in the order of the ranks."""
        return samples.tensor_split(self.count)[self.rank]

    def part(self, batch: int) -> float:
        """What the mean over this rank's share of a batch counts for in a mean over ranks; 1 where all shares are equal.

        Raises:
            RankError: a rank would have no image.
        """
        if batch < self.count:
            raise RankError(f"a batch of {batch} images cannot be shared by {self.count} ranks; start fewer")
        return len(self.share(torch.empty(batch))) * self.count / batch

    def averaging(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass leaves every rank with the gradients' mean over ranks; weights are the first's."""
        if self.count == 1:
            return model
        # Batch norm keeps the same running statistics on every rank (rank_norm), so buffers need no sending. A static graph
        # allows parameters that no gradient reaches.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `broadcast_buffers` has another name from torch 2.13 on
            averaged = DistributedDataParallel(model, broadcast_buffers=False, static_graph=True)
        gradients = [p for p in model.parameters() if p.requires_grad]
        if all(p.device.type == "cpu" for p in gradients):
            freight = self._freight(sum(p.nbytes for p in gradients))
            if freight is not None:
                averaged.register_comm_hook(None, lambda state, bucket: _mean(bucket.buffer(), freight, self.count))
        return averaged

    def _freight(self, size: int) -> Mail | None:
        """Open slots for so many bytes of gradients, on every rank; none where there are too many, or no shared memory."""
        if size > FREIGHT:
            return None
        slot = next((slot for slot in self._freights if slot >= size), size)
        if slot not in self._freights:
            self._freights[slot] = self._opened(Mail(slot))
        freight = self._freights[slot]
        return freight if freight.fits(torch.empty(size, dtype=torch.uint8)) else None

    def mean_and_sum(self, mean: float, total: int) -> tuple[float, int]:
        """The mean over ranks of one number, the sum of another."""
        if self.count == 1:
            return mean, total
        both = self.total(torch.tensor([mean, total], dtype=torch.float64)).tolist()
        return both[0] / self.count, int(both[1])

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over ranks; may write it into `tensor`."""
        if self.count > 1 and self._mails(tensor):
            return self.mail.total_(tensor)
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flags: Tensor) -> Tensor:
        """bool, of any shape, on the CPU: where any rank's flag is set."""
        if self.count == 1:
            return flags
        if self._mails(flags):
            return self.mail.gather(flags).any(0)
        found = flags.to(torch.uint8)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.bool()

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over ranks, in place."""
        for tensor in tensors:
            self.total(tensor.div_(self.count))

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor (...), all of one shape and type: (ranks, ...), in the order of the ranks."""
        if self.count == 1:
            return tensor.unsqueeze(0)
        if self._mails(tensor):
            return self.mail.gather(tensor)
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor.contiguous())
        return torch.stack(found)

    def tell(self, make: Callable[[], Told]) -> Told:
        """What the first rank makes of it; the others make nothing and are told."""
        if self.count == 1:
            return make()
        if not self.first:
            return _unpacked(self._sent(b""))
        told = make()
        self._sent(_packed(told))
        return told

    def tell_plain(self, make: Callable[[], Any]) -> Any:
        """The same for what JSON can hold."""
        return self.tell(lambda: ({}, make()))[1]

    def in_turn(self, make: Callable[[], Made]) -> Made:
        """What each rank makes for itself, the first of each machine before the others: they find its files."""
        if self.count > 1 and self.local:
            dist.barrier()
        made = make()
        if self.count > 1 and not self.local:
            dist.barrier()
        return made

    def check_same(self, what: str, digest: bytes) -> None:
        """See that all ranks have the same digest (of 32 bytes).

        Raises:
            RankError: they have not; on every rank.
        """
        found = self.gather(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        differing = [rank for rank, other in enumerate(found) if not other.equal(found[0])]
        if differing:
            raise RankError(
                f"{what} is not the same on all ranks: rank 0 has {bytes(found[0].tolist()).hex()[:16]}, "
                f"rank {differing[0]} has {bytes(found[differing[0]].tolist()).hex()[:16]}; do all run the same attar, "
                "torch and recipe?"
            )

    def _mails(self, tensor: Tensor) -> bool:
        """Whether a message goes through shared memory, which the first message that could opens."""
        if self.mail.could(tensor) and not self.mail.asked:
            self._opened(self.mail)
        return self.mail.fits(tensor)

    def _opened(self, mail: Mail) -> Mail:
        def all_can(can: bool) -> bool:
            return not self.any(torch.tensor(not can)).item()

        mail.open(self.rank, self.count, lambda said: str(self.tell_plain(lambda: said)), all_can)
        return mail

    def _sent(self, content: bytes) -> bytes:
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0)
        buffer = torch.frombuffer(bytearray(content or bytes(int(size))), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()


ALONE = Ranks()


def _mean(gradients: Tensor, freight: Mail, count: int) -> torch.futures.Future[Tensor]:
    """What `DistributedDataParallel` asks for: a bucket of gradients as their mean over ranks."""
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(freight.total_(gradients).div_(count))
    return done


def _packed(told: Told) -> bytes:
    """JSON's length in 8 bytes, JSON, the tensors as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in told[0].items()}
    plain = json.dumps(told[1]).encode()
    return len(plain).to_bytes(8, "little") + plain + save(tensors)


def _unpacked(content: bytes) -> Told:
    end = 8 + int.from_bytes(content[:8], "little")
    return load(content[end:]), json.loads(content[8:end])
