"""What pydantic found wrong, as the project's own error: where, found, expected, repair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from pydantic import ValidationError

from agrifm.errors import InputError, nearest

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(
    error: ValidationError,
    source: object,
    *,
    valid_keys: Callable[[Sequence[str]], Iterable[str]],
    left_out: Collection[str] = (),
) -> InputError:
    """The most helpful of the problems; an unknown key goes first, because it may be what another one lacks.

    Args:
        error: of pydantic.
        source: file that was read.
        valid_keys: names the keys that may stand at a location, beside its last part.
        left_out: parts of locations that are no keys, such as the kinds of a union.
    """
    problems = error.errors()
    problem = min(problems, key=lambda problem: problem["type"] not in UNKNOWN)
    location = [str(part) for part in problem["loc"] if part not in left_out]
    key = ".".join(location)
    where = f"{source}: {key or '(top level)'}"
    more = f" ({len(problems) - 1} more problem(s) in this file)" if len(problems) > 1 else ""
    known = problem.get("ctx", {}).get("error")
    if isinstance(known, InputError):
        inner = f"{where if key else source}: {known.where}"
        return InputError(inner, found=known.found, expected=known.expected, repair=known.repair)
    if problem["type"] in UNKNOWN and location:
        valid = list(valid_keys(location))
        return InputError(
            where, found="an unknown key", expected=f"one of {', '.join(valid)}", repair=nearest(location[-1], valid)
        )
    if problem["type"] == "missing":
        return InputError(
            where, found="nothing", expected="a value: this key is required", repair=f"add '{key}'{more}."
        )
    expected = problem["msg"].removeprefix("Value error, ")
    return InputError(where, found=shown(problem["input"]), expected=expected, repair=f"correct the value{more}.")


def shown(value: object) -> str:
    """A value as an error shows it: short, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 300:
        return "a number of more than 90 digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a long number, or something endless, inside
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."
