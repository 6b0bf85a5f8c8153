"""Features at points, as a table for other libraries: only the windows over the points are computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyproj import CRS
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError, counted
from agrifm.io import whole
from agrifm.maps.embedding.files import band_names
from agrifm.maps.embedding.job import EmbedJob, grouped, normalized, plan_embedding
from agrifm.maps.files.writer import check_table
from agrifm.maps.options import EmbedOptions
from agrifm.maps.tiles import clear_dates, one_thread
from agrifm.scenes.scene import Area, Scene, Tile
from agrifm.vectors.outside import points_outside
from agrifm.vectors.points import DEGREES, located, read_points

READ_SIDE = 4  # windows along one side of a block that is read at once
NAMED = 5  # points that a message names


@dataclass(frozen=True)
class SampledPoints:
    """Features at points.

    Args:
        table: Columns of the points, then ``e000``, ``e001`` and so on; one row for each point, without features for
            those that are outside or that no sensor saw.
        outside: Numbers of the points outside of the scene, counted from 1.
        unseen: Numbers of the points that no sensor saw.
    """

    table: pd.DataFrame
    outside: tuple[int, ...]
    unseen: tuple[int, ...]

    def __str__(self) -> str:
        bands = sum(1 for name in self.table.columns if _is_band(name))
        given = len(self.table) - len(self.outside) - len(self.unseen)
        lines = [f"{counted(bands, 'feature')} at {given:,} of {counted(len(self.table), 'point')}"]
        for numbers, reason in ((self.outside, "outside of the scene"), (self.unseen, "never seen by a sensor")):
            if numbers:
                lines.append(f"without features because {reason}: {_listed(numbers)}")
        return "\n".join(lines)


def check_points_table(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a table that cannot be written, before anything is computed.

    Raises:
        InputError: If the suffix is unknown, the file exists, or pyarrow is missing for Parquet.
    """
    check_table(
        path,
        parquet="Parquet",
        other=".csv",
        expected="a table in Parquet or CSV, because points are given",
        repair="give a name that ends in .parquet or .csv, or leave out --at.",
        overwrite=overwrite,
    )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV; it appears whole.

    Raises:
        InputError: If the disk is full or read-only.
    """
    with whole(path) as unfinished:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(unfinished, index=False)
        else:
            table.to_csv(unfinished, index=False)


def embed_points(
    checkpoint: Checkpoint,
    scene: Scene,
    points: Any,
    options: EmbedOptions,
    *,
    where: str = "points",
    crs: str | None = None,
    console: Console | None = None,
) -> SampledPoints:
    """Compute features at points: those of the pixel that a point lies in.

    Args:
        checkpoint: Trained or pre-trained model.
        scene: Scene with at least one of the model's sensors.
        points: GeoDataFrame of points with a CRS, or a table with columns ``lon`` and ``lat`` in degrees, or ``x`` and
            ``y`` in another CRS.
        options: Windows and device.
        where: Name of the points in messages.
        crs: CRS of the points, if they do not state one.
        console: Where progress is shown.

    Returns:
        The table, and which points have no features.

    Raises:
        InputError: If the table holds no points, or all of them are outside of the scene.
    """
    console = console or Console(quiet=True)
    job = plan_embedding(checkpoint, scene, options)
    frame = _checked(located(points, where, crs), where)
    columns, x, y = _on_grid(frame, job)
    names = band_names(job.channels)
    taken = sorted(set(names) & set(columns.columns))
    if taken:
        raise InputError(
            f"{where}: {taken[0]}",
            found="a column with the name of a feature",
            expected=f"columns other than {names[0]} to {names[-1]}",
            repair="rename the column.",
        )
    height, width = job.scene.grid.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if not inside.any():
        places = np.stack([frame.geometry.x, frame.geometry.y], 1)
        raise points_outside(where, places, CRS.from_user_input(frame.crs), job.scene.grid)
    rows = y[inside].astype(int)
    pixel_columns = x[inside].astype(int)
    with console.status("computing features at points"):
        found = _at_pixels(job, rows, pixel_columns)
    features = np.full((len(columns), job.channels), np.nan, np.float32)
    features[inside] = found.T
    table = pd.concat([columns, pd.DataFrame(features, columns=list(names))], axis=1)
    unseen = inside & np.isnan(features[:, 0])
    return SampledPoints(table, _numbers(~inside), _numbers(unseen))


def embed_file(
    model: Path,
    scene: Scene,
    points: Path,
    out: Path,
    options: EmbedOptions,
    *,
    crs: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> SampledPoints:
    """Write the features at the points of a vector file as a table; see :func:`embed_points`.

    Raises:
        InputError: If points, scene and model do not fit, or the table cannot be written.
    """
    check_points_table(out, overwrite=overwrite)
    sampled = embed_points(
        Checkpoint.load(model), scene, read_points(points), options, where=str(points), crs=crs, console=console
    )
    write_table(sampled.table, out)
    return sampled


def _at_pixels(job: EmbedJob, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Features ``(c, n)`` of pixels, added up as :meth:`TileJob.blend` adds them up, so that they are the same."""
    positions = _windows_over(job, rows, columns)

    def compute(numbers: Sequence[tuple[int, int]]) -> list[_AtWindow]:
        data = job.scene.read(job.windows.around(numbers))
        return [_at_window(job, data, number, rows, columns, positions[number]) for number in numbers]

    parts: list[_AtWindow] = []
    with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
        for of_block in threads.map(compute, grouped(sorted(positions), READ_SIDE)):
            parts += of_block
    total = np.zeros((job.channels, len(rows)), np.float32)
    weights = np.zeros(len(rows), np.float32)
    seen = np.zeros(len(rows), bool)
    for part in sorted(parts, key=lambda part: part.number):  # the order in which tiles add them up
        seen[part.pixels] |= part.clear
        if part.features is not None:
            total[:, part.pixels] += part.weight * part.features
            weights[part.pixels] += part.weight
    return normalized(total, weights, seen)


@dataclass(frozen=True, eq=False)
class _AtWindow:
    """What one window says about some pixels.

    Args:
        number: Number of the window.
        pixels: Positions ``(m)`` of the pixels.
        weight: Weights ``(m)`` of the window.
        clear: Mask ``(m)`` of pixels that a sensor saw.
        features: Features ``(c, m)``; None if no pixel of the window was seen.
    """

    number: tuple[int, int]
    pixels: list[int]
    weight: np.ndarray
    clear: np.ndarray
    features: np.ndarray | None


def _at_window(
    job: EmbedJob, data: Tile, number: tuple[int, int], rows: np.ndarray, columns: np.ndarray, pixels: list[int]
) -> _AtWindow:
    window = job.windows.area(number)
    row = rows[pixels] - window.row
    column = columns[pixels] - window.column
    weight = _weights(job, number, window)[row, column]
    clear = np.asarray(clear_dates(data, window)[:, row, column].any(0))
    features = None
    if data.has_clear_pixels(window):
        features = job.window_features(data, number)[:, row, column]
    return _AtWindow(number, pixels, weight, clear, features)


def _windows_over(job: EmbedJob, rows: np.ndarray, columns: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """Positions of the pixels by the windows that lie over them."""
    row_windows = {row: job.windows.rows.over(row, row + 1) for row in set(rows.tolist())}
    column_windows = {column: job.windows.columns.over(column, column + 1) for column in set(columns.tolist())}
    positions: dict[tuple[int, int], list[int]] = {}
    for position, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        for i in row_windows[row]:
            for j in column_windows[column]:
                positions.setdefault((i, j), []).append(position)
    return positions


def _weights(job: EmbedJob, number: tuple[int, int], window: Area) -> np.ndarray:
    """Weights ``(h, w)`` of the pixels of a window."""
    row_weights = job.windows.rows.weight(number[0], window.row, window.row + window.height)
    column_weights = job.windows.columns.weight(number[1], window.column, window.column + window.width)
    return row_weights[:, None] * column_weights


def _checked(frame: Any, where: str) -> Any:
    """Refuse rows without a point.

    Raises:
        InputError: If there are some, or no rows.
    """
    kinds = sorted({str(kind) for kind in frame.geom_type.dropna()} - {"Point"})
    empty = _numbers(np.asarray(frame.geometry.isna() | frame.geometry.is_empty))
    if kinds or empty or not len(frame):
        found = f"geometries of type {', '.join(kinds)}" if kinds else f"rows without a geometry: {_listed(empty)}"
        raise InputError(
            where,
            found=found if len(frame) else "no rows",
            expected="one point in each row",
            repair="give points, e.g. the representative points of polygons, and drop rows without one.",
        )
    return frame


def _on_grid(frame: Any, job: EmbedJob) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Columns of the points, and their positions in pixels from the corner of the scene."""
    projected = frame.geometry.to_crs(str(job.scene.grid.crs))
    # Points that the CRS of the scene cannot hold become infinite; they are outside.
    x, y = ~job.scene.grid.affine * (projected.x.to_numpy(), projected.y.to_numpy())
    columns = pd.DataFrame(frame.drop(columns=frame.geometry.name)).reset_index(drop=True)
    degrees = frame.geometry.to_crs(DEGREES)
    for name, values in (("lon", degrees.x), ("lat", degrees.y)):
        if name not in columns:
            columns[name] = values.to_numpy()
    return columns, np.floor(x), np.floor(y)


def _numbers(mask: np.ndarray) -> tuple[int, ...]:
    """Numbers of the rows of a mask, counted from 1."""
    return tuple((np.flatnonzero(mask) + 1).tolist())


def _listed(numbers: Sequence[int]) -> str:
    """Text such as ``3 points (rows 2, 7, 9)``; empty without numbers."""
    if not numbers:
        return ""
    shown = ", ".join(map(str, numbers[:NAMED]))
    more = ", ..." if len(numbers) > NAMED else ""
    return f"{len(numbers)} (rows {shown}{more})"


def _is_band(name: object) -> bool:
    return isinstance(name, str) and name[:1] == "e" and name[1:].isdecimal()
