"""Text of a model card, the page of a model on a hub, from the facts in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from agrifm.checkpoint import Checkpoint, describe
from agrifm.errors import printable
from agrifm.maps.files.legend import plain
from agrifm.network.hub import HubAddress

TAGS = ("agrifm", "crop-mapping", "remote-sensing", "earth-observation", "satellite-time-series")
SECTIONS = ("name", "sensors", "classes", "scores", "versions")  # facts that the card shows elsewhere than in the list


def model_card(checkpoint: Checkpoint, address: HubAddress, license_name: str) -> str:
    """Text of a model card in Markdown, with the header that hubs read.

    Args:
        checkpoint: The model.
        address: Repository in which the model will be, for the examples.
        license_name: License of the weights by the name that hubs use, e.g. ``apache-2.0``.
    """
    facts = describe(checkpoint)
    others = {key: value for key, value in facts.items() if key not in SECTIONS}
    header = {
        "license": license_name,
        "library_name": "agrifm",
        "pipeline_tag": "image-segmentation",
        "tags": [*TAGS, *(sensor.name.lower() for sensor in checkpoint.experiment.data.sensors)],
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---"]
    lines += [f"# {_escaped(checkpoint.experiment.name)}", ""]
    lines += [
        "A crop-mapping model in the format of AgriFM. The file holds tensors and text; opening it runs no code.",
        "",
    ]
    lines += _usage(address)
    lines += _sensors(checkpoint)
    lines += ["## Classes", ""]
    lines += [f"{value}. {_escaped(name)}" for value, name in enumerate(checkpoint.experiment.task.names)]
    lines += ["", "## Model", ""]
    lines += [f"- {key}: {_escaped(_text(value))}" for key, value in others.items()]
    lines += _table("Scores", "Scores on the validation split:", checkpoint.scores)
    lines += _table("Versions", "Versions of the libraries that trained the model:", checkpoint.versions)
    return "\n".join(lines) + "\n"


def _usage(address: HubAddress) -> list[str]:
    return [
        "## Usage",
        "",
        "```shell",
        "pip install 'agrifm[hub]'",
        f"agrifm map {address} images/ map.tif",
        "```",
        "",
        "```python",
        "import agrifm",
        "",
        f'model = agrifm.load("{address}")',
        'model.map(agrifm.open_scene("images/"), "map.tif")',
        "```",
        "",
    ]


def _sensors(checkpoint: Checkpoint) -> list[str]:
    lines = ["## Sensors", "", "A scene may lack some of these sensors.", "", "| sensor | bands | pixel size |"]
    lines.append("|---|---|---:|")
    for sensor in checkpoint.experiment.data.sensors:
        bands = ", ".join(sensor.band_ids)
        lines.append(f"| {_escaped(sensor.name)} | {_escaped(bands)} | {sensor.gsd:g} m |")
    return [*lines, ""]


def _table(heading: str, introduction: str, values: Mapping[str, Any]) -> list[str]:
    """A section with a table of names and values; nothing if there are none."""
    if not values:
        return []
    lines = ["", f"## {heading}", "", introduction, "", "| name | value |", "|---|---:|"]
    for name, value in values.items():
        number = f"{value:.4f}" if isinstance(value, float) else str(value)
        lines.append(f"| {_escaped(name)} | {_escaped(number)} |")
    return lines


def _text(value: object) -> str:
    """A fact in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


def _escaped(text: str) -> str:
    """Text in one line of Markdown, without marks that would end a cell or begin a link or an element of HTML."""
    shown = printable(plain(text)).replace("\\", "\\\\").replace("|", "\\|")
    return shown.replace("<", "&lt;").replace("[", "\\[")
