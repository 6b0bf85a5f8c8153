"""Reading of a description: a file or values, with settings of the user above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.errors import InputError, counted, nearest
from agrifm.scenes.description.model import Description, Source
from agrifm.settings.overrides import override
from agrifm.settings.problems import explain
from agrifm.yaml_text import read_yaml

SCENE_KEYS = tuple(name for name in Description.model_fields if name != "sources")
SOURCE_KEYS = tuple(name for name in Source.model_fields if name != "path")
TEXT_KEYS = ("pattern", "aoi")  # their values may hold braces and colons, which have a meaning in YAML


def describe(values: Mapping[str, Any], overrides: Sequence[str], where: Path) -> Description:
    """Build a description from plain values and ``key=value`` strings, whose values are YAML.

    Args:
        values: Keys and values of ``Description``.
        overrides: Strings with keys of ``Description`` or, for a single source, of ``Source``.
        where: File of the description, for errors.

    Raises:
        InputError: If a key or value is wrong.
    """
    given = _parse_overrides(overrides)
    of_source = {key: value for key, value in given.items() if key in SOURCE_KEYS}
    of_scene = {key: value for key, value in given.items() if key in SCENE_KEYS}
    sources = values.get("sources")
    # Sources that are no list are refused by the validation below.
    if of_source and isinstance(sources, Sequence) and not isinstance(sources, str):
        if len(sources) != 1:
            raise InputError(
                f"--set {next(iter(of_source))}=...",
                found=f"{counted(len(sources), 'source')} in {where}",
                expected=f"a key of the whole scene: {', '.join(SCENE_KEYS)}",
                repair="write it below the source that is meant, in that file.",
            )
        if isinstance(sources[0], Mapping):
            sources = [{**sources[0], **of_source}]
    try:
        return Description.model_validate({**values, "sources": sources, **of_scene})
    except ValidationError as error:
        raise explain(error, where, Description) from error


def load_description(path: Path, overrides: Sequence[str]) -> Description:
    """Load a description from ``scene.yaml``; relative paths in it start at its folder.

    Raises:
        InputError: If the file is missing or no YAML, or a key or value is wrong.
    """
    values = read_yaml(path, "a scene in YAML")
    if not isinstance(values, Mapping):
        raise InputError(
            path, found="no keys", expected="'sources:' with a list of paths", repair="write 'sources: [{path: .}]'."
        )
    description = describe(values, overrides, path)
    overridden = _parse_overrides(overrides)
    folder = path.absolute().parent
    sources = []
    for source in description.sources:
        changes: dict[str, Any] = {"path": folder / source.path}
        if source.folders is not None and "folders" not in overridden:
            changes["folders"] = tuple(folder / other for other in source.folders)
        sources.append(source.model_copy(update=changes))
    aoi = description.aoi
    if aoi and "aoi" not in overridden:
        aoi = folder / aoi
    return description.model_copy(update={"sources": tuple(sources), "aoi": aoi})


def _parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    valid = (*SCENE_KEYS, *SOURCE_KEYS)
    for text in texts:
        key, equals_sign, _ = text.partition("=")
        name = key.split(".")[0]
        if not equals_sign or name not in valid:
            raise InputError(
                f"--set {text}",
                found=f"an unknown key '{name}'" if equals_sign else "no '='",
                expected=f"key=value with one of {', '.join(valid)}",
                repair=nearest(name, valid),
            )
    values = override({}, texts, as_text=TEXT_KEYS)
    for key in TEXT_KEYS:
        if values.get(key) in ("", "null", "~"):
            values[key] = None
    return values
