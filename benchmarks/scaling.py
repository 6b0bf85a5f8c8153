"""How the cost of a forward pass grows with frames, pixels and sensors: fitted exponents.

``python benchmarks/scaling.py`` times the light model of one size, batch 1, random weights, and fits a line through the
logarithms of cost and of what grows. An exponent of 1 means that twice as much takes twice as long. Counted operations
are fitted beside the seconds, because they do not depend on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from cost import CLASSES, seconds
from run_log import append
from torch.utils.flop_counter import FlopCounterMode

from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.swin import SIZES
from agrifm.sample import Batch, Sample, collate
from agrifm.sensors import S2, Sensor
from agrifm.training.throughput import uncounted

FRAMES = (8, 16, 32, 64)
SIDES = (64, 96, 128, 192)  # pixels along a side
SENSORS = (1, 2, 4)
REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """One measurement."""

    seconds: float
    gflop: float


def sensors_of(count: int) -> list[Sensor]:
    """Sensors with the bands and the pixels of Sentinel-2 under different names."""
    return [replace(S2, name=f"S2{number}") if number else S2 for number in range(count)]


def batch_of(sensors: Sequence[Sensor], frames: int, side: int) -> Batch:
    """One sample of noise."""
    images = {sensor.name: torch.rand(frames, len(sensor.bands), side, side) * 10_000 for sensor in sensors}
    return collate([Sample(images)])


def cost_of(size: str, frames: int, side: int, sensors: int) -> Cost:
    """Seconds and counted operations of one forward pass."""
    torch.manual_seed(0)
    used = sensors_of(sensors)
    model = CropModel(used, CLASSES, ModelConfig(size=replace(SIZES[size], drop_path=0.0))).eval()
    batch = batch_of(used, frames, side)
    with torch.no_grad():
        with FlopCounterMode(display=False, custom_mapping=uncounted()) as counter:
            model(batch)
        fastest = seconds(lambda: model(batch), REPEATS, 60.0)
    return Cost(fastest, counter.get_total_flops() / 1e9)


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the line through the logarithms."""
    slope, _ = np.polyfit(np.log(amounts), np.log(costs), 1)
    return float(slope)


def main() -> None:
    """Measure, fit, print, and add a line to the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=list(SIZES))
    asked = parser.parse_args()
    grown: dict[str, tuple[list[float], Callable[[float], Cost]]] = {
        "frames": (list(FRAMES), lambda n: cost_of(asked.size, int(n), 128, 1)),
        "pixels": ([side**2 for side in SIDES], lambda n: cost_of(asked.size, 32, round(n**0.5), 1)),
        "sensors": (list(SENSORS), lambda n: cost_of(asked.size, 32, 128, int(n))),
    }
    print("| what grows | from | to | exponent of seconds | exponent of operations |")
    print("|---|---:|---:|---:|---:|")
    fitted = []
    for name, (amounts, measure) in grown.items():
        costs = [measure(amount) for amount in amounts]
        of_seconds = exponent(amounts, [each.seconds for each in costs])
        of_operations = exponent(amounts, [each.gflop for each in costs])
        print(f"| {name} | {amounts[0]:g} | {amounts[-1]:g} | {of_seconds:.2f} | {of_operations:.2f} |", flush=True)
        fitted.append(f"{name} {of_seconds:.2f} ({of_operations:.2f})")
    append(f"scaling, {asked.size}: exponents of seconds (of operations): {', '.join(fitted)}")


if __name__ == "__main__":
    main()
