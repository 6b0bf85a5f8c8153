"""Compute a map or embeddings again from their provenance, and compare both."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window
from rich.console import Console

from agrifm.addresses import SCHEMES, is_address, local, normalized
from agrifm.errors import InputError, counted, refusing
from agrifm.io import checksum, sha256
from agrifm.maps.embedding.files import item_path
from agrifm.maps.embedding.scene import ENDINGS, write_embedding
from agrifm.maps.files.writer import map_files
from agrifm.maps.inputs import checksums, hrefs_of, is_there, markup
from agrifm.maps.map_scene import map_scene
from agrifm.maps.provenance import EmbeddingDocument, Model, Provenance, processor, versions
from agrifm.scenes.scene import Scene

IDENTICAL = "identical"
EXTENSIONS = "CPL_VSIL_CURL_ALLOWED_EXTENSIONS"  # of addresses that GDAL may open
NO_EXTENSIONS = "{none}"
SHOWN = 8  # folders of images that are listed


@dataclass(frozen=True)
class Reproduction:
    """Comparison of a map with its reproduction.

    Args:
        identical: Whether every file is identical, byte for byte.
        files: Verdict on each file by name.
        notes: Changes since then: versions, processor, input files.
        noun: What was compared.
    """

    identical: bool
    files: dict[str, str]
    notes: tuple[str, ...]
    noun: str = "map"

    def __str__(self) -> str:
        verdict = "identical, byte for byte" if self.identical else "DIFFERENT"
        lines = [f"{name}: {text}" for name, text in self.files.items()]
        return "\n".join([*lines, f"the {self.noun} is {verdict}"])


def reproduce(
    path: Path,
    checkpoint: Path | None = None,
    out: Path | None = None,
    *,
    workers: int = 1,
    allow_network: bool = False,
    console: Console | None = None,
) -> Reproduction:
    """Compute a map again from its provenance and compare both.

    A provenance file may come from somebody else. The files that it names are opened as if the user had named them: the
    checkpoint, whose checksum must match, and images. Images over the network are opened only on request.

    Args:
        path: Provenance file.
        checkpoint: Checkpoint, if it has moved.
        out: Folder to keep the new map in; None uses a temporary one.
        workers: Processes on this machine.
        allow_network: Whether to open images over the network.
        console: Where the opened files are listed.

    Raises:
        InputError: If provenance, model or images are missing or of another kind.
    """
    console = console or Console(quiet=True)
    provenance = Provenance.load(path)
    document = provenance.document
    target = _target(provenance)
    model = checkpoint or Path(document.model.path)
    check_model(document.model, model)
    for other in document.ensemble:
        check_model(other, Path(other.path))
    hrefs = hrefs_of(provenance.scene)
    check_images(provenance, hrefs, allow_network=allow_network)
    _check_size(provenance, path.with_name(target))
    _list_inputs(console, model, hrefs)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agrifm-")))
        if folder.resolve() == path.parent.resolve():
            raise InputError(
                folder, found="the folder of the first map", expected="another one", repair="give another --out."
            )
        if not allow_network:
            stack.enter_context(_offline())
        _compute(provenance, model, folder / target, workers, console)
        files = {name: _verdict(path.parent / name, folder / name, sha) for name, sha in document.files.items()}
    identical = all(verdict == IDENTICAL for verdict in files.values())
    noun = "embedding" if isinstance(document, EmbeddingDocument) else "map"
    return Reproduction(identical, files, tuple(_changes(provenance)), noun)


def _compute(provenance: Provenance, model: Path, target: Path, workers: int, console: Console) -> None:
    document = provenance.document
    if isinstance(document, EmbeddingDocument):
        write_embedding(model, provenance.scene, target, document.options, workers=workers, console=console)
    else:
        map_scene(model, provenance.scene, target, document.options, workers=workers, console=console)


def _target(provenance: Provenance) -> str:
    """Name of the main file; all other files must belong to such a product."""
    names = list(provenance.document.files)
    target = Path(names[0])
    is_embedding = isinstance(provenance.document, EmbeddingDocument)
    endings = ENDINGS if is_embedding else (".tif", ".tiff")
    known = [target, item_path(target)] if is_embedding else map_files(target)
    unrelated = sorted(set(names) - {path.name for path in known})
    if target.suffix.lower() not in endings or unrelated:
        raise InputError(
            f"{provenance.path}: files",
            found=", ".join(unrelated or names[:1]),
            expected="OUT.tif first, then files that belong to it, such as OUT.json and OUT_confidence.tif",
            repair="copy the file again from where the map was computed; it was damaged or changed.",
        )
    return target.name


def check_model(noted: Model, path: Path) -> None:
    """Refuse a file that is not the model of a product.

    Args:
        noted: The model that a provenance names.
        path: Path of the file.

    Raises:
        InputError: If there is no such file, or its checksum is another one.
    """
    exists = is_there(path) and path.is_file()
    if not exists or sha256(path) != noted.sha256:
        raise InputError(
            path,
            found="another model than that of the map" if exists else "no such file",
            expected=f"the file with sha256 {noted.sha256[:16]}...",
            repair="give the right one with --checkpoint; those of an ensemble must be where they were.",
        )


def scene_of_provenance(path: Path) -> Scene:
    """Return the scene that a provenance names, from files of this machine only.

    Raises:
        InputError: If it is no provenance, or an image is missing or would be read over the network.
    """
    provenance = Provenance.load(path)
    check_images(provenance, hrefs_of(provenance.scene), allow_network=False)
    return provenance.scene


def check_images(provenance: Provenance, hrefs: Sequence[str], *, allow_network: bool) -> None:
    """Refuse images that are neither files or folders of this machine nor, on request, addresses.

    Args:
        provenance: Provenance that names the images.
        hrefs: Their paths and addresses.
        allow_network: Allow addresses.

    Raises:
        InputError: If an image is missing, or would be read over the network without permission.
    """
    where = f"{provenance.path}: scene"
    for href in hrefs:
        if is_address(href):
            if not allow_network or "/vsi" in href:
                raise _network(provenance, href)
            normalized(href, where)
            continue
        if not is_there(Path(local(href, where))):
            raise InputError(
                where,
                found=f"the image {href}, which is no file on this machine",
                expected="every image where it was when the map was computed",
                repair="put it back, or map the scene again with 'agrifm map'.",
            )
        text = markup(Path(href)) or ""
        if not allow_network and any(word in text for word in ("://", "/vsi", "<GDAL_W")):
            raise _network(provenance, href)


def _network(provenance: Provenance, href: str) -> InputError:
    return InputError(
        f"{provenance.path}: scene",
        found=f"an image that is read over the network: {href}",
        expected=f"files of this machine; or addresses that begin with {', '.join(SCHEMES)}, if you allow them",
        repair="check the addresses in the provenance, then give --allow-network.",
    )


def _check_size(provenance: Provenance, first: Path) -> None:
    """Refuse a grid of another size than the map beside the provenance, because one of them was damaged or changed."""
    if not first.is_file():
        return
    with refusing(first, expected="the map of classes that the provenance describes"), rasterio.open(first) as file:
        shape = file.shape
    if shape != tuple(provenance.scene.grid.shape):
        height, width = provenance.scene.grid.shape
        raise InputError(
            f"{provenance.path}: scene.grid.shape",
            found=f"{height} x {width} pixels",
            expected=f"{shape[0]} x {shape[1]}, as {first.name} beside it has",
            repair="copy both files again from where the map was computed.",
        )


def _list_inputs(console: Console, model: Path, hrefs: Sequence[str]) -> None:
    """List what is opened, because another file names it."""
    console.print(f"model: {model}", highlight=False)
    places = sorted({href.rpartition("/")[0] or "." for href in hrefs})
    for place in places[:SHOWN]:
        console.print(f"images in: {place}", highlight=False)
    if len(places) > SHOWN:
        console.print(f"and in {counted(len(places) - SHOWN, 'more folder')}", highlight=False)


@contextmanager
def _offline() -> Generator[None]:
    """Keep GDAL, in this process and its children, from opening addresses that other files name."""
    before = os.environ.get(EXTENSIONS)
    os.environ[EXTENSIONS] = NO_EXTENSIONS
    try:
        yield
    finally:
        if before is None:
            del os.environ[EXTENSIONS]
        else:
            os.environ[EXTENSIONS] = before


def _changes(provenance: Provenance) -> Iterator[str]:
    document = provenance.document
    for name, now in versions().items():
        if document.versions.get(name) != now:
            yield f"{name} {now} instead of {document.versions.get(name)}"
    if document.machine.processor != processor():
        yield f"processor {processor()} instead of {document.machine.processor}: sums may round differently"
    sums = checksums(provenance.scene)
    for href, before in document.inputs.items():
        now = sums.get(href)
        if before is not None and now != before:
            yield f"{href} is {'gone' if now is None else 'no longer the same file'}"


def _verdict(first: Path, second: Path, sha: str) -> str:
    """Compare a reproduced file with the first one, whose checksum the provenance states."""
    if not second.exists():
        return "missing in the reproduction"
    if checksum(second) == sha:
        return IDENTICAL
    if not first.is_file() or first.suffix.lower() not in (".tif", ".tiff"):
        return "different"
    if sha256(first) != sha:
        return "different; the first one was changed after it was computed"
    different = 0
    total = 0
    with rasterio.open(first) as a, rasterio.open(second) as b:
        if (a.count, a.shape) != (b.count, b.shape):
            return (
                f"different: {b.count} bands of {b.height} x {b.width} instead of {a.count} of {a.height} x {a.width}"
            )
        for row in range(0, a.height, 1024):
            window = Window(0, row, a.width, min(1024, a.height - row))  # ty: ignore[too-many-positional-arguments]
            differs = (a.read(window=window) != b.read(window=window)).any(0)
            different += int(np.count_nonzero(differs))
            total += differs.size
    return f"different in {different:,} of {total:,} pixels"
