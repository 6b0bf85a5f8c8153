"""A picture of some chips: image, truth, prediction and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from agrifm.figures import save_png
from agrifm.maps.predict_chips import colorize
from agrifm.sample import Sample
from agrifm.sensors import Sensor


@dataclass(frozen=True)
class Panel:
    """One row of the picture.

    Args:
        image: Colors ``(h, w, 3)`` in 0..1.
        truth: True classes ``(h, w)``, or None.
        prediction: Predicted classes ``(h, w)``.
        confidence: Probabilities ``(h, w)`` in 0..1.
    """

    image: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    confidence: np.ndarray


def false_color(sample: Sample, sensors: Sequence[Sensor]) -> np.ndarray:
    """False colors ``(h, w, 3)`` in 0..1: near infrared, red and green of the first sensor that has them, stretched.

    They are the mean of the clear dates in the first half of the series, when crops differ most.
    """
    for sensor in sensors:
        near_infrared = sensor.index("nir")
        if near_infrared is None:
            near_infrared = sensor.index("nir08")
        bands = [near_infrared, sensor.index("red"), sensor.index("green")]
        if sensor.name not in sample.images or None in bands:
            continue
        series = sample.images[sensor.name]
        half = ceil(len(series) / 2)
        values = series[:half, bands].float()
        clear = sample.mask(sensor.name)[:half].unsqueeze(1)
        mean = (values * clear).sum(0) / clear.sum(0).clamp(min=1)
        image = mean.permute(1, 2, 0).numpy()
        low, high = np.percentile(image, (1, 99), axis=(0, 1))
        return ((image - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    h, w = next(iter(sample.images.values())).shape[-2:]
    return np.zeros((h, w, 3))


def draw(panels: Sequence[Panel], names: Sequence[str], colors: Sequence[str], path: Path, title: str) -> None:
    """Draw the rows with a legend and write a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    columns = ("near infrared, red, green", "truth", "prediction", "confidence")
    tight = ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02)
    size = (2.5 * len(columns), 2.35 * len(panels) + 0.9)
    figure = Figure(figsize=size, layout=tight)
    axes = figure.subplots(len(panels), len(columns), squeeze=False)
    palette = tuple(colors)
    for row, panel in zip(axes, panels, strict=True):
        row[0].imshow(panel.image, interpolation="nearest")
        if panel.truth is not None:
            truth = panel.truth.astype(np.uint8)  # unlabeled pixels, -1, become 255, which is white
            row[1].imshow(colorize(truth, palette), interpolation="nearest")
        row[2].imshow(colorize(panel.prediction, palette), interpolation="nearest")
        row[3].imshow(panel.confidence, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        for axis in row:
            axis.set_axis_off()
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name)
    handles = [Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.colorbar(axes[0, 3].images[0], ax=axes, shrink=0.6, label="probability of the chosen class")
    save_png(figure, path, dpi=140)
