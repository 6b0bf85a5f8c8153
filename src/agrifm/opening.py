"""Open a scene: files, cubes, item lists, or a description of several of them."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.errors import InputError, Unreadable
from agrifm.scenes.assemble import assemble
from agrifm.scenes.corrections import apply_corrections
from agrifm.scenes.description import SOURCE_KEYS, Description, Source, describe, load_description
from agrifm.scenes.discovery.files import find_files, split_path
from agrifm.scenes.discovery.frames import FrameBuilder
from agrifm.scenes.folders import kind_of
from agrifm.scenes.scene import Layer, Scene
from agrifm.scenes.units import refuse_unknown_offset
from agrifm.settings.problems import explain
from agrifm.stac.items import frames_of

ITEM_LIST_KEYS = ("scale", "offset", "folders")  # settings of item lists; the items state everything else
SEARCH_KEYS = ("bbox", "start", "end", "crs", "resolution")  # settings of a search that its item list records


def open_scene(path: Path, overrides: Sequence[str] = (), *, skip_unreadable: bool = False) -> Scene:
    """Open a scene; headers are read, pixels are not.

    Args:
        path: Folder of rasters, a path with a pattern such as ``dir/{date}_{band}_{res}.jp2``, netCDF file or Zarr
            store, ``scene.yaml``, or a STAC item list.
        overrides: ``key=value`` with keys of ``Description`` or, for a single source, of ``Source``.
        skip_unreadable: Leave out dates with a file that does not open or is missing; ``skipped`` names them.

    Raises:
        InputError: If the path holds no scene; the error states why and what to do.
        Unreadable: If a file does not open, or a date lacks a band.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        description = load_description(path, overrides)
    else:
        description = describe({"sources": [{"path": path}]}, overrides, path)
    layers: list[Layer] = []
    skipped: list[str] = []
    search: Mapping[str, Any] = {}
    for source in description.sources:
        if _is_item_list(source.path):
            source_layers, search = _open_item_list(source, skip_unreadable)
            incomplete = search["skipped"]
        else:
            files = find_files(source, description.start, description.end)
            source_layers, incomplete = FrameBuilder(source, files, skip_unreadable).layers()
        layers += source_layers
        skipped += incomplete
    # A scene of several sources has an area and a period of its own.
    if len(description.sources) == 1:
        description = _with_search_settings(description, search)
    layers, left_out = apply_corrections(layers, description, path)
    layers = [layer.with_limits(description.limits) for layer in layers]
    for layer in layers:
        for frame in layer.frames:
            refuse_unknown_offset(frame.units, f"{path}: {frame.name}")
    return _assemble(layers, description, _scene_name(path), skipped + left_out, skip_unreadable)


def _is_item_list(path: Path) -> bool:
    return path.suffix.lower() in (".json", ".geojson")


def _open_item_list(source: Source, skip_unreadable: bool) -> tuple[list[Layer], Mapping[str, Any]]:
    """Return the layers of an item list, and the record of its search with what was left out as ``skipped``."""
    for key in SOURCE_KEYS:
        if key not in ITEM_LIST_KEYS and getattr(source, key) is not None:
            raise InputError(
                f"{source.path}: {key}",
                found="a value",
                expected=f"none: of an item list only {' and '.join(ITEM_LIST_KEYS)} may be given",
                repair="leave it out; sensor, bands and quality layers are stated in the items.",
            )
    layers, record = frames_of(source.path, skip_incomplete=skip_unreadable, folders=source.folders or ())
    overridden = []
    for layer in layers:
        frames = [replace(frame, units=source.override(frame.units)) for frame in layer.frames]
        overridden.append(replace(layer, frames=tuple(frames)))
    return overridden, record


def _with_search_settings(description: Description, record: Mapping[str, Any]) -> Description:
    """Return the description with the settings of the search, where the user gives no others now."""
    settings = {}
    for key in SEARCH_KEYS:
        if record.get(key) is not None and getattr(description, key) is None:
            settings[key] = record[key]
    if description.aoi is not None:
        settings.pop("bbox", None)
    try:
        return Description.model_validate({**description.model_dump(), **settings})
    except ValidationError as error:
        where = f"{description.sources[0].path}: agrifm"
        repair = "search again with 'agrifm scene search', or delete 'agrifm' from the file."
        raise explain(error, where, Description, repair=repair) from error


def _assemble(
    layers: Sequence[Layer], description: Description, name: str, skipped: Sequence[str], skip_unreadable: bool
) -> Scene:
    """Assemble the scene; on request without the frames of files that turn out not to open."""
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
            # Georeferences are read now, so further files may turn out to be damaged.
            is_of_frame = any(error.where in frame.hrefs for layer in layers for frame in layer.frames)
            if not (skip_unreadable and is_of_frame):
                raise
            skipped.append(error.where)
            layers = [layer.without(error.where) for layer in layers]


def _scene_name(path: Path) -> str:
    root, _ = split_path(path, None)
    is_folder = kind_of(root) == stat.S_IFDIR and root.suffix != ".zarr"
    return root.name if is_folder else root.stem
