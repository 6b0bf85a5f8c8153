"""Scores of delineated fields: extent, boundary and whole fields against the truth, from two rasters of numbers.

Sources: Persello & Bruzzone, IEEE TGRS 48(3), 2010 (over- and under-segmentation); Lin et al., "Microsoft COCO", ECCV
2014 (thresholds 0.5 to 0.95).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from agrifm.tasks.scores import ClassScores, Scores
from agrifm.tasks.watershed import UNKNOWN

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
SUMS = (
    "both", "only_found", "only_true", "neither",  # pixels of extent
    "near_true", "border_found", "near_found", "border_true",  # pixels of borders
    "meters_found", "measured_found", "meters_true", "measured_true",
    "over", "under", "overlapped", "fields_found", "fields_true",
    *(f"hits_{threshold}" for threshold in THRESHOLDS),
)  # fmt: skip


@dataclass(frozen=True)
class FieldScores:
    """Scores of fields: ``summary`` by name, one row each for extent, boundary, fields and crop.

    Args:
        summary: What 'score' says of each name.
        classes: The rows; of fields ``pixels`` counts fields.
        crops: Scores of the crop map, where there is one.
    """

    columns: ClassVar[tuple[str, ...]] = ("IoU", "Fscore", "Precision", "Recall", "pixels")

    summary: dict[str, float]
    classes: tuple[ClassScores, ...]
    crops: Scores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what does not exist is null."""
        return json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)


def compare(
    found: np.ndarray, truth: np.ndarray, pixel: float, tolerance: float, *, partial: bool = False
) -> dict[str, float]:
    """Sums over one raster from which the scores follow; sums of several rasters may be added.

    Nothing is counted where the truth is -1. With ``partial`` truth a field that was found counts only if half of it
    lies on true fields, and extent only there.

    Args:
        found, truth: ``(h, w)`` numbers of fields, 0 none; -1 in the truth is unknown.
        pixel: Size in meters.
        tolerance: Meters by which a boundary may be off.
    """
    found = np.where(truth < 0, UNKNOWN, found)
    judged = truth > 0 if partial else truth >= 0
    f, t = found > 0, truth > 0
    extent = {"both": f & t, "only_found": f & ~t & judged, "only_true": t & ~f, "neither": ~f & ~t & judged}
    sums = {key: float(np.count_nonzero(where)) for key, where in extent.items()}
    return sums | _borders(found, truth, judged, pixel, tolerance) | _objects(found, truth, judged)


def borders(fields: np.ndarray) -> np.ndarray:
    """Pixels of fields that touch other known ground ``(h, w)``."""
    padded = np.pad(fields, 1, constant_values=UNKNOWN)
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (fields > 0) & np.logical_or.reduce([(side != fields) & (side >= 0) for side in around])


def _borders(
    found: np.ndarray, truth: np.ndarray, judged: np.ndarray, pixel: float, tolerance: float
) -> dict[str, float]:
    guess, true = borders(found), borders(truth)
    to_true, to_found = (pixel * _distance(where) for where in (true, guess))
    guess &= judged | (to_true <= tolerance)
    sums = {"border_found": guess.sum(), "near_true": (to_true[guess] <= tolerance).sum()}
    sums |= {"border_true": true.sum(), "near_found": (to_found[true] <= tolerance).sum()}
    for name, distance in (("found", to_true[guess]), ("true", to_found[true])):
        measured = distance[np.isfinite(distance)]
        sums |= {f"meters_{name}": measured.sum(), f"measured_{name}": len(measured)}
    return {key: float(value) for key, value in sums.items()}


def _distance(where: np.ndarray) -> np.ndarray:
    """Pixels to the nearest true pixel; infinite where there is none."""
    return np.asarray(ndimage.distance_transform_edt(~where)) if where.any() else np.full(where.shape, np.inf)


def _objects(found: np.ndarray, truth: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """Pairs of fields by their overlap: hits, and how far the largest overlaps are from whole."""
    f, t = (np.unique(np.maximum(raster, 0), return_inverse=True) for raster in (found, truth))
    overlap = np.zeros((len(f[0]), len(t[0])))
    np.add.at(overlap, (f[1].ravel(), t[1].ravel()), 1)
    size_found, size_true = overlap.sum(1), overlap.sum(0)
    on = np.bincount(f[1].ravel(), judged.ravel(), len(size_found)) >= size_found / 2
    real_found, real_true = (f[0] > 0) & on, t[0] > 0
    overlap, size_found, size_true = overlap[real_found][:, real_true], size_found[real_found], size_true[real_true]
    sums = {"fields_found": float(len(size_found)), "fields_true": float(len(size_true))}
    iou = overlap / np.maximum(size_found[:, None] + size_true - overlap, 1)
    sums |= {f"hits_{limit}": _matches(iou >= limit - 1e-9) for limit in THRESHOLDS}
    if not overlap.size:
        return sums | {"over": 0.0, "under": 0.0, "overlapped": 0.0}
    best, shared = overlap.argmax(0), overlap.max(0)
    some = shared > 0
    over, under = 1 - shared[some] / size_true[some], 1 - shared[some] / size_found[best[some]]
    return sums | {"over": float(over.sum()), "under": float(under.sum()), "overlapped": float(some.sum())}


def _matches(close: np.ndarray) -> float:
    """Most pairs such that no field is in two of them."""
    return float((maximum_bipartite_matching(coo_array(close).tocsr()) >= 0).sum()) if close.any() else 0.0


def score(sums: Mapping[str, float], crops: Scores | None = None) -> FieldScores:
    """Scores from sums.

    ``extent_IoU``, ``extent_F1``; ``boundary_F1`` within the tolerance; ``F1`` of whole fields at IoU 0.5 and ``mF1``,
    the mean over IoU 0.5 to 0.95; ``over`` and ``under``: the share of a true field outside the found one that
    overlaps it most, and of that one outside the true field, means over true fields that any overlaps;
    ``boundary_distance`` in meters, the mean of both directions; ``overall``: the mean of ``extent_IoU``,
    ``boundary_F1``, ``F1`` and the crops' mFscore. What does not exist is NaN, and 0 in ``overall``.
    """
    both, found, true = sums["both"], sums["fields_found"], sums["fields_true"]
    extent = _row("extent", both, both + sums["only_found"], both, both + sums["only_true"])
    boundary = _row("boundary", sums["near_true"], sums["border_found"], sums["near_found"], sums["border_true"])
    rows = [_row(f"fields at IoU {at}", hit, found, hit, true) for at in THRESHOLDS for hit in [sums[f"hits_{at}"]]]
    summary = {
        "extent_IoU": extent.IoU,
        "extent_F1": extent.Fscore,
        "boundary_F1": boundary.Fscore,
        "F1": rows[0].Fscore,
        "mF1": math.fsum(row.Fscore for row in rows) / len(rows),
        "over": _ratio(sums["over"], sums["overlapped"]),
        "under": _ratio(sums["under"], sums["overlapped"]),
        "boundary_distance": 0.5 * sum(_ratio(sums[f"meters_{k}"], sums[f"measured_{k}"]) for k in ("found", "true")),
    }
    parts = [summary[key] for key in ("extent_IoU", "boundary_F1", "F1")]
    if crops is not None:
        summary |= {key: crops.summary[key] for key in ("aAcc", "mFscore")}
        parts.append(summary["mFscore"])
    summary["overall"] = sum(0.0 if math.isnan(part) else part for part in parts) / len(parts)
    return FieldScores(summary, (extent, boundary, rows[0], *(crops.classes if crops else ())), crops)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _row(name: str, right: float, found: float, met: float, true: float) -> ClassScores:
    """Precision is right / found and recall met / true; IoU exists where right and met are the same pixels."""
    precision, recall = _ratio(right, found), _ratio(met, true)
    f1 = 0.0 if right == met == 0 and found + true else _ratio(2 * precision * recall, precision + recall)
    iou = _ratio(met, found + true - met) if name != "boundary" else math.nan
    return ClassScores(name, iou, recall, f1, precision, recall, int(true))
