"""A scene as a JSON document: every file, date, unit and rule, so that it can be opened again exactly as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter, ValidationError

from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.scenes.scene import Layer, Scene

FORMAT = "agrifm-scene-1"
_LAYERS = TypeAdapter(tuple[Layer, ...])


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """The scene as plain values; nothing of the pixels is in it."""
    return {
        "format": FORMAT,
        "name": scene.name,
        "grid": {
            "crs": str(scene.grid.crs),
            "shape": list(scene.grid.shape),
            "transform": list(scene.grid.affine)[:6],
        },
        "skipped": list(scene.skipped),
        "layers": _LAYERS.dump_python(scene.layers, mode="json"),
    }


def scene_from_dict(values: dict[str, Any], where: object = "scene") -> Scene:
    """The scene of such values.

    Raises:
        InputError: they are not those of a scene.
    """
    try:
        grid = values["grid"]
        box = GeoBox(tuple(grid["shape"]), Affine(*grid["transform"]), grid["crs"])
        layers = _LAYERS.validate_python(values["layers"])
        return Scene(layers, box, str(values["name"]), tuple(values["skipped"]))
    except (KeyError, TypeError, ValidationError, ValueError) as error:
        raise InputError(
            where,
            found=f"a description that does not fit: {str(error).splitlines()[0]}",
            expected=f"a scene as 'agrifm map' stores it ({FORMAT})",
            repair="restore the file, or open the scene from its images.",
        ) from error


def save_scene(scene: Scene, path: Path) -> None:
    """Write a scene; the file appears whole."""
    write_whole(path, json.dumps(scene_to_dict(scene), indent=1))


def load_scene(path: Path) -> Scene:
    """Read a scene.

    Raises:
        InputError: the file does not open or is of another kind.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            path, found=f"a file that does not open: {error}", expected="a scene in JSON", repair="restore the file."
        ) from error
    return scene_from_dict(values, path)
