"""JSON schema of an experiment, with which editors complete and explain keys.

Descriptions come from the ``Args`` sections of the docstrings, so that each is written once.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from agrifm.config.experiment import Experiment

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Fields that many classes share and whose docstrings need not repeat them.
SHARED_DESCRIPTIONS = {"kind": "Selects the variant.", "weight": "Weight of this term in the sum of several."}
DEFAULT_TASK = "Segmentation"  # the kind that is meant where a task states none
ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)")
CONTINUATION = " " * 8


def experiment_schema() -> dict[str, Any]:
    """Return the JSON schema of an experiment as YAML states it, with a description of every key."""
    schema = Experiment.model_json_schema(schema_generator=_DescribedSchema)
    return {"$schema": DIALECT, **schema}


def describe_arguments(cls: type) -> tuple[str, dict[str, str]]:
    """Return the summary of a class and the description of each argument, read from its docstring."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    summary = lines[0] if lines else ""
    if "Args:" not in lines:
        return summary, {}
    descriptions: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :]:
        entry = ENTRY.fullmatch(line)
        if entry:
            names = entry[1].split(", ")
            descriptions |= dict.fromkeys(names, entry[2])
        elif line.startswith(CONTINUATION):
            for name in names:
                descriptions[name] += f" {line.strip()}"
        else:  # the section ends
            break
    return summary, descriptions


class _DescribedSchema(GenerateJsonSchema):
    """Adds descriptions to the classes and keys of a schema."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        return _with_descriptions(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        return _with_descriptions(super().dataclass_schema(schema), schema["cls"])


def _with_descriptions(schema: JsonSchemaValue, cls: type) -> JsonSchemaValue:
    summary, arguments = describe_arguments(cls)
    properties = schema.get("properties", {})
    for key, value in properties.items():
        text = arguments.get(key) or SHARED_DESCRIPTIONS.get(key)
        if text:
            value["description"] = text
    described = {**schema, "description": summary}
    if "kind" in properties and cls.__name__ != DEFAULT_TASK:
        # Without it an editor could not tell the variants of a union apart.
        described["required"] = ["kind", *schema.get("required", [])]
    return described
