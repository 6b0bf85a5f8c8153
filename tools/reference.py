"""Generate the reference pages of the documentation from the code: commands and configuration.

python tools/reference.py docs/reference
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from agrifm.config import Experiment

ARGUMENT = re.compile(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", re.MULTILINE)


def write_reference(folder: Path) -> list[Path]:
    """Write all generated pages and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"command-line.md": command_line(), "configuration.md": configuration()}
    paths = []
    for name, text in pages.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def command_line() -> str:
    """Every command with its arguments and options, as Typer documents it."""
    command = [sys.executable, "-m", "typer", "agrifm.cli", "utils", "docs", "--name", "agrifm"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return page.replace("# `agrifm`", "# Command line", 1)


def configuration() -> str:
    """Every key of an experiment with its type, default and meaning."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    lines = [
        "# Configuration",
        "",
        "An experiment is one YAML file. `agrifm schema` prints the JSON schema of these keys, with which editors",
        "complete and check the file: `# yaml-language-server: $schema=experiment.schema.json`.",
        "",
        "## Experiment",
        "",
        *_table(schema, definitions),
    ]
    for name, definition in definitions.items():
        lines += ["", f"## {name}", "", _summary(definition), "", *_table(definition, definitions)]
    return "\n".join(lines) + "\n"


def _summary(definition: dict[str, Any]) -> str:
    """The first paragraph of a description."""
    return definition.get("description", "").split("\n\n")[0].replace("\n", " ")


def _table(definition: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    documented = _documented(definition.get("description", ""))
    required = definition.get("required", ())
    for key, field in definition.get("properties", {}).items():
        meaning = field.get("description") or documented.get(key, "")
        default = "required" if key in required else _default(field)
        rows.append(f"| `{key}` | {_type(field)} | {default} | {_cell(meaning)} |")
    return rows


def _documented(description: str) -> dict[str, str]:
    """Meanings of keys from the ``Args`` section of a docstring; one entry may document several keys."""
    meanings = {}
    for names, text in ARGUMENT.findall(description):
        for name in names.split(","):
            meanings[name.strip()] = " ".join(text.split())
    return meanings


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    choices = field.get("anyOf") or field.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        items = field.get("items")
        if items:
            return f"list of {_type(items)}"
        entries = dict.fromkeys(_type(entry) for entry in field.get("prefixItems", ()))
        return f"list of {' and '.join(entries)}" if entries else "list"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
    return field.get("type", "any")


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    if value is None:
        return "none"
    if isinstance(value, dict | list) and len(str(value)) > 40:
        return "see there"
    return f"`{value}`"


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table holds it."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    for written in write_reference(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference")):
        print(written)
