"""What one of several processes finds out about the data, given to the others, which need not read it all as well."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed

from agrifm.errors import InputError
from agrifm.training.parallel import is_first

KEY = "AGRIFM_SETTLED"
LONGEST_WAIT = timedelta(hours=24)  # to read a large data set takes hours


def from_first(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the first process makes, as plain values; its refusal is that of all.

    Processes that Lightning starts get it by their environment, those of torchrun by its store. Others, such as those
    of Slurm, know no such place before they are joined, and each makes it.

    Raises:
        InputError: If the first process raised it.
    """
    store = _store()
    if not is_first() and (store is not None or KEY in os.environ):
        return _opened(store.get(KEY).decode() if store is not None else os.environ[KEY])
    try:
        made = make()
    except InputError as error:
        _publish({"refusal": [error.where, error.found, error.expected, error.repair]}, store)
        raise
    _publish({"made": made}, store)
    return made


def _publish(values: dict[str, Any], store: distributed.Store | None) -> None:
    text = json.dumps(values)
    os.environ[KEY] = text
    if store is not None:
        store.set(KEY, text)


def _opened(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if "refusal" in values:
        where, found, expected, repair = values["refusal"]
        raise InputError(where, found=found, expected=expected, repair=repair)
    return values["made"]


def _store() -> distributed.Store | None:
    """The store of torchrun, with keys of their own for each start; None in processes that others started."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(address, port, int(os.environ["WORLD_SIZE"]), is_master=False, timeout=LONGEST_WAIT)
    run, start = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"settled {run} {start}", store)
