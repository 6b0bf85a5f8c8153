"""Computation of the features of one tile, and of the range of features in a sample of windows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError
from agrifm.maps.embedding.coding import Coding
from agrifm.maps.map_scene import scene_for, windows_on
from agrifm.maps.options import EmbedOptions
from agrifm.maps.tiles import TileJob, clear_dates, impossible_counts, one_thread
from agrifm.nn.model import CropModel
from agrifm.sample import Batch
from agrifm.scenes.scene import Area, Scene, Tile

PLACES = 16  # of the scene from which the range of the features is derived
SAMPLED_SIDE = 2  # windows along one side of a place: reading files costs more than reading a few pixels more
COPIES = 3  # of the features of a tile that are held in memory: sums, features and stored numbers


@dataclass(frozen=True)
class EmbedJob(TileJob):
    """Features of every pixel: what the last layer of the model is given.

    Args:
        dtype: How features are stored.
        coding: Scales and offsets of int8, once they are known.
    """

    dtype: str = "int8"
    coding: Coding | None = None

    # With one window in each pass, features do not depend on how the scene is cut into tiles, not even by rounding.
    batch: ClassVar[int] = 1

    @property
    def products(self) -> list[str]:
        """The features and their type."""
        return [f"embedding {self.dtype}"]

    @property
    def channels(self) -> int:
        """Number of features."""
        return feature_count(self.checkpoint)

    def make(self, tile: Area, data: Tile, threads: Executor) -> dict[str, np.ndarray]:
        """Compute ``embedding (c, h, w)``, and the number of clipped features; see :meth:`TileJob.make`."""
        assert self.coding is not None
        stored, clipped = self.coding.encode(self.features(tile, data, threads))
        counts = np.array([[clipped]], np.int64)
        return {"embedding": stored, "clipped": counts} | impossible_counts(data, tile)

    def features(self, tile: Area, data: Tile, threads: Executor) -> np.ndarray:
        """Features ``(c, h, w)`` float32 of a tile, NaN where no sensor saw the ground."""
        total, weights = self.blend(tile, data, threads)
        seen = np.asarray(clear_dates(data, tile).any(0))
        return normalized(total, weights, seen)

    def with_range(self) -> EmbedJob:
        """Return the job with scales and offsets for int8, derived from windows at fixed places of the scene.

        The places follow from the windows alone, so that the result does not depend on tiles.
        """
        rows = range(len(self.windows.rows.starts))
        columns = range(len(self.windows.columns.starts))
        blocks = grouped([(row, column) for row in rows for column in columns], SAMPLED_SIDE)
        order = np.random.default_rng(0).permutation(len(blocks)).tolist()
        lows = []
        highs = []
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
            for first in range(0, len(order), PLACES):
                chosen = [blocks[i] for i in order[first : first + PLACES]]
                for limits in threads.map(self._range, chosen):
                    if limits is not None:
                        lows.append(limits[0])
                        highs.append(limits[1])
                if len(lows) >= PLACES:  # otherwise most of the scene is hidden, and more places are needed
                    break
        if not lows:
            lows = highs = [np.zeros(self.channels, np.float32)]
        return replace(self, coding=Coding.spanning(np.min(lows, 0), np.max(highs, 0)))

    def _range(self, numbers: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray] | None:
        """Smallest and largest value ``(c)`` of each feature in some windows; None if no pixel was seen."""
        data = self.scene.read(self.windows.around(numbers))
        lows = []
        highs = []
        for number in numbers:
            seen = np.asarray(clear_dates(data, self.windows.area(number)).any(0))
            if seen.any():
                features = self.window_features(data, number)[:, seen]
                lows.append(features.min(1))
                highs.append(features.max(1))
        if not lows:
            return None
        return np.min(lows, 0), np.max(highs, 0)

    def window_features(self, data: Tile, number: tuple[int, int]) -> np.ndarray:
        """Features ``(c, window, window)`` of one window, whether or not a pixel was seen."""
        return self._predict(data, [number])[0]

    def _predict(self, data: Tile, numbers: Sequence[tuple[int, int]]) -> np.ndarray:
        """Features of some windows, whether or not a pixel was seen."""
        return self.apply(data, numbers, _features)

    def _build(self) -> nn.Module:
        """Build the model without its head, whose inputs are the features."""
        model = cast(CropModel, super()._build())
        model.head = nn.Identity()  # ty: ignore[invalid-assignment]
        if model.config.has_pyramid:
            model.config = replace(model.config, branch="pyramid")  # a pixel branch adds to what leaves the head
        return model


def _features(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch).float()


def grouped(numbers: Sequence[tuple[int, int]], side: int) -> list[list[tuple[int, int]]]:
    """Group windows by blocks of ``side`` x ``side`` windows, so that each block is read at once."""
    blocks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, column in numbers:
        blocks.setdefault((row // side, column // side), []).append((row, column))
    return list(blocks.values())


def normalized(total: np.ndarray, weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Features ``(c, ...)`` of sums over windows, NaN where no sensor saw the ground.

    Windows that saw nothing were left out, so that the weights of the others may add up to less than 1.
    """
    features = total / np.maximum(weights, 1e-6)
    features[:, ~seen] = np.nan
    return features


def feature_count(checkpoint: Checkpoint) -> int:
    """Number of features that the last layer of a model is given.

    Raises:
        InputError: If the checkpoint has no encoder with a head.
    """
    for key, value in checkpoint.weights.items():
        if key.startswith("head.") and value.ndim == 4:
            return value.shape[1]
    raise InputError(
        "checkpoint",
        found="no encoder whose features a head is given",
        expected="a checkpoint of a network, with weights of its encoder and its head",
        repair="give a checkpoint of 'agrifm train', or the name agrifm-tiny.",
    )


def plan_embedding(checkpoint: Checkpoint, scene: Scene, options: EmbedOptions) -> EmbedJob:
    """Collect everything that decides the features of a scene.

    Raises:
        InputError: If the scene has none of the model's sensors, one of their bands is missing, or the checkpoint has
            no encoder.
    """
    # Several models have no common features, and classifiers of pixels have none that a network learned.
    alone = replace(
        checkpoint, flips=False, others=(), calibration=None, pixels=None, pixel_share=0.0, edges=None, held_out=None
    )
    output_bytes = COPIES * feature_count(alone) * np.dtype(np.float32).itemsize
    scene = scene_for(alone, scene)
    windows = windows_on(scene, alone, options.window, options.memory, output_bytes)
    coding = None if options.dtype == "int8" else Coding(options.dtype)
    return EmbedJob(alone, scene, windows, options.device, options.dtype, coding)
