"""Class names that differ in case, accents or spaces only."""

import pytest

from agrifm.tasks.class_names import same_names


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["maïs", "  MAÏS ", "wheat"], [("maïs", "  MAÏS ")]),
        (["mais", "mai\u0308s", "ma\u00efs"], [("mais", "mai\u0308s", "ma\u00efs")]),
        (
            ["winter  wheat", "Winter wheat", "winter\u00a0wheat"],
            [("winter  wheat", "Winter wheat", "winter\u00a0wheat")],
        ),
        (["Straße", "STRASSE"], [("Straße", "STRASSE")]),
        (["maize", "maize 2", "rice"], []),
        (["wheat", "wheat"], []),
    ],
)
def test_names_that_look_the_same_are_grouped(names, groups):
    assert same_names(names) == groups


def test_vowels_of_other_scripts_are_no_accents():
    """Hindi ``ki`` and ``ku``, Japanese ``ka`` and ``ga`` are different words."""
    assert same_names(["\u0915\u0940", "\u0915\u0941", "\u304b", "\u304c"]) == []
