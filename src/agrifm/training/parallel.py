"""Several processes: the same weights in each (DDP), or split among them with gradients and optimizer state (FSDP2).

Sources: Li et al., "PyTorch Distributed", VLDB 2020; Zhao et al., "PyTorch FSDP", VLDB 2023.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from agrifm.config import TrainingConfig


def on_gpu(accelerator: str) -> bool:
    """Whether training will run on a GPU."""
    return accelerator != "cpu" and torch.cuda.is_available()


def is_first() -> bool:
    """Whether this is the first, or only, of the processes that train together; known before they are joined."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def strategy(config: TrainingConfig) -> Strategy | str:
    """How processes work together; ``auto`` where there is one.

    Processes that torchrun or Slurm started are joined; else one per device is launched, and for DDP on a CPU spawned.
    With DDP a sensor may be missing from all samples of a process, so parameters may go unused. There are no running
    statistics to share, and uneven evaluation must not wait for them.
    """
    launched = "LOCAL_RANK" in os.environ
    join_again(config.accelerator)
    if config.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if config.devices * config.nodes == 1 and not launched:
        return "auto"
    start = "popen" if launched or on_gpu(config.accelerator) else "spawn"
    return DDPStrategy(start_method=start, find_unused_parameters=True, broadcast_buffers=False)


def join_again(accelerator: str) -> None:
    """Join the other processes after torchrun has started all of them again; at a first start Lightning does.

    torchrun may keep the store in which processes publish their addresses. Under the same keys they would then read the
    addresses of processes that have died, and wait for them without end, so each start gets keys of its own.
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if start == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or distributed.is_initialized():
        return
    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False)
    backend = "nccl" if on_gpu(accelerator) else "gloo"
    distributed.init_process_group(
        backend, store=distributed.PrefixStore(f"start {start}", store), rank=rank, world_size=size
    )


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split a model over the processes of a mesh, as one unit.

    It is gathered whole, not block by block: one process may hold samples of a sensor that another lacks, and
    would wait for blocks that the other never runs. For the same reason every parameter takes part in every output.
    """
    model.register_forward_hook(_all_take_part)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _all_take_part(model: nn.Module, inputs: object, output: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return output
    return output + 0 * sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be split over processes, as one; all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model that may be split, on the CPU; all processes must ask for them."""
    return {key: whole(value.detach()).cpu() for key, value in model.state_dict().items()}


def whole_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients, over all processes."""
    return whole(torch.nn.utils.get_total_norm(list(gradients)))
