"""Maps and embeddings of a scene as xarray datasets, for work in Python; ``map_scene`` writes files instead."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch.nn.functional as F
import xarray as xr
from odc.geo.xr import xr_coords

from agrifm.checkpoint import Checkpoint
from agrifm.data.transforms import resize
from agrifm.maps.files.writer import NODATA
from agrifm.maps.map_scene import plan
from agrifm.maps.options import DEFAULTS, MapOptions
from agrifm.maps.runner import here
from agrifm.maps.tiles import BATCH, MapJob, clear_dates, one_thread
from agrifm.nn.model import CropModel
from agrifm.sample import collate
from agrifm.scenes.scene import Area, Scene, Tile
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.linear_probe import head_inputs

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
    for tile, arrays in here(job, job.windows.tiles()):
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
    alone = replace(checkpoint, flips=False, others=())  # features of several models have no common axes
    job = plan(alone, scene, options)
    embedding: np.ndarray | None = None
    with one_thread():
        for tile in job.windows.tiles():
            data = job.read(tile)
            part = _embed_tile(job, tile, data)
            if part is None:
                continue
            if embedding is None:
                embedding = np.full((len(part), *scene_shape(job)), np.nan, np.float32)
            rows, columns = _slices(tile)
            embedding[:, rows, columns] = part
    if embedding is None:
        embedding = np.full((0, *scene_shape(job)), np.nan, np.float32)
    y, x = job.scene.grid.dimensions
    attributes = {"long_name": "features of the last layer", "grid_mapping": "spatial_ref"}
    return xr.Dataset(
        {"embedding": (("feature", y, x), embedding, attributes)},
        coords={**xr_coords(job.scene.grid), "feature": np.arange(len(embedding))},
        attrs={"scene": job.scene.name},
    )


def scene_shape(job: MapJob) -> tuple[int, int]:
    """Rows and columns of the map."""
    height, width = job.scene.grid.shape
    return int(height), int(width)


def _slices(tile: Area) -> tuple[slice, slice]:
    """Rows and columns of a tile on the map."""
    return slice(tile.row, tile.row + tile.height), slice(tile.column, tile.column + tile.width)


def _embed_tile(job: MapJob, tile: Area, data: Tile) -> np.ndarray | None:
    """Features ``(c, h, w)`` of a tile; None where no sensor saw any of it."""
    numbers = [number for number in job.windows.over(tile) if data.has_clear_pixels(job.windows.area(number))]
    total: np.ndarray | None = None
    weights = np.zeros((tile.height, tile.width), np.float32)
    for first in range(0, len(numbers), BATCH):
        group = numbers[first : first + BATCH]
        for number, values in zip(group, _embed_windows(job, data, group), strict=True):
            if total is None:
                total = np.zeros((len(values), tile.height, tile.width), np.float32)
            part = job.windows.part(number, tile)
            total[:, *part.in_tile] += part.weight * values[:, *part.in_window]
            weights[part.in_tile] += part.weight
    if total is None:
        return None
    # Windows that saw nothing were left out, so that the weights of the others may add up to less than 1.
    total /= np.maximum(weights, 1e-6)
    seen = clear_dates(data, tile).any(0)
    total[:, ~seen] = np.nan
    return total


def _embed_windows(job: MapJob, data: Tile, numbers: list[tuple[int, int]]) -> np.ndarray:
    """Features ``(n, c, window, window)`` of some windows."""
    areas = [job.windows.area(number) for number in numbers]
    sizes = dict(job.checkpoint.experiment.data.resize)
    samples = [resize(data.cut(area, name=str(area)), sizes) for area in areas]
    model = cast(CropModel, job.model)
    device = next(model.parameters()).device
    values = head_inputs(model, collate(samples).to(device))
    size = (areas[0].height, areas[0].width)
    if values.shape[-2:] != size:
        values = F.interpolate(values, size, mode="bilinear")
    return values.cpu().numpy()


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
