"""Several processes, one training: started by torchrun, joined here, summed where figures meet.

Every process draws the same batches and masks and takes its share of each batch. The loss is the
whole batch's on every process, so the curve is that of one process (but for dropout, which each
process draws for its own rows).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce

from moola.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of every batch that is this process's: rows ``rank``, ``rank + size``, ... of it."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, writes and logs."""
        return self.rank == 0

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a batch, along the first axis."""
        return rows if self.alone else rows[self.rank :: self.size]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes; gradients flow through."""
        return value if self.alone else all_reduce(value)

    def agree(self, values: torch.Tensor) -> torch.Tensor:
        """Return the leading process's values on every process."""
        if not self.alone:
            dist.broadcast(values, src=0)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as every batch calls it: gradients are averaged over the processes."""
        if self.alone:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def check_batches(self, num_windows: int, batch_size: int) -> None:
        """Raise ConfigError if some batch has fewer windows than there are processes."""
        rest = num_windows % batch_size
        smallest = min(batch_size, num_windows, rest or batch_size)
        if smallest < self.size:
            raise ConfigError(
                f"{num_windows} windows in batches of {batch_size} leave one of {smallest}",
                limit=f"at least {self.size} windows in every batch, one a process",
                remedy="Change batch_size or windows_per_epoch, or start fewer processes",
            )


ALONE = Share()


@contextmanager
def join_processes(device: str, environ: Mapping[str, str] = os.environ) -> Iterator[Share]:
    """Join the processes that torchrun started (``WORLD_SIZE`` is set); alone otherwise.

    Parameters
    ----------
    device
        ``cpu`` meets over gloo; ``cuda`` over nccl, process i on GPU i.
    environ
        Environment variables; ``WORLD_SIZE`` and ``LOCAL_RANK`` are looked for.
    """
    size = int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Share(rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()
