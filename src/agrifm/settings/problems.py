"""Translation of pydantic's errors into the errors of this project: where, found, expected, repair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from agrifm.errors import InputError, counted, nearest

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
LONGEST_VALUE = 80  # characters of a value that are shown


def explain(
    error: ValidationError,
    source: object,
    model: type[BaseModel],
    *,
    tags: Collection[str] = (),
    repair: str | None = None,
) -> InputError:
    """Return the most helpful of the problems as an ``InputError``.

    Args:
        error: Error that pydantic raised.
        source: File that was read.
        model: Model that refused the values.
        tags: Parts of locations that are no keys, such as the kinds of a tagged union.
        repair: What to do about it; derived from the problem by default.
    """
    problems = error.errors()
    # An unknown key goes first: it may be the misspelled name of a key that another problem reports as missing.
    problem = min(problems, key=lambda problem: problem["type"] not in UNKNOWN_KEY)
    location = [str(part) for part in problem["loc"] if part not in tags]
    key = ".".join(location)
    where = f"{source}: {key or '(top level)'}"
    more = f" ({counted(len(problems) - 1, 'more problem')} in this file)" if len(problems) > 1 else ""

    inner = problem.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        prefix = where if key else source
        return InputError(f"{prefix}: {inner.where}", found=inner.found, expected=inner.expected, repair=inner.repair)
    if problem["type"] in UNKNOWN_KEY and location:
        keys = valid_keys(model, location)
        expected = f"one of {', '.join(keys)}"
        return InputError(
            where, found="an unknown key", expected=expected, repair=repair or nearest(location[-1], keys)
        )
    if problem["type"] == "missing":
        expected = "a value: this key is required"
        return InputError(where, found="nothing", expected=expected, repair=repair or f"add '{key}'{more}.")
    return InputError(
        where,
        found=shown(problem["input"]),
        expected=problem["msg"].removeprefix("Value error, "),
        repair=repair or f"correct the value{more}.",
    )


def valid_keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the keys that may stand beside the last part of a location, read from the model's JSON schema."""
    schema = model.model_json_schema()
    nodes = _alternatives(schema, schema)
    for part in location[:-1]:
        inner: list[dict] = []
        for node in nodes:
            # A part that is no property is the position in a list.
            child = node.get("properties", {}).get(part, node.get("items", node))
            inner += _alternatives(schema, child)
        nodes = inner
    keys: set[str] = set()
    for node in nodes:
        keys |= set(node.get("properties", {}))
    return sorted(keys)


def _alternatives(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a node of a JSON schema, references resolved; the node itself if it has none."""
    while "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        node = schema["$defs"][name]
    options = node.get("anyOf") or node.get("oneOf")
    if not options:
        return [node]
    alternatives: list[dict[str, Any]] = []
    for option in options:
        alternatives += _alternatives(schema, option)
    return alternatives


def shown(value: object) -> str:
    """Return a value as an error shows it: short, whatever the value is."""
    if isinstance(value, int) and value.bit_length() > 300:
        return "a number of more than 90 digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # the value holds a very long number, or itself
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
