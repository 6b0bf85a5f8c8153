"""Training in several processes: each with the same weights (DDP), or with weights, gradients and state split (FSDP2).

Results that the first process computes for the others are shared here, too, so that they need not read all data.

Sources: Li et al., "PyTorch Distributed", VLDB 2020; Zhao et al., "PyTorch FSDP", VLDB 2023.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from agrifm.config import TrainingConfig
from agrifm.errors import InputError

KEY = "AGRIFM_SETTLED"
MAX_WAIT = timedelta(hours=24)  # reading a large data set takes hours
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def on_gpu(accelerator: str) -> bool:
    """Whether training will run on a GPU."""
    return accelerator != "cpu" and torch.cuda.is_available()


def is_first() -> bool:
    """Whether this is the first, or only, of the processes that train together; known before they are joined."""
    return all(os.environ.get(key, "0") == "0" for key in RANK_VARIABLES)


def uses_torchrun_store() -> bool:
    """Whether torchrun started this process and provides a store for all of them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def torchrun_store(timeout: timedelta = timedelta(seconds=300)) -> distributed.TCPStore:
    """Connect to the store of torchrun.

    Args:
        timeout: How long to wait for a value. The default is that of PyTorch.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, int(os.environ["WORLD_SIZE"]), is_master=False, timeout=timeout)


def strategy(config: TrainingConfig) -> Strategy | str:
    """Return how processes work together; ``auto`` if there is only one.

    Processes that torchrun or Slurm started are joined. Otherwise one process per device is launched; DDP on a CPU
    spawns them.
    """
    launched = "LOCAL_RANK" in os.environ
    join_again(config.accelerator)
    if config.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if config.devices * config.nodes == 1 and not launched:
        return "auto"
    start_method = "popen" if launched or on_gpu(config.accelerator) else "spawn"
    # All samples of a process may lack a sensor, which leaves parameters unused. Running statistics are averaged before
    # each evaluation; their broadcast would make processes wait for each other within it.
    return DDPStrategy(start_method=start_method, find_unused_parameters=True, broadcast_buffers=False)


def join_again(accelerator: str) -> None:
    """Join the other processes after torchrun has restarted all of them; at a first start Lightning does.

    torchrun may keep the store in which processes publish their addresses. Under the same keys they would then read the
    addresses of processes that have died, and wait for them without end, so each start gets keys of its own.
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if start == "0" or not uses_torchrun_store() or distributed.is_initialized():
        return
    distributed.init_process_group(
        "nccl" if on_gpu(accelerator) else "gloo",
        store=distributed.PrefixStore(f"start {start}", torchrun_store()),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split a model over the processes of a mesh, as one unit.

    The model is gathered as a whole, not block by block: one process may hold samples of a sensor that another process
    does not have, and would wait for blocks that the other one never runs. For the same reason every parameter takes
    part in every output.
    """
    model.register_forward_hook(_use_all_parameters)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _use_all_parameters(model: nn.Module, inputs: object, output: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return output
    return output + 0 * sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be split over processes; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the weights of a model that may be split, on the CPU; all processes must call this."""
    return {key: whole(value.detach()).cpu() for key, value in model.state_dict().items()}


def whole_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients, over all processes."""
    return whole(torch.nn.utils.get_total_norm(list(gradients)))


def from_first(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what the first process computes, as plain values; if it refuses, so do the others.

    Processes that Lightning starts receive the result through their environment, those of torchrun through its store.
    Others, such as those of Slurm, have nothing in common before they are joined, so each computes it.

    Raises:
        InputError: If the first process raised it.
    """
    store = _store()
    if not is_first():
        if store is not None:
            return _result(store.get(KEY).decode())
        if KEY in os.environ:
            return _result(os.environ[KEY])
    try:
        result = compute()
    except InputError as error:
        _publish({"refusal": [error.where, error.found, error.expected, error.repair]}, store)
        raise
    _publish({"result": result}, store)
    return result


def _publish(message: dict[str, Any], store: distributed.Store | None) -> None:
    text = json.dumps(message)
    os.environ[KEY] = text
    if store is not None:
        store.set(KEY, text)


def _result(text: str) -> dict[str, Any]:
    message = json.loads(text)
    if "refusal" in message:
        where, found, expected, repair = message["refusal"]
        raise InputError(where, found=found, expected=expected, repair=repair)
    return message["result"]


def _store() -> distributed.Store | None:
    """Return the store of torchrun, with different keys for each start; None if others started the processes."""
    if not uses_torchrun_store():
        return None
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"settled {run} {start}", torchrun_store(timeout=MAX_WAIT))
