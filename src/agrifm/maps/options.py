"""Options of maps and embeddings: what decides their pixels besides the model and the scene."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from agrifm.errors import InputError, nearest
from agrifm.maps.tiles import EXTRAS
from agrifm.maps.windows import LARGEST

DTYPES = ("int8", "float16", "float32")  # of embeddings
DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?|mps")


@dataclass(frozen=True)
class MapOptions:
    """Options of a map.

    Args:
        extras: Additional layers: ``probabilities``, ``confidence``, ``entropy``, ``observations``, ``sets``.
        window: Side of a window in pixels; None takes that of the training chips, except for a model of single pixels,
            which needs none of that size.
        memory: Memory for the images of one tile in megabytes; two tiles are held at a time.
        seam_limit: Highest rate of transitions on window borders, relative to the rate elsewhere.
        device: ``auto``, ``cpu`` or ``cuda``.
        flips: Whether to average over the eight orientations of a square (test-time augmentation).
        ensemble: Checkpoints whose probabilities are averaged with the model's.

    Raises:
        InputError: If a value is out of its range.
    """

    extras: tuple[str, ...] = ()
    window: int | None = None
    memory: float = 512.0
    seam_limit: float = 1.25
    device: str = "auto"
    flips: bool = False
    ensemble: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [key for key in self.extras if key not in EXTRAS]
        if unknown:
            raise InputError(
                "extras", found=unknown[0], expected=f"any of {', '.join(EXTRAS)}", repair=nearest(unknown[0], EXTRAS)
            )
        _check_window(self.window)
        _check_positive("--memory", self.memory)
        _check_positive("--seam-limit", self.seam_limit)
        _check_device(self.device)


@dataclass(frozen=True)
class EmbedOptions:
    """Options of embeddings.

    Args:
        dtype: How features are stored: ``int8`` with a scale and an offset for each band, ``float16`` or ``float32``.
        window: Side of a window in pixels; None takes that of the training chips.
        memory: Memory for the images and features of one tile in megabytes; two tiles are held at a time.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: If a value is out of its range.
    """

    dtype: str = "int8"
    window: int | None = None
    memory: float = 512.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(
                "--dtype", found=self.dtype, expected=f"any of {', '.join(DTYPES)}", repair=nearest(self.dtype, DTYPES)
            )
        _check_window(self.window)
        _check_positive("--memory", self.memory)
        _check_device(self.device)


def _check_window(window: int | None) -> None:
    if window is not None and not 1 <= window <= LARGEST:
        raise InputError(
            "--window", found=f"{window}", expected=f"1 to {LARGEST} pixels", repair="give another number."
        )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(name, found=f"{value:g}", expected="a finite number above 0", repair="give another number.")


def _check_device(device: str) -> None:
    if not DEVICES.fullmatch(device):
        raise InputError("device", found=device, expected="auto, cpu or cuda", repair="give one of these.")


DEFAULTS = MapOptions()
EMBED_DEFAULTS = EmbedOptions()
