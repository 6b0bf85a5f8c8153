"""Results that the first of several processes computes for the others, which then need not read all data themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed

from agrifm.errors import InputError
from agrifm.training.parallel import is_first, torchrun_store, uses_torchrun_store

KEY = "AGRIFM_SETTLED"
MAX_WAIT = timedelta(hours=24)  # reading a large data set takes hours


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
