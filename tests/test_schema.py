"""The JSON schema of an experiment: complete, described, and right about the shipped configurations."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agrifm.cli.shell import app
from agrifm.config.experiment import Experiment
from agrifm.config.schema import describe_arguments, experiment_schema

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SCHEMA = experiment_schema()
CLASSES = {"Experiment": SCHEMA, **SCHEMA["$defs"]}


def alternatives(node):
    """What a node of the schema may be."""
    if "$ref" in node:
        return alternatives(CLASSES[node["$ref"].rsplit("/", 1)[1]])
    options = node.get("anyOf") or node.get("oneOf") or []
    return [found for option in options for found in alternatives(option)] or [node]


def unknown_keys(values, nodes, place=""):
    """Keys of a configuration that the schema does not know."""
    if isinstance(values, list):
        inner = [found for node in nodes for found in alternatives(node.get("items", {}))]
        return [key for i, value in enumerate(values) for key in unknown_keys(value, inner, f"{place}.{i}")]
    if not isinstance(values, dict):
        return []
    wrong = []
    for key, value in values.items():
        known = [node["properties"][key] for node in nodes if key in node.get("properties", {})]
        known += [node["additionalProperties"] for node in nodes if node.get("additionalProperties")]
        inner = [found for node in known for found in alternatives(node)]
        wrong += unknown_keys(value, inner, f"{place}.{key}") if known else [f"{place}.{key}"]
    return wrong


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_schema_knows_all_keys_of_shipped_configurations(path):
    values = yaml.safe_load(path.read_text())
    assert not unknown_keys(values, [SCHEMA])
    assert unknown_keys({**values, "modle": {}, "model": {"sise": 1}}, [SCHEMA]) == [".model.sise", ".modle"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_fit_the_schema(path):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    values = yaml.safe_load(path.read_text())
    assert not [error.message for error in validator.iter_errors(values)]
    for change in ({"model": {"size": "huge"}}, {"training": {"epochs": 0}}, {"data": {"sensors": "S3"}}):
        assert not validator.is_valid({**values, **change})


@pytest.mark.parametrize(
    "task",
    [
        {"classes": ["a", "b"]},
        {"classes": ["a", {"name": "b"}], "loss": {"kind": "focal"}},
        {"kind": "segmentation", "classes": {"table": "worldcereal", "only": "Maize", "other": None}},
        {"kind": "fields", "classes": ["a", "b"]},
    ],
)
def test_short_forms_of_tasks_fit_the_schema(task):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(SCHEMA).validate({"data": {"sensors": "S2"}, "task": task})


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_has_a_description(name):
    for key, node in CLASSES[name].get("properties", {}).items():
        text = node.get("description", "")
        assert text, f"{name}.{key}"
        assert text.endswith("."), f"{name}.{key}: {text}"


def test_descriptions_of_experiments_name_no_key_that_is_gone():
    assert describe_arguments(Experiment)[1].keys() == Experiment.model_fields.keys()


def test_the_command_prints_and_writes_the_schema(tmp_path):
    printed = CliRunner().invoke(app, ["schema"])
    assert json.loads(printed.stdout) == json.loads(json.dumps(SCHEMA))
    target = tmp_path / "experiment.schema.json"
    assert "yaml-language-server" in CliRunner().invoke(app, ["schema", "--out", str(target)]).stdout
    assert json.loads(target.read_text()) == json.loads(json.dumps(SCHEMA))
