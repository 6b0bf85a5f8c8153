"""The picture of docs/fields.md: an image, the true parcels, and those that 'agrifm parcels' made of the map.

``python benchmarks/draw_fields.py SCENE FIELDS.gpkg OUT.png`` with a scene of the synthetic farmland.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geopandas
import matplotlib.pyplot as plt
import rasterio
from matplotlib.patches import Patch
from rasterio.plot import plotting_extent

from agrifm.opening import open_scene
from agrifm.products.picture import false_color
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.synthetic.chips import CLASSES

COLORS = dict(CLASSES)


def main() -> None:
    """Read the command line, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("fields", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    scene, found = open_scene(asked.scene), geopandas.read_file(asked.fields)
    whole = Area(0, 0, *scene.grid.shape)
    image = false_color(cut_sample(scene.read(whole), whole), scene.sensors)
    with rasterio.open(asked.scene / "truth.tif") as file:
        extent = plotting_extent(file)
    true = geopandas.read_file(asked.scene / "parcels.gpkg").to_crs(found.crs)
    high = 4.2 * image.shape[0] / image.shape[1]
    figure, axes = plt.subplots(1, 3, figsize=(13, high + 0.9), layout="constrained", sharex=True, sharey=True)
    titles = ("near infrared, red, green", f"{len(true)} true parcels", f"{len(found)} parcels of the map")
    for axis, title in zip(axes, titles, strict=True):
        axis.imshow(image, extent=extent, interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
    for axis, frame in zip(axes[1:], (true, found), strict=True):
        frame.plot(
            ax=axis, color=[COLORS[crop] for crop in frame["crop"]], edgecolor="black", linewidth=0.7, aspect=None
        )
        axis.set(xlabel="", ylabel="")
    shown = [Patch(facecolor=color, edgecolor="black", label=name) for name, color in CLASSES]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    figure.savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
