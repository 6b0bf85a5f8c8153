"""Scores of delineated fields: extent, boundary and whole fields against the truth, from two rasters of fields.

Sources: Persello & Bruzzone, IEEE TGRS 48(3), 2010 (over- and under-segmentation); Lin et al., "Microsoft COCO", ECCV
2014 (thresholds 0.5 to 0.95).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from agrifm.tasks.scores import ClassScores, Scores, json_values
from agrifm.tasks.watershed import UNKNOWN, neighbors

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
SUMS = (
    # pixels of the extent
    "extent_hits", "extent_false", "extent_missed",
    # pixels of boundaries, and how many of them lie near a boundary of the other raster
    "boundary_predicted", "boundary_correct", "boundary_true", "boundary_recalled",
    # meters to the nearest boundary of the other raster, and the number of distances
    "meters_predicted", "distances_predicted", "meters_true", "distances_true",
    # fields
    "over", "under", "fields_overlapped", "fields_predicted", "fields_true",
    *(f"hits_{threshold}" for threshold in THRESHOLDS),
)  # fmt: skip


@dataclass(frozen=True)
class FieldScores:
    """Scores of fields.

    Args:
        summary: Scores by name; see ``score``.
        classes: One row each for extent, boundary and fields, then the crops. For fields, ``pixels`` counts fields.
        crops: Scores of the crop map, if there is one.
    """

    columns: ClassVar[tuple[str, ...]] = ("IoU", "Fscore", "Precision", "Recall", "pixels")

    summary: dict[str, float]
    classes: tuple[ClassScores, ...]
    crops: Scores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return json_values(self)


def compare(
    predicted: np.ndarray, truth: np.ndarray, pixel: float, tolerance: float, *, partial: bool = False
) -> dict[str, float]:
    """Compute the sums of one raster from which the scores follow. Sums of several rasters may be added.

    Nothing is counted where the truth is -1. With ``partial`` truth, a predicted field counts only if half of it lies
    on true fields, and extent counts only there.

    Args:
        predicted: Predicted fields ``(h, w)``: the number of the field, or 0.
        truth: True fields ``(h, w)``: the number of the field, 0 or -1 for unknown.
        pixel: Size of a pixel in meters.
        tolerance: Meters by which a boundary may be displaced.
        partial: Only some fields are known.
    """
    predicted = np.where(truth < 0, UNKNOWN, predicted)
    judged = truth > 0 if partial else truth >= 0
    is_predicted = predicted > 0
    is_true = truth > 0
    sums = {
        "extent_hits": float(np.count_nonzero(is_predicted & is_true)),
        "extent_false": float(np.count_nonzero(is_predicted & ~is_true & judged)),
        "extent_missed": float(np.count_nonzero(is_true & ~is_predicted)),
    }
    sums |= _compare_borders(predicted, truth, judged, pixel, tolerance)
    sums |= _compare_fields(predicted, truth, judged)
    return sums


def borders(fields: np.ndarray) -> np.ndarray:
    """Return a mask ``(h, w)`` of the pixels of fields that touch other known ground."""
    touches = np.zeros(fields.shape, bool)
    for neighbor in neighbors(fields, UNKNOWN):
        touches |= (neighbor != fields) & (neighbor >= 0)
    return (fields > 0) & touches


def _compare_borders(
    predicted: np.ndarray, truth: np.ndarray, judged: np.ndarray, pixel: float, tolerance: float
) -> dict[str, float]:
    predicted_border = borders(predicted)
    true_border = borders(truth)
    to_true = pixel * _distance(true_border)
    to_predicted = pixel * _distance(predicted_border)
    # Where the truth is partial, a predicted border beyond it counts only if a true one is near.
    predicted_border &= judged | (to_true <= tolerance)
    meters_to_true = to_true[predicted_border]
    meters_to_predicted = to_predicted[true_border]
    sums = {
        "boundary_predicted": predicted_border.sum(),
        "boundary_correct": (meters_to_true <= tolerance).sum(),
        "boundary_true": true_border.sum(),
        "boundary_recalled": (meters_to_predicted <= tolerance).sum(),
    }
    for name, meters in (("predicted", meters_to_true), ("true", meters_to_predicted)):
        finite = meters[np.isfinite(meters)]
        sums[f"meters_{name}"] = finite.sum()
        sums[f"distances_{name}"] = len(finite)
    return {key: float(value) for key, value in sums.items()}


def _distance(mask: np.ndarray) -> np.ndarray:
    """Return pixels to the nearest true pixel, or infinity if there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask))


def _compare_fields(predicted: np.ndarray, truth: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """Match fields by their overlap, and measure how far the largest overlaps are from complete."""
    predicted_number, predicted_index = np.unique(np.maximum(predicted, 0), return_inverse=True)
    true_number, true_index = np.unique(np.maximum(truth, 0), return_inverse=True)
    predicted_index = predicted_index.ravel()
    overlap = np.zeros((len(predicted_number), len(true_number)))
    np.add.at(overlap, (predicted_index, true_index.ravel()), 1)
    predicted_size = overlap.sum(1)
    true_size = overlap.sum(0)
    judged_size = np.bincount(predicted_index, judged.ravel(), len(predicted_number))
    # Number 0 is ground without a field; a predicted field counts if at least half of it is known.
    is_counted = (predicted_number > 0) & (judged_size >= predicted_size / 2)
    is_true = true_number > 0
    overlap = overlap[is_counted][:, is_true]
    predicted_size = predicted_size[is_counted]
    true_size = true_size[is_true]

    sums = {"fields_predicted": float(len(predicted_size)), "fields_true": float(len(true_size))}
    union = predicted_size[:, None] + true_size - overlap
    iou = overlap / np.maximum(union, 1)
    for threshold in THRESHOLDS:
        # An IoU that equals the threshold up to rounding counts.
        sums[f"hits_{threshold}"] = _count_matches(iou >= threshold - 1e-9)
    if not overlap.size:
        return sums | {"over": 0.0, "under": 0.0, "fields_overlapped": 0.0}
    largest_overlap = overlap.max(0)
    size_of_best = predicted_size[overlap.argmax(0)]
    overlapped = largest_overlap > 0
    shared = largest_overlap[overlapped]
    over = 1 - shared / true_size[overlapped]
    under = 1 - shared / size_of_best[overlapped]
    sums["over"] = float(over.sum())
    sums["under"] = float(under.sum())
    sums["fields_overlapped"] = float(overlapped.sum())
    return sums


def _count_matches(is_close: np.ndarray) -> float:
    """Return the largest number of pairs in which no field occurs twice."""
    if not is_close.any():
        return 0.0
    matches = maximum_bipartite_matching(coo_array(is_close).tocsr())
    return float((matches >= 0).sum())


def score(sums: Mapping[str, float], crops: Scores | None = None) -> FieldScores:
    """Compute scores from sums.

    The summary holds ``extent_IoU`` and ``extent_F1``; ``boundary_F1`` within the tolerance; ``F1`` of whole fields at
    IoU 0.5, and ``mF1``, its mean over IoU 0.5 to 0.95; ``over`` and ``under``, the share of a true field outside the
    predicted field that overlaps it most, and the share of that field outside the true one, as means over true fields
    that overlap any; ``boundary_distance`` in meters, the mean of both directions; and ``overall``, the mean of
    ``extent_IoU``, ``boundary_F1``, ``F1`` and the mFscore of crops. Scores that do not exist are NaN, and count as 0
    in ``overall``.
    """
    hits = sums["extent_hits"]
    extent = _row("extent", hits, hits + sums["extent_false"], hits, hits + sums["extent_missed"])
    boundary = _row(
        "boundary",
        sums["boundary_correct"],
        sums["boundary_predicted"],
        sums["boundary_recalled"],
        sums["boundary_true"],
    )
    fields = []
    for threshold in THRESHOLDS:
        hits = sums[f"hits_{threshold}"]
        name = f"fields at IoU {threshold}"
        fields.append(_row(name, hits, sums["fields_predicted"], hits, sums["fields_true"]))
    to_true = _ratio(sums["meters_predicted"], sums["distances_predicted"])
    to_predicted = _ratio(sums["meters_true"], sums["distances_true"])
    summary = {
        "extent_IoU": extent.IoU,
        "extent_F1": extent.Fscore,
        "boundary_F1": boundary.Fscore,
        "F1": fields[0].Fscore,
        "mF1": math.fsum(row.Fscore for row in fields) / len(fields),
        "over": _ratio(sums["over"], sums["fields_overlapped"]),
        "under": _ratio(sums["under"], sums["fields_overlapped"]),
        "boundary_distance": 0.5 * (to_true + to_predicted),
    }
    parts = [extent.IoU, boundary.Fscore, fields[0].Fscore]
    rows = [extent, boundary, fields[0]]
    if crops is not None:
        summary["aAcc"] = crops.summary["aAcc"]
        summary["mFscore"] = crops.summary["mFscore"]
        parts.append(crops.summary["mFscore"])
        rows.extend(crops.classes)
    summary["overall"] = sum(0.0 if math.isnan(part) else part for part in parts) / len(parts)
    return FieldScores(summary, tuple(rows), crops)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _row(name: str, correct: float, predicted: float, recalled: float, true: float) -> ClassScores:
    """Return a row of scores: precision is correct / predicted, recall is recalled / true.

    For boundaries, the two numerators count different pixels, so there is no IoU.
    """
    precision = _ratio(correct, predicted)
    recall = _ratio(recalled, true)
    f1 = _ratio(2 * precision * recall, precision + recall)
    if correct == recalled == 0 and predicted + true:
        f1 = 0.0  # nothing is right, even where precision or recall alone does not exist
    iou = math.nan if name == "boundary" else _ratio(recalled, predicted + true - recalled)
    return ClassScores(name, iou, recall, f1, precision, recall, int(true))
