"""Elements of one self-contained HTML page: text is escaped, and pictures are embedded."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NewType

from agrifm.errors import printable

Html = NewType("Html", str)  # created here only, and safe to put into a page


def shown(text: str) -> str:
    """Escape markup and control characters of text of unknown origin."""
    return "\n".join(escape("".join(map(printable, line))) for line in text.split("\n"))


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; vertical-align: top }
th { border-bottom-color: #999 } th:first-child, td:first-child, .facts td { text-align: left; overflow-wrap: anywhere }
.facts td:first-child { white-space: nowrap }
img { max-width: 100%; min-width: 24rem; border: 1px solid #ddd }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto }
caption, .note { color: #555; text-align: left } .missing { background: #fff4d6; padding: .5rem .8rem }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid #888; margin-right: .4em }
code { overflow-wrap: anywhere } .swatch, td, .missing { print-color-adjust: exact; -webkit-print-color-adjust: exact }
@media print {
  body { font-size: 11pt; margin: 0; max-width: none }
  h2, th { break-after: avoid } tr, img, .missing { break-inside: avoid } img { min-width: 0; max-height: 22cm }
  pre { white-space: pre-wrap; overflow-wrap: anywhere }
}
"""
# The page must not load anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[Html]) -> str:
    """The complete document."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{shown(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{shown(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: Html) -> Html:
    """A heading with its content."""
    return Html(f"<section>\n<h2>{shown(title)}</h2>\n" + "\n".join(parts) + "\n</section>")


def note(text: str) -> Html:
    """A line of text."""
    return Html(f'<p class="note">{shown(text)}</p>')


def missing(what: str, *command: object) -> Html:
    """A missing part, and the command that adds it."""
    words = " ".join(word if word.isupper() else shlex.quote(word) for word in map(str, command))
    return Html(f'<p class="missing">Missing: {shown(what)} Add it with <code>{shown(words)}</code></p>')


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    shades: Sequence[Sequence[float]] = (),
    colors: Sequence[str] = (),
) -> Html:
    """A table.

    Args:
        head: Names of the columns.
        rows: Values of each row, its name first.
        shades: Darkness of the cells of each row after its name, from 0 to 1.
        colors: Color of a square before the name of each row.
    """
    header = "".join(f"<th>{shown(name)}</th>" for name in head)
    lines = ["<table>", f"<tr>{header}</tr>"]
    for i, (name, *values) in enumerate(rows):
        row_shades = shades[i] if shades else [0.0] * len(values)
        cells = ""
        for value, shade in zip(values, row_shades, strict=True):
            cells += f"<td{_shade(shade)}>{shown(_number(value))}</td>"
        square = f'<span class="swatch" style="background: {shown(colors[i])}"></span>' if colors else ""
        lines.append(f"<tr><td>{square}{shown(_number(name))}</td>{cells}</tr>")
    lines.append("</table>")
    return Html("\n".join(lines))


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A table of names and values; a dictionary becomes one line."""
    rows = []
    for name, value in pairs:
        text = str(value)
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
        rows.append(f"<tr><td>{shown(name)}</td><td>{shown(text)}</td></tr>")
    return Html('<table class="facts">\n' + "\n".join(rows) + "\n</table>")


def _plain(value: object) -> str:
    """A value of a dictionary as a person would write it."""
    if value is None:
        return "by default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " + ".join(map(str, value)) or "none"
    return str(value)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shade(share: float) -> str:
    return f' style="background: rgba(51, 34, 136, {0.6 * share:.2f})"' if share else ""


def image(png: bytes, text: str) -> Html:
    """An embedded picture."""
    return Html(f'<img alt="{shown(text)}" src="data:image/png;base64,{b64encode(png).decode()}">')


def folded(title: str, text: str) -> Html:
    """A long text that opens on a click."""
    return Html(f"<details><summary>{shown(title)}</summary><pre>{shown(text)}</pre></details>")
