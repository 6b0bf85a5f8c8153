"""The passport of a map: everything it was made of, so that anyone can make it again and compare."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rasterio

from agrifm.checkpoint import library_versions
from agrifm.errors import InputError
from agrifm.io import sha256, write_whole
from agrifm.maps.seams import Seams
from agrifm.maps.tiles import Job
from agrifm.scenes.document import scene_from_dict, scene_to_dict
from agrifm.scenes.scene import Scene

FORMAT = "agrifm-passport-1"
ENDS = 1 << 20  # bytes at either end of an input file that its checksum covers


@dataclass(frozen=True)
class Passport:
    """What a map was made of.

    Args:
        values: as they stand in the file.
        path: of the file.
    """

    values: dict[str, Any]
    path: Path

    @classmethod
    def beside(cls, target: Path) -> Path:
        """The path of a map's passport."""
        return target.with_name(target.stem + ".passport.json")

    @classmethod
    def load(cls, path: Path) -> Passport:
        """Read a passport.

        Raises:
            InputError: it is missing or another kind of file.
        """
        try:
            values = json.loads(path.read_text())
            known = values["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _no_passport(path, str(error)) from error
        if not known:
            raise _no_passport(path, f"format {values['format']!r}")
        return cls(values, path)

    @property
    def scene(self) -> Scene:
        """The scene, file by file."""
        return scene_from_dict(self.values["scene"], self.path)


def _no_passport(path: Path, found: str) -> InputError:
    return InputError(
        path, found=found, expected=f"a passport written by 'agrifm map' ({FORMAT})", repair="name OUT.passport.json."
    )


def write_passport(
    target: Path, job: Job, models: Sequence[Path], files: Sequence[Path], seams: Seams, options: dict[str, Any]
) -> Passport:
    """Write the passport of a finished map; of several models the first says what is read and what classes mean."""
    model, *others = models
    values = {
        "format": FORMAT,
        "files": {path.name: sha256(path) for path in files},
        "model": {"path": str(model), "sha256": sha256(model), "name": job.checkpoint.experiment.name},
        "ensemble": [{"path": str(path), "sha256": sha256(path)} for path in others],
        "options": options,
        "seams": seams.to_dict(),
        "versions": versions(),
        "machine": {"system": platform.platform(), "processor": processor()},
        "experiment": job.checkpoint.experiment.model_dump(mode="json"),
        "scene": scene_to_dict(job.scene),
        "inputs": inputs(job.scene),
    }
    path = Passport.beside(target)
    write_whole(path, json.dumps(values, indent=1))
    return Passport(values, path)


def fingerprint(job: Job, models: Sequence[Path]) -> dict[str, Any]:
    """What must be equal for tiles to belong to the same map."""
    scene = json.dumps(scene_to_dict(job.scene), sort_keys=True)
    windows = job.windows
    return {
        "model": [*map(sha256, models)],
        "flips": job.checkpoint.flips,
        "scene": hashlib.sha256(scene.encode()).hexdigest(),
        "windows": [windows.rows.window, windows.tile, windows.rows.starts[:2], windows.columns.starts[:2]],
        "products": list(job.extras),
        "skipped": list(job.scene.skipped),
        "versions": versions(),
    }


def inputs(scene: Scene) -> dict[str, str | None]:
    """A quick checksum of every input file that lies on this machine: its size and both ends."""
    hrefs = sorted({href for layer in scene.layers for frame in layer.frames for href in frame.hrefs})
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(hrefs, pool.map(_quick_sum, hrefs), strict=True))


def _quick_sum(href: str) -> str | None:
    path = Path(href)
    if not path.is_file():
        return None
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(ENDS, size - ENDS))
        digest.update(file.read(ENDS))
    return f"{size}:{digest.hexdigest()[:32]}"


def versions() -> dict[str, str]:
    """Versions of what decides a map."""
    return library_versions() | {"rasterio": version("rasterio"), "gdal": rasterio.__gdal_version__}


def processor() -> str:
    """The kind of processor; sums may round differently on another."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor()
