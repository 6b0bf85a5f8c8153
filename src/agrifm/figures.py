"""Pictures drawn with matplotlib: class names of all scripts, written atomically as PNG."""

from __future__ import annotations

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from agrifm.io import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fonts with Chinese, Japanese and Korean characters, which matplotlib's own font does not have.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


def save_png(figure: Figure, path: Path, *, dpi: float | None = None, margin: float | None = None) -> None:
    """Write a figure as PNG; see ``png_bytes`` for the arguments.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    data = png_bytes(figure, dpi=dpi, margin=margin)
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def png_bytes(figure: Figure, *, dpi: float | None = None, margin: float | None = None) -> bytes:
    """Render a figure as PNG.

    Characters that no installed font has are drawn as boxes, without a warning for each of them.

    Args:
        figure: Figure to render; its texts get a second font.
        dpi: Pixels per inch; None takes those of the figure.
        margin: Inches around everything that is drawn; None keeps the size of the figure.
    """
    from matplotlib.text import Text  # slow to import

    for text in figure.findobj(Text):
        text.set_fontfamily([*text.get_fontfamily(), *_installed_fonts()])
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        box = None if margin is None else "tight"
        figure.savefig(buffer, format="png", dpi=dpi or "figure", bbox_inches=box, pad_inches=margin)
    return buffer.getvalue()


@cache
def _installed_fonts() -> tuple[str, ...]:
    """The first of ``CJK_FONTS`` that is installed, if any; matplotlib warns about fonts that are not."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    for name in CJK_FONTS:
        if name in installed:
            return (name,)
    return ()
