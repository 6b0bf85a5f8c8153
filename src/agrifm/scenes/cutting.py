"""Samples cut from a tile: the one place where pixels of a scene become tensors."""

from __future__ import annotations

import numpy as np
import torch

from agrifm.sample import Sample
from agrifm.scenes.tile import Area, Tile


def cut_sample(tile: Tile, area: Area, name: str = "") -> Sample:
    """Cut the sample of an area inside a tile; each sensor has the pixels that a chip of that size has.

    Args:
        tile: Tile to cut from.
        area: Area inside the tile.
        name: Name of the sample.
    """
    images = {}
    dates = {}
    valid = {}
    for sensor, stack in tile.stacks.items():
        rows, columns = stack.under(area)
        image = stack.images[:, :, rows, columns]
        if image.dtype == np.uint16:  # few operations of PyTorch know this type
            image = image.astype(np.int32)
        images[sensor] = torch.from_numpy(image)
        valid[sensor] = torch.from_numpy(stack.clear[:, rows, columns])
        dates[sensor] = torch.from_numpy(stack.days)
    return Sample(images, dates, valid, name=name)
