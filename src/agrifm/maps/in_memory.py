"""Maps and embeddings of a scene as xarray datasets, for work in Python; ``map_scene`` writes files instead."""

from __future__ import annotations

import numpy as np
import xarray as xr
from odc.geo.xr import xr_coords

from agrifm.checkpoint import Checkpoint
from agrifm.maps.embedding.job import plan_embedding
from agrifm.maps.files.writer import NODATA
from agrifm.maps.map_scene import plan
from agrifm.maps.options import DEFAULTS, EmbedOptions, MapOptions
from agrifm.maps.runner import here
from agrifm.maps.tiles import MapJob, TileJob
from agrifm.progress import Timing
from agrifm.scenes.scene import Area, Scene
from agrifm.tasks.segmentation import Segmentation

PERCENT = ("probabilities", "confidence", "entropy")  # layers that tiles hold as whole percent


def predict_scene(checkpoint: Checkpoint, scene: Scene, options: MapOptions = DEFAULTS) -> xr.Dataset:
    """Map a scene in memory, with the same windows and the same classes as ``map_scene``.

    Args:
        checkpoint: Trained model.
        scene: Scene with at least one of the model's sensors.
        options: Extra layers, windows, device.

    Returns:
        Dataset on the grid of the scene with ``classes (y, x)``, 255 where no sensor saw the ground, and the layers
        that ``options.extras`` names. ``probabilities (class, y, x)``, ``confidence`` and ``entropy`` are shares in
        steps of 0.01, NaN where there is no class.

    Raises:
        InputError: If the sensors do not fit or a file cannot be read.
    """
    job = plan(checkpoint, scene, options)
    layers: dict[str, np.ndarray] = {}
    for tile, arrays in here(job, job.windows.tiles(), Timing()):
        for name in ("classes", *job.extras):
            array = arrays[name]
            if name not in layers:
                layers[name] = np.full((*array.shape[:-2], *scene_shape(job)), NODATA, np.uint8)
            rows, columns = _slices(tile)
            layers[name][..., rows, columns] = array
    return _dataset(job, layers)


def embed_scene(checkpoint: Checkpoint, scene: Scene, options: MapOptions = DEFAULTS) -> xr.Dataset:
    """Features of every pixel of a scene: what the model's last layer is given.

    Args:
        checkpoint: Trained or pre-trained model.
        scene: Scene with at least one of the model's sensors.
        options: Windows and device; extra layers are ignored.

    Returns:
        Dataset on the grid of the scene with ``embedding (feature, y, x)`` float32, NaN where no sensor saw the ground.

    Raises:
        InputError: If the sensors do not fit or a file cannot be read.
    """
    job = plan_embedding(checkpoint, scene, EmbedOptions("float32", options.window, options.memory, options.device))
    embedding = np.full((job.channels, *scene_shape(job)), np.nan, np.float32)
    for tile, arrays in here(job, job.windows.tiles(), Timing()):
        rows, columns = _slices(tile)
        embedding[:, rows, columns] = arrays["embedding"]
    y, x = job.scene.grid.dimensions
    attributes = {"long_name": "features of the last layer", "grid_mapping": "spatial_ref"}
    return xr.Dataset(
        {"embedding": (("feature", y, x), embedding, attributes)},
        coords={**xr_coords(job.scene.grid), "feature": np.arange(len(embedding))},
        attrs={"scene": job.scene.name},
    )


def scene_shape(job: TileJob) -> tuple[int, int]:
    """Rows and columns of the map."""
    height, width = job.scene.grid.shape
    return int(height), int(width)


def _slices(tile: Area) -> tuple[slice, slice]:
    """Rows and columns of a tile on the map."""
    return slice(tile.row, tile.row + tile.height), slice(tile.column, tile.column + tile.width)


def _dataset(job: MapJob, layers: dict[str, np.ndarray]) -> xr.Dataset:
    y, x = job.scene.grid.dimensions
    task = job.checkpoint.experiment.task
    names = list(task.names)
    classes_attributes = {
        "flag_values": np.arange(len(names), dtype=np.uint8),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in names),
        "_FillValue": np.uint8(NODATA),
        "grid_mapping": "spatial_ref",
    }
    coordinates = {**xr_coords(job.scene.grid)}
    variables = {"classes": ((y, x), layers["classes"], classes_attributes)}
    attributes = {"grid_mapping": "spatial_ref"}
    for name, values in layers.items():
        if name in PERCENT:
            values = np.where(values == NODATA, np.nan, values / np.float32(100)).astype(np.float32)
        if name == "probabilities":
            coordinates["class"] = names
            variables[name] = (("class", y, x), values, attributes)
        elif name == "observations":
            coordinates["sensor"] = [sensor.name for sensor in job.scene.sensors]
            variables[name] = (("sensor", y, x), values, attributes)
        elif name in ("confidence", "entropy"):
            variables[name] = ((y, x), values, attributes)
        elif name != "classes":
            variables[name] = ((f"{name}_band", y, x), values, attributes)
    colors = {"class_names": names}
    if isinstance(task, Segmentation):
        colors["class_colors"] = list(task.colors)
    return xr.Dataset(variables, coords=coordinates, attrs={"scene": job.scene.name, **colors})
