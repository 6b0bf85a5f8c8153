"""Pictures: texts of any script, without warnings, written whole."""

import warnings

import pytest
from matplotlib.figure import Figure

from agrifm import figures
from agrifm.figures import png_bytes, save_png

MISSING = "\u2f00 \u65e5\u672c"  # no font of matplotlib has these characters
STIX_ONLY = "\u1d81"  # in STIXGeneral, which comes with matplotlib, and not in its first font


def drawn(text):
    figure = Figure(figsize=(2, 1), dpi=80, layout="constrained")
    axis = figure.subplots()
    axis.set_yticks([0], [text])
    axis.set_title(text)
    return figure


@pytest.fixture
def second_font(monkeypatch):
    monkeypatch.setattr(figures, "CJK_FONTS", ("No Such Font", "STIXGeneral", "DejaVu Serif"))
    figures._installed_fonts.cache_clear()
    yield
    figures._installed_fonts.cache_clear()


def test_characters_that_no_font_has_are_drawn_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(drawn(MISSING), tmp_path / "new" / "a.png", dpi=100)
        save_png(drawn(MISSING), tmp_path / "new" / "b.png", margin=0.1)
    assert (tmp_path / "new" / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


def test_a_second_font_is_taken_for_missing_characters_only(second_font, monkeypatch, caplog):
    latin, other = png_bytes(drawn("wheat")), png_bytes(drawn(STIX_ONLY))
    assert figures._installed_fonts() == ("STIXGeneral",)
    with monkeypatch.context() as patch:
        patch.setattr(figures, "_installed_fonts", tuple)
        assert png_bytes(drawn("wheat")) == latin
        assert png_bytes(drawn(STIX_ONLY)) != other
    assert not caplog.records
