"""A scene as plain values: every file, date, unit and rule, as the provenance of a map stores it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter

from agrifm.errors import InputError, refusing
from agrifm.rasters.grid import check_grid
from agrifm.scenes.quality import RULES
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.sensors import Sensor

FORMAT = "agrifm-scene-1"
_LAYERS = TypeAdapter(tuple[Layer, ...])
EXPECTED = f"a scene as 'agrifm map' stores it ({FORMAT})"
REPAIR = "restore the file, or open the scene from its images."


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


def scene_from_dict(values: Mapping[str, Any], where: object = "scene") -> Scene:
    """The scene of such values.

    Raises:
        InputError: If they are not those of a scene.
    """
    with refusing(where, expected=EXPECTED, repair=REPAIR):
        grid = values["grid"]
        height, width = (_whole(side) for side in grid["shape"])
        transform = [float(number) for number in grid["transform"]]
        box = GeoBox((height, width), Affine(*transform), str(grid["crs"]))
        layers = _LAYERS.validate_python(values["layers"])
        skipped = tuple(str(text) for text in values["skipped"])
        name = str(values["name"])
    check_grid(box, f"{where}: grid")
    _check_layers(layers, where)
    return Scene(layers, box, name, skipped)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a side of {value!r} pixels")
    return value


def _check_layers(layers: tuple[Layer, ...], where: object) -> None:
    """Refuse layers that could not be read later on."""
    names = [layer.sensor.name for layer in layers]
    if not layers or len(set(names)) < len(names):
        raise _refused(where, f"the sensors {', '.join(names) or '(none)'}")
    for layer in layers:
        if not layer.frames or not _has_units(layer.sensor):
            raise _refused(f"{where}: {layer.sensor.name}", "no images, or no units")
        for frame in layer.frames:
            problem = _problem(frame, layer.sensor)
            if problem:
                raise _refused(f"{where}: {layer.sensor.name}, {frame.day}", problem)


def _has_units(sensor: Sensor) -> bool:
    return math.isfinite(sensor.scale) and sensor.scale > 0 and math.isfinite(sensor.offset)


def _problem(frame: Frame, sensor: Sensor) -> str | None:
    missing = [band for band in sensor.band_ids if band not in frame.bands]
    if missing:
        return f"no band {', '.join(missing)}"
    if not (math.isfinite(frame.units.scale) and frame.units.scale and math.isfinite(frame.units.offset)):
        return f"scale {frame.units.scale:g} and offset {frame.units.offset:g}"
    if frame.quality is not None and frame.quality.rule not in RULES:
        return f"the rule {frame.quality.rule!r} of a quality layer"
    return None


def _refused(where: object, found: str) -> InputError:
    return InputError(where, found=found, expected=EXPECTED, repair=REPAIR)
