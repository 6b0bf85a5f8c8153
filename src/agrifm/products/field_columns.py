"""What is known about each field: its crops, and how often it was seen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from agrifm.errors import InputError, counted
from agrifm.maps.files.legend import MOST_CLASSES, NODATA
from agrifm.products.map_rasters import bands_of, beside, check_grid, opened

CLASS_TAG = re.compile(r"class_(0|[1-9]\d{0,3})")  # of a band, by number


def measured(fields: np.ndarray, target: Path) -> dict[str, np.ndarray]:
    """Mean number of clear dates of the pixels of each field, of all sensors together."""
    path = beside(target, "observations")
    if not path.is_file():
        return {}
    check_grid(path, beside(target, "fields"))
    total = np.zeros(int(fields.max(initial=0)) + 1)
    for rows, part in bands_of(path):
        dates = part.sum(0, dtype=np.int64)
        total += np.bincount(fields[rows].ravel(), dates.ravel(), len(total))
    pixels = np.bincount(fields.ravel(), minlength=len(total)).clip(1)
    return {"clear_observations": (total / pixels)[1:]}


def crops_of(fields: np.ndarray, crops: Path, layers: Path) -> dict[str, np.ndarray]:
    """Crops of each field, by the classes of its pixels."""
    names = _class_names(crops, layers)
    count = len(names)
    pixels = _pixels_by_class(fields, crops, count)[1:]
    total = pixels.sum(1)
    share = pixels / total.clip(1)[:, None]
    order = np.argsort(-pixels, 1, kind="stable")
    first = order[:, 0]
    second = order[:, min(1, count - 1)]
    rows = np.arange(len(pixels))
    has_crop = total > 0
    has_second = pixels[rows, second] > 0
    names_or_none = np.array([*names, None], object)
    columns = {
        "crop": names_or_none[np.where(has_crop, first, count)],
        "crop_share": np.where(has_crop, share[rows, first], np.nan),
        "second_crop": names_or_none[np.where(has_second, second, count)],
        "second_share": np.where(has_second, share[rows, second], np.nan),
    }
    path = beside(crops, "probabilities")
    if path.is_file():
        check_grid(path, layers)
        with opened(path, count, f"one band for each of the {counted(count, 'class', 'classes')} of {crops.name}"):
            pass
        percent = _summed_probabilities(fields, path, count)[1:]
        mean = percent[rows, first] / total.clip(1) / 100
        columns["crop_probability"] = np.where(has_crop, mean, np.nan)
    return columns


def _pixels_by_class(fields: np.ndarray, crops: Path, count: int) -> np.ndarray:
    """Number of pixels of each class ``(n, k)`` in each field, from number 0 on."""
    number = int(fields.max(initial=0)) + 1
    pixels = np.zeros((number, count))
    for rows, part in bands_of(crops):
        classes = part[0]
        _check_codes(classes, count, crops)
        known = (fields[rows] > 0) & (classes < count)
        cell = fields[rows][known].astype(np.int64) * count + classes[known]
        pixels += np.bincount(cell, minlength=number * count).reshape(number, count)
    return pixels


def _summed_probabilities(fields: np.ndarray, path: Path, count: int) -> np.ndarray:
    """Sum of the probabilities in percent of each class ``(n, k)`` in each field, from number 0 on."""
    number = int(fields.max(initial=0)) + 1
    sums = np.zeros((number, count))
    for rows, part in bands_of(path):
        seen = part[0] != NODATA
        for k in range(count):
            sums[:, k] += np.bincount(fields[rows][seen], part[k][seen], number)
    return sums


def _class_names(crops: Path, layers: Path) -> list[str]:
    """Names of the classes of a map from the tags of its band, in the order of the pixel values."""
    check_grid(crops, layers)
    with opened(crops, 1, "a map of classes written by 'agrifm map'") as file:
        tags = file.tags(1)
    matches = [CLASS_TAG.fullmatch(tag) for tag in tags]
    numbers = [int(match[1]) for match in matches if match]
    if sorted(numbers) != list(range(len(numbers))) or not 0 < len(numbers) <= MOST_CLASSES:
        raise InputError(
            crops,
            found=f"names of the classes {', '.join(map(str, sorted(numbers)))}" if numbers else "no class names",
            expected="a map of 'agrifm map' with a name for each class from 0 on",
            repair="give OUT.tif of a map.",
        )
    return [tags[f"class_{number}"] for number in range(len(numbers))]


def _check_codes(part: np.ndarray, count: int, crops: Path) -> None:
    """Refuse pixels of a class that has no name."""
    unnamed = part[(part >= count) & (part != NODATA)]
    if unnamed.size:
        raise InputError(
            crops,
            found=f"pixels of class {unnamed[0]}",
            expected=f"classes 0 to {count - 1}, which have names, and {NODATA} for no data",
            repair="give OUT.tif of a map as 'agrifm map' wrote it.",
        )
