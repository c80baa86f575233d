"""Several processes that train one network, as `torchrun` starts them; one process is a world of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

PATIENCE = timedelta(hours=6)
"""Processes wait so long for the first one, which alone measures the watched part; torchrun ends them if it dies."""


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the world that torchrun's environment describes, and leave it at the end.

    Args:
        device: The kind of device that trains: decides how processes talk.

    Yields:
        The world; of one process where torchrun is not there.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), local_rank)
    finally:
        distributed.destroy_process_group()


def barrier(world: World) -> None:
    """Wait for the others."""
    if world.size > 1:
        distributed.barrier()


def shared(values: list[float], world: World, device: torch.device) -> list[float]:
    """Numbers that the first process knows, in every process."""
    if world.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(tensor, 0)
    return tensor.tolist()


def agreed(told: bool, world: World) -> bool:
    """Whether any process was told something; between CPUs, so that no GPU is waited for."""
    return bool(summed([float(told)], world, torch.device("cpu"))[0])


def summed(values: list[float], world: World, device: torch.device) -> list[float]:
    """Numbers added up over all processes."""
    if world.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return tensor.tolist()
