"""Draw docs/images/pyramid.png: the law of the backbone, from the numbers of the code."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from agrifm.nn.swin import SIZES

FRAMES, PIXELS, PATCH = 32, 256, (4, 2, 2)


def main() -> None:
    """Draw one stack of frames per stage."""
    size = SIZES["base"]
    figure, axes = plt.subplots(figsize=(9, 3.1), layout="constrained")
    left = 0.0
    for stage, (width, stride) in enumerate(zip(size.widths, size.strides(PATCH), strict=True)):
        frames, rows = FRAMES // stride[0], PIXELS // stride[1]
        side = 2.6 * (rows / 128) ** 0.5
        for frame in range(frames):
            offset = 0.14 * (frames - 1 - frame)
            axes.add_patch(
                Rectangle(
                    (left + offset, offset),
                    side,
                    side,
                    facecolor=plt.cm.viridis(0.25 + 0.2 * stage),
                    edgecolor="white",
                    lw=1,
                )
            )
        center = left + (side + 0.14 * (frames - 1)) / 2
        axes.text(center, -0.25, f"{frames} x {width} = {frames * width}", ha="center", va="top", fontsize=11)
        axes.text(center, -0.75, f"{rows} x {rows} tokens", ha="center", va="top", fontsize=9, color="0.4")
        left += side + 0.14 * (frames - 1) + 1.5
    axes.set(xlim=(-0.2, left - 0.3), ylim=(-1.2, 3.8), aspect="equal")
    axes.set_title("time x channels is constant: time is halved whenever space is", fontsize=12)
    axes.set_axis_off()
    target = Path(__file__).parents[1] / "docs" / "images" / "pyramid.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=140)


if __name__ == "__main__":
    main()
