"""Peak memory and speed of mapping a scene that is larger than memory should be.

``python benchmarks/large_scene.py --checkpoint runs/demo/best.safetensors --scene DIR`` maps the scene that
``make_scene.py`` wrote with one process and with two, each as a user would call it, and prints for each: minutes, km2/s
over the whole command, and the largest memory of all its processes together, pages they share counted once. The maps
must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import rasterio


@dataclass(frozen=True)
class Measured:
    """One run.

    Args:
        workers: processes that compute.
        seconds: of the whole command.
        km2: mapped.
        peak: largest memory of all processes together in bytes.
    """

    workers: int
    seconds: float
    km2: float
    peak: int

    def __str__(self) -> str:
        speed = self.km2 / self.seconds
        return f"{self.workers} worker(s): {self.seconds / 60:.1f} min, {speed:.2f} km2/s, {self.peak / 1e9:.2f} GB"


def measure(command: list[str], interval: float = 0.5) -> tuple[float, int]:
    """Seconds and peak memory of a command with all its children."""
    begun, peak = time.monotonic(), 0
    process = psutil.Popen(command)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, sum(_memory(each) for each in (process, *process.children(recursive=True))))
        time.sleep(interval)
    if process.returncode not in (0, 3):
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.monotonic() - begun, peak


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo/best.safetensors"))
    parser.add_argument("--scene", type=Path, required=True, help="folder that make_scene.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/large_scene"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=float, default=128, help="megabytes of images in a tile")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = []
    for workers in asked.workers:
        target = asked.out / f"{workers}.tif"
        options = ["--overwrite", "--workers", str(workers), "--memory", str(asked.memory)]
        command = [sys.executable, "-m", "agrifm.cli", "map", str(asked.checkpoint), str(asked.scene), str(target)]
        seconds, peak = measure([*command, *options])
        with rasterio.open(target) as file:
            km2 = file.height * file.width * file.res[0] * file.res[1] / 1e6
        found.append(Measured(workers, seconds, km2, peak))
        print(found[-1], flush=True)
    maps = {(asked.out / f"{workers}.tif").read_bytes() for workers in asked.workers}
    print("the maps are", "identical" if len(maps) == 1 else "DIFFERENT")
    (asked.out / "measured.json").write_text(json.dumps([asdict(each) for each in found], indent=2))


if __name__ == "__main__":
    main()
