"""Seeded mutations of bytes, text, JSON and file names: what disks, networks, editors and attackers do to files."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

CONTROL = [
    "\x00",
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\r",
    "\n",
    "\u202e",
    "\ud800",
    "\ufeff",
    "[/bold]",
    "{}",
    "%s",
    "$x$",
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64 - 1, 10**30, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")]
INTERESTING_BYTES = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\xff" * 8]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, insert or repeat bytes; headers are hit more often than their share."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not found:
            break
        end = len(found) if rng.random() < 0.5 else min(len(found), 2_048)
        at = rng.randrange(end)
        kind = rng.randrange(7)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            new = rng.choice(INTERESTING_BYTES)
            found[at : at + len(new)] = new
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            found[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 4:
            length = rng.choice((1, 8, 512))
            found[at : at + length] = bytes(min(length, len(found) - at))
        elif kind == 5:
            del found[at : at + rng.choice((1, 4, 64))]
        else:
            source = rng.randrange(len(found))
            part = found[source : source + rng.choice((4, 32, 256))]
            found[at : at + len(part)] = part
    return bytes(found)


def mutate_text(text: str, rng: random.Random, tokens: list[str]) -> bytes:
    """Change a word, a line or single characters; now and then the encoding."""
    if rng.random() < 0.25:
        return mutate_bytes(text.encode(), rng)
    lines = text.splitlines()
    at = rng.randrange(max(1, len(lines)))
    kind = rng.randrange(8)
    if not lines or kind == 0:
        lines.insert(at, rng.choice(tokens))
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines.insert(at, lines[at])
    elif kind == 3:
        lines[at] = rng.choice(tokens)
    elif kind == 4:
        words = lines[at].split(" ")
        words[rng.randrange(len(words))] = rng.choice(tokens)
        lines[at] = " ".join(words)
    elif kind == 5:
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = (
            lines[at][:place] + rng.choice([*CONTROL, "[", "]", "{", "}", ":", "&a", "*a", "-"]) + lines[at][place:]
        )
    elif kind == 6:
        lines[at] = lines[at] * rng.choice((2, 50))
    else:
        lines[at] = " " * rng.randrange(6) + lines[at].strip()
    changed = "\n".join(lines) + "\n"
    if rng.random() < 0.06:
        return changed.encode(rng.choice(("utf-16", "utf-8-sig", "cp1252")), "replace")
    return changed.encode("utf-8", "surrogatepass")


def mutate_json(text: str, rng: random.Random, tokens: list[str]) -> bytes:
    """Replace, drop, rename or nest parts of a JSON document; now and then its bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(text.encode(), rng)
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _changed(document, rng, tokens)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _changed(document: Any, rng: random.Random, tokens: list[str]) -> Any:
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return _odd_value(rng, tokens)
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice([*tokens, f"{key} ", str(key).upper()])] = parent.pop(key)
    elif kind == 2:
        other_parent, other_key = rng.choice(places)
        parent[key] = copy.deepcopy(other_parent[other_key])
    elif kind == 3:
        parent[key] = [parent[key]]
    elif kind == 4 and isinstance(parent[key], int | float):
        parent[key] = rng.choice([parent[key] * 10, -parent[key], str(parent[key]), parent[key] + 0.5])
    else:
        parent[key] = _odd_value(rng, tokens)
    return document


def _places(document: Any):
    """Every place in a document, as its container and key."""
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    else:
        return
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _odd_value(rng: random.Random, tokens: list[str]) -> Any:
    nested: Any = []
    for _ in range(rng.choice((1, 60))):
        nested = [nested]
    odd = [None, True, False, "", "x" * 3_000, [], {}, nested, rng.choice(NUMBERS), rng.choice(NUMBERS)]
    return rng.choice([*odd, *[rng.choice(CONTROL) for _ in range(2)], *[rng.choice(tokens) for _ in range(5)]])


def mutate_name(name: str, rng: random.Random, tokens: list[str]) -> str:
    """A file name with other letters, parts or dates; it never leaves its folder."""
    kind = rng.randrange(7)
    at = rng.randrange(len(name) + 1)
    if kind == 0:
        name = name.swapcase()
    elif kind == 1:
        name = name[:at] + name[at + 1 :]
    elif kind == 2:
        name = name[:at] + rng.choice(["_", "-", ".", " ", "0", "9", "20190229", "T103021", *CONTROL]) + name[at:]
    elif kind == 3:
        name = name.replace("_", rng.choice(["-", ".", "__", " "]))
    elif kind == 4:
        name = f"{rng.choice(['20230715', '2018-13-45', '1', 'S2A_MSIL1C_20180508T104021'])}_{name}"
    elif kind == 5:
        name = name[: len(name) // 2] * rng.choice((1, 2, 12))
    else:
        name = rng.choice(tokens)
    name = name.replace("/", "_").replace("\x00", "0").encode("utf-8", "replace").decode()[:120]
    return name if name not in ("", ".", "..") else "x"
