"""Publish a model on a hub: its file, a model card and a STAC item, in one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment
from agrifm.errors import InputError
from agrifm.io import checksum
from agrifm.maps.files.model_item import model_item
from agrifm.network.hub import MODEL, HubAddress, upload
from agrifm.products.model_card import model_card

CARD = "README.md"
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def push(
    checkpoint: Path,
    address: str,
    *,
    license_name: str = "unknown",
    private: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """Publish a checkpoint with a model card and a STAC item. A repository that does not exist is created.

    Args:
        checkpoint: Path of the checkpoint.
        address: ``hf://org/name[@branch][/file]``; the file is ``model.safetensors`` by default.
        license_name: License of the weights by the name that the hub uses, e.g. ``apache-2.0``.
        private: Make a new repository private.
        report: Called with a line for each absolute path in the checkpoint, which others will read, before the upload.

    Returns:
        Address of the commit.

    Raises:
        InputError: If the file is no checkpoint, the address or license has another form, the library of the hub is
            missing, or the hub refuses.
    """
    target = HubAddress.parse(address)
    if not LICENSE.fullmatch(license_name):
        raise InputError(
            "--license",
            found=license_name,
            expected="the name of a license on the hub: small letters, digits, dots and hyphens",
            repair="give a name such as apache-2.0, cc-by-4.0 or other.",
        )
    model = Checkpoint.load(checkpoint)
    for place in _stated_places(model.experiment):
        report(f"others will read where your files lay: {place}")
    file = target.file or MODEL
    name = PurePosixPath(file)
    item = model_item(model, name.stem, checksum(checkpoint), f"./{name.name}")
    contents = {
        file: checkpoint,
        CARD: model_card(model, target, license_name),
        str(name.with_suffix(".json")): json.dumps(item, indent=1, ensure_ascii=False),
    }
    return upload(target, contents, private=private)


def _stated_places(experiment: Experiment) -> list[str]:
    """Return the absolute paths that an experiment states."""
    data = experiment.data
    paths = [data.root, data.chips, data.train, data.val, data.test, experiment.start_from, experiment.probe]
    return [str(path) for path in paths if path is not None and path.is_absolute()]
