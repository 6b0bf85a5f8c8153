"""YAML of unknown origin: plain values, or one error that names the file."""

import datetime as dt

import pytest

from agrifm.errors import InputError
from agrifm.yaml_text import DEEPEST, LARGEST, load_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
WRONG = {
    "nested sequences": ("[" * 100_000, f"more than {DEEPEST} levels"),
    "nested mappings": ("{a: " * 100_000, f"more than {DEEPEST} levels"),
    "nested dashes": ("- " * 100_000, f"more than {DEEPEST} levels"),
    "nested indentation": ("\n".join(" " * i + "a:" for i in range(500)), f"more than {DEEPEST} levels"),
    "aliases that multiply": (BOMB, "aliases expanded"),
    "merges that multiply": (BOMB.replace("[x", "[{x: 1}, {x: 1}") + "z: {<<: *h}", "aliases expanded"),
    "a list in itself": ("a: &a [1, *a]", "contains itself"),
    "a mapping in itself": ("&a {b: *a}", "contains itself"),
    "a key twice": ("a: 1\nb: {c: 1, d: 2, c: 3}", "key 'c' twice"),
    "too large": ("#" * (LARGEST + 1), "more than 1 MB"),
    "a long number": ("a: " + "9" * 5_000, "a number of 5000 characters"),
    "a long hexadecimal number": ("a: 0x" + "f" * 50_000, "a number of 50002 characters"),
    "binary": ("a: !!binary aGVsbG8=", "no plain value"),
    "a set": ("!!set {a, b}", "no plain value"),
    "a Python object": ("!!python/object/apply:os.system ['true']", "no plain value"),
    "a day that does not exist": ("a: 2018-02-30", "a value that cannot be read: day"),
    "a list as key": ("? [1]\n: 2", "unhashable key"),
    "a syntax error": ("a: [1,\nb: 2", r"line 2, column 5"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "an unknown anchor": ("a: *b", "undefined alias"),
    "control characters": ("a: \x00", "special characters are not allowed"),
    "Latin-1": ("a: maïs".encode("latin-1"), "no UTF-8 text in line 1"),
    "bytes of another format": (b"\x89HDF\r\n\x1a\n\x00\xff", "no UTF-8 text"),
    "half of a character in UTF-16": (b"\xff\xfea", "no UTF-8 text"),
    "an odd mapping": ("a: !!map [1]", "expected a mapping node"),
    "a number that is none": ("a: !!int x", "a value that cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_error(name):
    text, message = WRONG[name]
    with pytest.raises(InputError, match=message) as caught:
        load_yaml(text, "my.yaml")
    assert caught.value.where == "my.yaml"


RIGHT = [
    ("", None),
    ("# a comment", None),
    ("a: 1", {"a": 1}),
    ("\ufeffa: 1", {"a": 1}),
    ("\ufeffa: maïs".encode(), {"a": "maïs"}),
    ("a: maïs".encode("utf-16"), {"a": "maïs"}),
    ("a: 2018-02-28", {"a": dt.date(2018, 2, 28)}),
    ("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [*x, *x]", {"a": {"b": 1}, "c": {"b": 2}, "d": [{"b": 1}, {"b": 1}]}),
    (
        "a: &x {b: 1}\nc: {d: &y {<<: *x, e: 2}}\nf: {<<: *y}",
        {"a": {"b": 1}, "c": {"d": {"b": 1, "e": 2}}, "f": {"b": 1, "e": 2}},
    ),
    ("1: a\n'1': b", {1: "a", "1": "b"}),
    ("[" * DEEPEST + "]" * DEEPEST, None),
]


@pytest.mark.parametrize(("text", "values"), RIGHT, ids=range(len(RIGHT)))
def test_what_is_right_is_read(text, values):
    found = load_yaml(text, "my.yaml")
    assert values is None or found == values


def test_a_file_is_measured_before_it_is_read(tmp_path):
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 1 MB"):
        read_yaml(large)
    with pytest.raises(InputError, match="a folder"):
        read_yaml(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / ("x" * 300))
