"""Make a map again from its passport, and compare it with what it was."""

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
from agrifm.errors import InputError, refusing
from agrifm.io import sha256
from agrifm.maps.files.writer import map_files
from agrifm.maps.inputs import checksums, hrefs_of, is_there, markup
from agrifm.maps.map_scene import map_scene
from agrifm.maps.provenance import Model, Provenance, processor, versions

IDENTICAL = "identical"
EXTENSIONS = "CPL_VSIL_CURL_ALLOWED_EXTENSIONS"  # of addresses that GDAL may open
SHOWN = 8  # folders of images


@dataclass(frozen=True)
class Reproduction:
    """How a map made again compares.

    Args:
        identical: every file, byte for byte.
        files: name and verdict of each.
        notes: what has changed since: versions, processor, input files.
    """

    identical: bool
    files: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "identical, byte for byte" if self.identical else "DIFFERENT"
        return "\n".join([*(f"{name}: {text}" for name, text in self.files.items()), f"the map is {verdict}"])


def reproduce(
    path: Path,
    checkpoint: Path | None = None,
    out: Path | None = None,
    *,
    workers: int = 1,
    allow_network: bool = False,
    console: Console | None = None,
) -> Reproduction:
    """Make the map of a passport again and compare.

    A passport is a file from elsewhere. What it names is opened as if the user had named it: the checkpoint, whose
    checksum must fit, and images. Images over the network are opened only on request.

    Args:
        path: of the passport.
        checkpoint: the model, if it is no longer where it was.
        out: folder in which the new map stays; a temporary one if left out.
        workers: processes on this machine.
        allow_network: open images over the network.
        console: where it is shown what is opened.

    Raises:
        InputError: passport, model or images are missing or of another kind.
    """
    console = console or Console(quiet=True)
    passport = Provenance.load(path)
    document = passport.document
    target = _target(passport)
    model = checkpoint or Path(document.model.path)
    _check_model(document.model, model)
    for other in document.ensemble:
        _check_model(other, Path(other.path))
    hrefs = hrefs_of(passport.scene)
    _check_images(passport, hrefs, allow_network=allow_network)
    _check_size(passport, path.with_name(target))
    _say(console, model, hrefs)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agrifm-")))
        if folder.resolve() == path.parent.resolve():
            raise InputError(
                folder, found="the folder of the first map", expected="another one", repair="give another --out."
            )
        if not allow_network:
            stack.enter_context(_offline())
        map_scene(model, passport.scene, folder / target, document.options, workers=workers, console=console)
        files = {name: _verdict(path.parent / name, folder / name, sha) for name, sha in document.files.items()}
    identical = all(verdict == IDENTICAL for verdict in files.values())
    return Reproduction(identical, files, tuple(_changes(passport)))


def _target(passport: Provenance) -> str:
    """Name of the map of classes; all other files must be ones that come with it."""
    names = list(passport.document.files)
    target = Path(names[0])
    strange = sorted(set(names) - {path.name for path in map_files(target)})
    if target.suffix.lower() not in (".tif", ".tiff") or strange:
        raise InputError(
            f"{passport.path}: files",
            found=", ".join(strange or names[:1]),
            expected="OUT.tif first, then files that come with it, such as OUT.json and OUT_confidence.tif",
            repair="restore the file from where the map was made; it was damaged or changed.",
        )
    return target.name


def _check_model(noted: Model, path: Path) -> None:
    there = is_there(path) and path.is_file()
    if not there or sha256(path) != noted.sha256:
        raise InputError(
            path,
            found="another model than the one the map was made with" if there else "no such file",
            expected=f"the file with sha256 {noted.sha256[:16]}...",
            repair="name the right one with --checkpoint; those of an ensemble must lie where they lay.",
        )


def _check_images(passport: Provenance, hrefs: Sequence[str], *, allow_network: bool) -> None:
    """Refuse what is neither a file or folder of this machine nor, on request, an address."""
    where = f"{passport.path}: scene"
    for href in hrefs:
        if is_address(href):
            if not allow_network or "/vsi" in href:
                raise _network(passport, href)
            normalized(href, where)
            continue
        if not is_there(Path(local(href, where))):
            raise InputError(
                where,
                found=f"the image {href}, which is no file on this machine",
                expected="every image where it was when the map was made",
                repair="put it back, or map the scene anew with 'agrifm map'.",
            )
        text = markup(Path(href)) or ""
        if not allow_network and any(word in text for word in ("://", "/vsi", "<GDAL_W")):
            raise _network(passport, href)


def _network(passport: Provenance, href: str) -> InputError:
    return InputError(
        f"{passport.path}: scene",
        found=f"an image that is read over the network: {href}",
        expected=f"files of this machine; or addresses that begin with {', '.join(SCHEMES)}, if you allow them",
        repair="look at the addresses in the passport, then give --allow-network.",
    )


def _check_size(passport: Provenance, first: Path) -> None:
    """Refuse a grid of another size than the map that lies beside the passport: it was damaged or changed."""
    if not first.is_file():
        return
    with refusing(first, expected="the map of classes that the passport describes"), rasterio.open(first) as file:
        shape = file.shape
    if shape != tuple(passport.scene.grid.shape):
        height, width = passport.scene.grid.shape
        raise InputError(
            f"{passport.path}: scene.grid.shape",
            found=f"{height} x {width} pixels",
            expected=f"{shape[0]} x {shape[1]}, as {first.name} beside it has",
            repair="restore both files from where the map was made.",
        )


def _say(console: Console, model: Path, hrefs: Sequence[str]) -> None:
    """Say what is opened, as it was another file that named it."""
    console.print(f"model: {model}", highlight=False)
    places = sorted({href.rpartition("/")[0] or "." for href in hrefs})
    for place in places[:SHOWN]:
        console.print(f"images in: {place}", highlight=False)
    if len(places) > SHOWN:
        console.print(f"and in {len(places) - SHOWN} more folders", highlight=False)


@contextmanager
def _offline() -> Generator[None]:
    """Keep GDAL, in this process and in those it starts, from opening addresses that other files name."""
    before = os.environ.get(EXTENSIONS)
    os.environ[EXTENSIONS] = "{none}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[EXTENSIONS]
        else:
            os.environ[EXTENSIONS] = before


def _changes(passport: Provenance) -> Iterator[str]:
    document = passport.document
    for name, now in versions().items():
        if document.versions.get(name) != now:
            yield f"{name} {now} instead of {document.versions.get(name)}"
    if document.machine.processor != processor():
        yield f"processor {processor()} instead of {document.machine.processor}: sums may round differently"
    sums = checksums(passport.scene)
    for href, before in document.inputs.items():
        now = sums.get(href)
        if before is not None and now != before:
            yield f"{href} is {'gone' if now is None else 'no longer the same file'}"


def _verdict(first: Path, second: Path, sha: str) -> str:
    """How a file made again compares with the first one, whose checksum the passport states."""
    if not second.is_file():
        return "not made again"
    if sha256(second) == sha:
        return IDENTICAL
    if not first.is_file() or first.suffix.lower() not in (".tif", ".tiff"):
        return "different"
    if sha256(first) != sha:
        return "different; the first one was changed after it was made"
    different = total = 0
    with rasterio.open(first) as a, rasterio.open(second) as b:
        if (a.count, a.shape) != (b.count, b.shape):
            return (
                f"different: {b.count} bands of {b.height} x {b.width} instead of {a.count} of {a.height} x {a.width}"
            )
        for row in range(0, a.height, 1024):
            window = Window(0, row, a.width, min(1024, a.height - row))  # ty: ignore[too-many-positional-arguments]
            differs = (a.read(window=window) != b.read(window=window)).any(0)
            different, total = different + int(np.count_nonzero(differs)), total + differs.size
    return f"different in {different:,} of {total:,} pixels"
