"""Several processes, each with a shard of the data, that take every product together."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hesslab.errors import NotDeterministic, NotFinite
from hesslab.operators.network import Network

if TYPE_CHECKING:  # a torch without torch.distributed lacks the name
    from torch.distributed import ProcessGroup

Traits = dict[str, dict[str, Any]]
# What one rank raises, the others raise too, so that all go the same way where a caller catches it.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (NotDeterministic, NotFinite, ValueError, TypeError, MemoryError, RuntimeError)
}


class Ranks:
    """The processes among which the data of one operator is divided; a process may be alone.

    A product costs one all-reduce of one float64 tensor: the sums of the shards, and a line from
    each rank with whether it failed, its number of terms and a checksum of the vector that it
    multiplied.

    Args:
        process_group: of torch.distributed; True means the default group, None and False no group.
        device: where the sums are.

    Attributes:
        rank: the number of this process in the group; 0 where it is alone.
        size: how many there are.

    Raises:
        ValueError: there is no such group, this process is not in it, or it cannot move tensors of
            the device.
        TypeError: it is no process group.
    """

    def __init__(self, process_group: ProcessGroup | bool | None, device: torch.device) -> None:
        self._group = _found(process_group, device)
        self._device = device
        self.rank, self.size, self._names = 0, 1, [0]
        if self._group is not None:
            self.rank, self.size = dist.get_rank(self._group), dist.get_world_size(self._group)
            self._names = dist.get_process_group_ranks(self._group)

    def __repr__(self) -> str:
        return f"rank {self._names[self.rank]}, one of {self.size}" if self.together else "alone"

    @property
    def together(self) -> bool:
        """Whether there is a group, be it of one process."""
        return self._group is not None

    @contextmanager
    def starting(self, traits: Callable[[], Traits]) -> Iterator[None]:
        """Around the construction of an operator, which fails on all ranks or on none.

        Args:
            traits: what must be the same on all ranks, asked for at the end.

        Raises:
            Exception: what is raised inside, also by another rank.
            ValueError: the ranks differ in a trait.
        """
        if not self.together:
            yield
            return
        try:
            yield
            found = json.dumps({"traits": traits()})
        except Exception as error:
            self._tell(error)
            raise
        news = self._exchange(found)
        self._heed(news)
        self._compare([each["traits"] for each in news])

    def mean(
        self, here: Callable[[], tuple[Tensor, int]], shape: Sequence[int], v: Tensor | None = None
    ) -> Tensor:
        """The mean over the terms of all ranks, ``shape``, the same on all of them.

        Args:
            here: the mean over this process's terms, and their number.
            shape: of the mean.
            v: what it depends on besides the data.

        Returns:
            Float64 where there is a group, else the mean of ``here``.

        Raises:
            ValueError: ``v`` differs between the ranks, or none has any data.
        """
        if not self.together:
            return here()[0]
        size = math.prod(shape)
        sums = torch.zeros(size + 3 * self.size, dtype=torch.float64, device=self._device)
        total, table = sums[:size].view(*shape), sums[size:].view(self.size, 3)
        line, error = [1.0, 0.0, 0.0], None
        try:
            mean, terms = here()
            total.copy_(mean).mul_(terms)
            line = [0.0, terms, -1.0 if v is None else checksum(v)]
        except Exception as raised:
            error = raised
        table[self.rank] = table.new_tensor(line)
        self._add_up(sums)
        failed, counts, vectors = zip(*table.tolist(), strict=True)
        if error is not None:
            self._tell(error)
            raise error
        if any(failed):
            self._heed(self._exchange("{}"))
        self._check_same(vectors)
        if not any(counts):
            raise ValueError("the data is empty on all ranks; at least one example is needed")
        return total.div_(sum(counts))

    def _tell(self, error: Exception) -> None:
        """Send an error to the other ranks, which wait for it in `_heed`."""
        kind = next(
            k.__name__ for k in type(error).__mro__ if k.__name__ in _KINDS or k is Exception
        )
        self._exchange(json.dumps({"error": [kind, str(error)]}))
        error.add_note(f"(raised on {self!r}; the others were told)")

    def _heed(self, news: Sequence[dict[str, Any]]) -> None:
        """Raise what another rank has raised."""
        told = zip(self._names, news, strict=True)
        failed = {name: each["error"] for name, each in told if "error" in each}
        if failed:
            first = next(iter(failed.values()))[0]
            what = "; ".join(
                f"rank {name}: {kind}: {text}" for name, (kind, text) in failed.items()
            )
            raise _KINDS.get(first, RuntimeError)(f"{self!r}, stopped because of {what}")

    def _check_same(self, vectors: Sequence[float]) -> None:
        others = [n for n, v in zip(self._names, vectors, strict=True) if v != vectors[0]]
        if others:
            raise ValueError(
                f"v is not the same on all ranks: {_listed(others)} took another product than "
                f"rank {self._names[0]}; draw it with the same seed on all of them, or send it "
                "with torch.distributed.broadcast. (If it came from an earlier product, the ranks "
                "round differently: give them the same processor and number of threads)"
            )

    def _compare(self, found: Sequence[Traits]) -> None:
        """Refuse ranks that differ in what they are to have in common."""
        ours, theirs = found[0], dict(zip(self._names, found, strict=True))
        for what, value in ours["options"].items():
            for name, other in theirs.items():
                if other["options"].get(what) != value:
                    raise ValueError(
                        f"the ranks differ in {what}: {value} on rank {self._names[0]}, "
                        f"{other['options'].get(what)} on rank {name}; build the operator from the "
                        "same code and options on all of them"
                    )
        differ = {
            name: [
                key
                for key in {**ours["tensors"], **other["tensors"]}
                if other["tensors"].get(key) != ours["tensors"].get(key)
            ]
            for name, other in theirs.items()
        }
        others = [name for name, keys in differ.items() if keys]
        if others:
            keys = differ[others[0]]
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(
                f"{', '.join(keys[:3])}{more} of {_listed(others)} differ from those of rank "
                f"{self._names[0]}: load the same checkpoint on all ranks, or send each parameter "
                "and buffer with torch.distributed.broadcast before the operator is built"
            )

    def _exchange(self, news: str) -> list[dict[str, Any]]:
        """What each rank has to say, as JSON, in the order of the ranks."""
        data = bytearray(news.encode())
        lengths = torch.zeros(self.size, dtype=torch.int64, device=self._device)
        lengths[self.rank] = len(data)
        self._add_up(lengths)
        sizes: list[int] = lengths.tolist()
        table = torch.zeros(self.size, max(sizes), dtype=torch.uint8, device=self._device)
        table[self.rank, : len(data)] = torch.frombuffer(data, dtype=torch.uint8)
        self._add_up(table)
        rows = zip(table.cpu().numpy(), sizes, strict=True)
        return [json.loads(row[:size].tobytes()) for row, size in rows]

    def _add_up(self, tensor: Tensor) -> None:
        try:
            dist.all_reduce(tensor, group=self._group)
        except RuntimeError as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RuntimeError(
                f"{self!r}, did not get the sums of the others ({cause}). A rank died, raised an "
                "error before its product, takes another product, or takes longer than the timeout "
                "of torch.distributed.init_process_group: look at its own output, and start all "
                "ranks again"
            ) from error


def traits(options: Mapping[str, object], network: Network) -> Traits:
    """What all ranks have in common: options as text, and checksums of all parameters and buffers.

    Buffers are compared as far as the outputs depend on them: the running statistics of batch
    norms, which training leaves different on each rank, only where they are used.

    Args:
        options: what is meant by the matrix, not how it is run.
        network: at its point.

    Returns:
        What `Ranks.starting` compares.
    """
    unused = ["num_batches_tracked"]
    if network.depends_on_batch:
        unused += ["running_mean", "running_var"]
    ignored = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in network.model.named_modules()
        for name in unused
        if isinstance(module, _BatchNorm)
    }
    return {
        "options": {name: str(value) for name, value in options.items()},
        "tensors": {
            name: checksum(value) for name, value in network.state().items() if name not in ignored
        },
    }


def checksum(tensor: Tensor) -> int:
    """A number below 2^32 for the bits of a tensor. Cost: a copy to the host, and 1 ns a byte."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return zlib.crc32(raw.numpy().data)


def is_empty(data: Any) -> bool:
    """Whether a `Dataset` or a pair of tensors has no example."""
    x = data[0] if isinstance(data, tuple | list) and len(data) == 2 else getattr(data, "x", None)
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == 0


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are, as far as it has any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def _found(process_group: Any, device: torch.device) -> ProcessGroup | None:
    if process_group is None or process_group is False:
        return None
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "process_group is given, but there is none: start the script with torchrun and call "
            "torch.distributed.init_process_group first, or leave it out"
        )
    group = dist.group.WORLD if process_group is True else process_group
    if group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "this process is no member of process_group; build the operator on its members alone"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"process_group is a {type(group).__name__}; expected True (all processes), None or "
            "what torch.distributed.new_group returns"
        )
    if dist.get_backend(group) == "nccl" and device.type != "cuda":
        raise ValueError(
            f"the process group moves tensors by NCCL, from CUDA alone, but the model is on "
            f"{device}; move the model, or use the backend gloo"
        )
    return group


def _listed(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
