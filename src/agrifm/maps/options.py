"""How to map: what decides the pixels beside the model and the scene."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from agrifm.errors import InputError, nearest
from agrifm.maps.tiles import EXTRAS
from agrifm.maps.windows import LARGEST

DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?|mps")


@dataclass(frozen=True)
class MapOptions:
    """How to map.

    Args:
        extras: any of ``probabilities``, ``confidence``, ``entropy``, ``observations``, ``sets``.
        window: side of a window in pixels; if left out, that of the chips the model learned from.
        memory: megabytes that the images of one tile may take; two tiles are held at a time.
        seam_limit: largest rate of transitions on window borders over the rate elsewhere.
        device: ``auto``, ``cpu`` or ``cuda``.
        flips: average over the eight orientations of a square.
        ensemble: checkpoints whose probabilities are averaged with the model's.

    Raises:
        InputError: a value is out of its range.
    """

    extras: tuple[str, ...] = ()
    window: int | None = None
    memory: float = 128.0
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
        if self.window is not None and not 1 <= self.window <= LARGEST:
            raise InputError(
                "--window", found=f"{self.window}", expected=f"1 to {LARGEST} pixels", repair="give another number."
            )
        for name, value in (("--memory", self.memory), ("--seam-limit", self.seam_limit)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    name, found=f"{value:g}", expected="a finite number above 0", repair="give another number."
                )
        if not DEVICES.fullmatch(self.device):
            raise InputError("device", found=self.device, expected="auto, cpu or cuda", repair="correct it.")


DEFAULTS = MapOptions()
