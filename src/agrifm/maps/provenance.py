"""Provenance of a map or of embeddings: all that they were computed from, so that anyone can compute them again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import rasterio
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from agrifm.checkpoint import library_versions
from agrifm.errors import LONGEST, InputError, printable, refusing
from agrifm.io import plain_name, sha256
from agrifm.maps.inputs import checksums, stamps
from agrifm.maps.options import EmbedOptions, MapOptions
from agrifm.maps.seam_audit import Seams
from agrifm.maps.tiles import TileJob
from agrifm.scenes.document import scene_from_dict, scene_to_dict
from agrifm.scenes.scene import Scene
from agrifm.settings.problems import explain
from agrifm.tasks.watershed import Watershed

FORMAT = "agrifm-passport-1"
EMBEDDING = "embedding"  # value of the key "product" for embeddings; maps have no such key
TILES = "agrifm-tiles-2"  # format of the tiles of an unfinished map
LARGEST_FILE = 1 << 29  # bytes of a provenance file; one with 10,000 images has some 30 MB
MOST_PIXELS = 10_000_000  # along one side of a grid; the equator has 4 million at 10 m
FARTHEST = 1e9  # largest coordinate and pixel size, in units of the CRS
MOST_TEXT = 100_000  # characters of a CRS
MOST_HREF = 8192  # characters of a path or address


def _plain(name: str) -> str:
    return plain_name(name, "files")


def _transform(values: tuple[float, ...]) -> tuple[float, ...]:
    a, b, _, d, e, _ = values
    if abs(a * e - b * d) < 1e-18:
        raise ValueError("pixels without an area")
    if any(abs(value) > FARTHEST for value in values):
        raise ValueError(f"a coordinate beyond {FARTHEST:g}")
    return values


def _printed(text: str) -> str:
    for start in range(0, len(text), LONGEST):  # signed addresses are long
        part = text[start : start + LONGEST]
        if printable(part) != part:
            raise ValueError("control characters in a path")
    return text


Sum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, AfterValidator(_plain)]
Text = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
Href = Annotated[str, Field(min_length=1, max_length=MOST_HREF), AfterValidator(_printed)]
Side = Annotated[int, Field(strict=True, ge=1, le=MOST_PIXELS)]


class _Part(BaseModel):
    """A part of the file; keys that later versions add are kept and not checked."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Model(_Part):
    """A checkpoint and its checksum."""

    path: Href
    sha256: Sum
    name: str = ""


class Grid(_Part):
    """Grid of the map."""

    crs: Text
    shape: tuple[Side, Side]
    transform: Annotated[tuple[FiniteFloat, ...], Field(min_length=6, max_length=6), AfterValidator(_transform)]


class Raster(_Part):
    """Path of a band or quality layer."""

    href: Href


class QualityLayer(_Part):
    """Quality layer, which distinguishes clear ground from clouds."""

    raster: Raster


class StoredUnits(_Part):
    """Units of stored numbers."""

    scale: Annotated[FiniteFloat, Field(gt=0)] = 1e-4
    offset: FiniteFloat = 0.0


class Image(_Part):
    """One date of one sensor, as in a scene."""

    day: Text
    bands: Annotated[dict[str, Raster], Field(min_length=1)]
    quality: QualityLayer | None = None
    units: StoredUnits = StoredUnits()


class Sensor(_Part):
    """Sensor, as far as it decides how much is read."""

    name: Text
    gsd: Annotated[FiniteFloat, Field(gt=0, le=1e6)]


class Layer(_Part):
    """All dates of one sensor."""

    sensor: Sensor
    frames: Annotated[list[Image], Field(min_length=1)]


class SceneDocument(_Part):
    """Images; the rest is checked when the scene is opened."""

    grid: Grid
    skipped: list[Href] = []
    layers: Annotated[list[Layer], Field(min_length=1)]


class Task(_Part):
    """Task of the model, as far as fields need it."""

    kind: str = ""
    classes: list[Any] | None = None
    watershed: Watershed = Watershed()


class ExperimentDocument(_Part):
    """Experiment of the model, as far as maps need it."""

    task: Task


class Machine(_Part):
    """Machine that computed the map."""

    system: str = ""
    processor: str = ""


class Document(_Part):
    """The whole file, whatever product it describes."""

    format: Literal["agrifm-passport-1"]
    files: Annotated[dict[Name, Sum], Field(min_length=1)]
    model: Model
    ensemble: list[Model] = []
    versions: dict[str, str]
    machine: Machine
    experiment: ExperimentDocument
    scene: SceneDocument
    inputs: dict[str, str | None]


class MapDocument(Document):
    """Provenance of a map."""

    options: MapOptions
    seams: Seams


class EmbeddingDocument(Document):
    """Provenance of embeddings."""

    options: EmbedOptions
    clipped: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class Provenance:
    """Provenance of a map.

    Args:
        values: Content of the file.
        path: Path of the file.

    Raises:
        InputError: If a value is missing or of another type or range.
    """

    values: dict[str, Any]
    path: Path

    def __post_init__(self) -> None:
        self.document  # noqa: B018 - checked when it is opened

    @classmethod
    def beside(cls, target: Path) -> Path:
        """Path of the provenance of a map."""
        return target.with_name(target.stem + ".passport.json")

    @classmethod
    def load(cls, path: Path) -> Provenance:
        """Read a provenance file and check every part of it.

        Raises:
            InputError: If it is missing, damaged or another kind of file.
        """
        if not path.is_file():
            raise _no_provenance(path, "no such file")
        if path.stat().st_size > LARGEST_FILE:
            raise _no_provenance(path, f"a file of {path.stat().st_size / 1e6:,.0f} MB")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _no_provenance(path, str(error)) from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise _no_provenance(path, f"format {found!r}")
        return cls(values, path)

    @cached_property
    def document(self) -> MapDocument | EmbeddingDocument:
        """The checked values.

        Raises:
            InputError: If a value is missing or of another type.
        """
        try:
            if self.values.get("product") == EMBEDDING:
                return EmbeddingDocument.model_validate(self.values)
            return MapDocument.model_validate(self.values)
        except ValidationError as error:
            repair = "copy the file again from where the map was computed; it was damaged or changed."
            raise explain(error, self.path, Document, repair=repair) from error

    @cached_property
    def scene(self) -> Scene:
        """The scene with all of its files."""
        with refusing(f"{self.path}: scene", expected="a scene as 'agrifm map' stores it"):
            return scene_from_dict(self.values["scene"], self.path)

    def describes(self, job: TileJob, models: Sequence[Path], options: MapOptions | EmbedOptions) -> bool:
        """Whether a product computed now would have the same model, images, options and versions."""
        for key, value in _made_of(job, models, options).items():
            if json.dumps(self.values.get(key)) != json.dumps(value):  # as text: in JSON, NaN equals itself
                return False
        return True


def _no_provenance(path: Path, found: str) -> InputError:
    return InputError(
        path, found=found, expected=f"a provenance file of 'agrifm map' ({FORMAT})", repair="name OUT.passport.json."
    )


def _made_of(job: TileJob, models: Sequence[Path], options: MapOptions | EmbedOptions) -> dict[str, Any]:
    """What decides a product; of several models, the first one defines the classes."""
    model, *others = models
    return {
        "model": {"path": str(model), "sha256": sha256(model), "name": job.checkpoint.experiment.name},
        "ensemble": [{"path": str(path), "sha256": sha256(path)} for path in others],
        "options": TypeAdapter(type(options)).dump_python(options, mode="json"),
        "versions": versions(),
        "scene": scene_to_dict(job.scene),
        "inputs": checksums(job.scene),
    }


def provenance_of(
    files: Mapping[str, str],
    job: TileJob,
    models: Sequence[Path],
    options: MapOptions | EmbedOptions,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of the provenance file of a finished product.

    Args:
        files: Checksums of its files by name.
        job: What was computed.
        models: Checkpoints.
        options: Options of the product.
        measured: What was measured on the product, such as its seams.
    """
    made_of = _made_of(job, models, options)
    product = {"product": EMBEDDING} if isinstance(options, EmbedOptions) else {}
    return {
        "format": FORMAT,
        **product,
        "files": dict(files),
        "model": made_of["model"],
        "ensemble": made_of["ensemble"],
        "options": made_of["options"],
        **measured,
        "versions": made_of["versions"],
        "machine": {"system": platform.platform(), "processor": processor()},
        "experiment": job.checkpoint.experiment.model_dump(mode="json"),
        "scene": made_of["scene"],
        "inputs": made_of["inputs"],
    }


def fingerprint(job: TileJob, models: Sequence[Path]) -> dict[str, Any]:
    """Identity of a product: tiles with an equal one belong to the same product and come from unchanged files."""
    scene = json.dumps(scene_to_dict(job.scene), sort_keys=True)
    windows = job.windows
    return {
        "format": TILES,
        "model": [*map(sha256, models)],
        "flips": job.checkpoint.flips,
        "scene": hashlib.sha256(scene.encode()).hexdigest(),
        "windows": [windows.rows.window, windows.tile, windows.rows.starts[:2], windows.columns.starts[:2]],
        "products": job.products,
        "skipped": list(job.scene.skipped),
        "versions": versions(),
        "inputs": stamps(job.scene),
    }


def versions() -> dict[str, str]:
    """Versions of what decides a map."""
    return library_versions() | {"rasterio": version("rasterio"), "gdal": rasterio.__gdal_version__}


def processor() -> str:
    """Model of the processor; sums may round differently on another one."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
