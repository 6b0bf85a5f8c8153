"""Open a scene: files, cubes, item lists, or a description of several of them."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.config.problems import explain
from agrifm.errors import InputError, Unreadable
from agrifm.scenes.assemble import assemble
from agrifm.scenes.corrections import corrected
from agrifm.scenes.description import OF_SOURCE, Description, Source, describe, load_description
from agrifm.scenes.files import look, split_path
from agrifm.scenes.folders import kind_of
from agrifm.scenes.frames import Reading, given_units
from agrifm.scenes.scene import Layer, ReflectanceLimits, Scene
from agrifm.scenes.units import refuse_unknown_offset
from agrifm.stac.items import frames_of

OF_ITEMS = ("scale", "offset", "folders")  # what may be said of item lists, which say the rest themselves
SEARCHED = ("bbox", "start", "end", "crs", "resolution")


def open_scene(path: Path, overrides: Sequence[str] = (), *, skip_unreadable: bool = False) -> Scene:
    """Open a scene; headers are read, pixels are not.

    Args:
        path: Folder of rasters, a path with a pattern such as ``dir/{date}_{band}_{res}.jp2``, netCDF file or Zarr
            store, ``scene.yaml``, or a STAC item list.
        overrides: ``key=value`` with keys of ``Description`` or, for a single source, of ``Source``.
        skip_unreadable: Leave out dates with a file that does not open or is missing; ``skipped`` names them.

    Raises:
        InputError: If the path is no scene.
        Unreadable: If a file does not open, or a date lacks a band.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        description = load_description(path, overrides)
    else:
        description = describe({"sources": [{"path": path}]}, overrides, path)
    layers: list[Layer] = []
    skipped: list[str] = []
    for source in description.sources:
        found, left_out, searched = _read(source, description, skip_unreadable)
        layers, skipped = [*layers, *found], [*skipped, *left_out]
        if len(description.sources) == 1:
            description = _as_searched(description, searched)
    layers, left_out = corrected(layers, description, path)
    for layer in layers:
        for frame in layer.frames:
            refuse_unknown_offset(frame.units, f"{path}: {frame.name}")
    possible = ReflectanceLimits(*description.reflectance, description.impossible)
    layers = [layer.within(possible) for layer in layers]
    return _assembled(layers, description, _name(path), [*skipped, *left_out], skip_unreadable)


def _read(source: Source, description: Description, skip: bool) -> tuple[list[Layer], list[str], Mapping[str, Any]]:
    """Layers of a source, what was left out, and how its items were searched for."""
    if not _is_json(source.path):
        found = look(source, description.start, description.end)
        return *Reading(source, found, skip).layers(), {}
    wrong = next((key for key in OF_SOURCE if key not in OF_ITEMS and getattr(source, key) is not None), None)
    if wrong is not None:
        raise InputError(
            f"{source.path}: {wrong}",
            found="a value",
            expected=f"none: of an item list only {' and '.join(OF_ITEMS)} may be given",
            repair="leave it out; sensor, bands and quality layers stand in the items.",
        )
    layers, record = frames_of(source.path, skip_incomplete=skip, folders=source.folders or ())
    return [_with_units(layer, source) for layer in layers], list(record.get("skipped", ())), record


def _with_units(layer: Layer, source: Source) -> Layer:
    return replace(layer, frames=tuple(replace(f, units=given_units(f.units, source)) for f in layer.frames))


def _as_searched(description: Description, record: Mapping[str, Any]) -> Description:
    """What was asked for in the search holds unless something else is asked for now."""
    given = {key: record[key] for key in SEARCHED if record.get(key) is not None and getattr(description, key) is None}
    if description.aoi is not None:
        given.pop("bbox", None)
    try:
        return Description.model_validate({**description.model_dump(), **given})
    except ValidationError as error:
        where = f"{description.sources[0].path}: agrifm"
        repair = "search again with 'agrifm scene search', or delete 'agrifm' from the file."
        raise explain(error, where, Description, repair=repair) from error


def _assembled(
    layers: Sequence[Layer], description: Description, name: str, skipped: Sequence[str], skip: bool
) -> Scene:
    """The scene; files that turn out not to open are left out on request."""
    skipped = list(skipped)
    while True:
        try:
            return assemble(
                layers,
                crs=description.crs,
                resolution=description.resolution,
                bounds=description.bounds(),
                start=description.start,
                end=description.end,
                name=name,
                skipped=skipped,
            )
        except Unreadable as error:
            needing = [frame for layer in layers for frame in layer.frames if error.where in frame.hrefs]
            if not (skip and needing):
                raise
            skipped.append(error.where)
            layers = [replace(layer, frames=tuple(f for f in layer.frames if f not in needing)) for layer in layers]


def _name(path: Path) -> str:
    root = split_path(path, None)[0]
    return root.name if kind_of(root) == stat.S_IFDIR and root.suffix != ".zarr" else root.stem


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".json", ".geojson")
