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
EXPECTED = f"a scene as 'agrifm map' stores it ({FORMAT})"
REPAIR = "restore the file, or open the scene from its images."

_LAYERS = TypeAdapter(tuple[Layer, ...])


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """Convert a scene to plain values; no pixels are among them."""
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
    """Restore a scene from plain values.

    Args:
        values: Values as ``scene_to_dict`` returns them.
        where: File and field that hold them, for errors.

    Raises:
        InputError: If they do not describe a scene.
    """
    with refusing(where, expected=EXPECTED, repair=REPAIR):
        grid = values["grid"]
        height, width = [_check_side(side) for side in grid["shape"]]
        transform = [float(number) for number in grid["transform"]]
        box = GeoBox((height, width), Affine(*transform), str(grid["crs"]))
        layers = _LAYERS.validate_python(values["layers"])
        skipped = tuple(str(text) for text in values["skipped"])
        name = str(values["name"])
    check_grid(box, f"{where}: grid")
    _check_layers(layers, where)
    return Scene(layers, box, name, skipped)


def _check_side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a side of {value!r} pixels")
    return value


def _check_layers(layers: tuple[Layer, ...], where: object) -> None:
    """Refuse layers that could not be read later on."""
    names = [layer.sensor.name for layer in layers]
    if not layers or len(set(names)) < len(names):
        raise _invalid(where, f"the sensors {', '.join(names) or '(none)'}")
    for layer in layers:
        if not layer.frames or not _has_units(layer.sensor):
            raise _invalid(f"{where}: {layer.sensor.name}", "no images, or no units")
        for frame in layer.frames:
            problem = _find_problem(frame, layer.sensor)
            if problem:
                raise _invalid(f"{where}: {layer.sensor.name}, {frame.day}", problem)


def _has_units(sensor: Sensor) -> bool:
    return math.isfinite(sensor.scale) and sensor.scale > 0 and math.isfinite(sensor.offset)


def _find_problem(frame: Frame, sensor: Sensor) -> str | None:
    missing = [band for band in sensor.band_ids if band not in frame.bands]
    if missing:
        return f"no band {', '.join(missing)}"
    scale, offset = frame.units.scale, frame.units.offset
    if not (math.isfinite(scale) and scale and math.isfinite(offset)):
        return f"scale {scale:g} and offset {offset:g}"
    limits = frame.possible
    if not (math.isfinite(limits.low) and math.isfinite(limits.high) and limits.low < limits.high):
        return f"a range of reflectance from {limits.low:g} to {limits.high:g}"
    if not 0 <= limits.most <= 1:
        return f"a share of impossible pixels of {limits.most:g}"
    if frame.quality is not None and frame.quality.rule not in RULES:
        return f"the rule {frame.quality.rule!r} of a quality layer"
    return None


def _invalid(where: object, found: str) -> InputError:
    return InputError(where, found=found, expected=EXPECTED, repair=REPAIR)
