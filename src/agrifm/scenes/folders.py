"""Files below a folder, and what stands in the place of an image: nothing, a pointer, a pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agrifm.errors import InputError, Unreadable
from agrifm.io import LFS_POINTER
from agrifm.rasters.cube_file import is_cube

MOST_FOLDERS = 100_000  # links between folders may multiply the ways through them without bounds


def kind_of(path: Path) -> int | None:
    """What a path is, as ``stat`` codes it; None if nothing is there or it cannot be reached."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):  # the second: a name that no file system stores
        return None


def files_below(root: Path) -> Iterator[Path]:
    """Files and Zarr stores below a folder, by name; links are followed, but never in a circle.

    Raises:
        InputError: If the folder cannot be listed, or links lead through more folders than there can be.
    """
    kind = kind_of(root)
    if kind is None:
        return
    if kind != stat.S_IFDIR or is_cube(root):
        yield root
        return
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, (os.path.realpath(root),))]
    met = 0
    while waiting:
        folder, above = waiting.pop()
        met += 1
        if met > MOST_FOLDERS:
            raise InputError(
                root,
                found=f"more than {MOST_FOLDERS} folders",
                expected="the images of one scene; links between folders may lead around many times",
                repair="name the folder that holds the images, or remove links to folders.",
            )
        names, inner = _listed(folder)
        yield from (folder / name for name in names)
        for name in reversed(inner):
            below = os.path.realpath(folder / name)
            if below not in above:
                waiting.append((folder / name, (*above, below)))


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of files and Zarr stores, and of folders, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise InputError(
            folder,
            found=f"a folder that cannot be listed: {os.strerror(error.errno or 0)}",
            expected="a folder that you may read",
            repair="correct its permissions, or name a folder that holds the images alone.",
        ) from error
    inner = {name for name, is_folder in found.items() if is_folder and not is_cube(folder / name)}
    return sorted(set(found) - inner), sorted(inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def refuse_special(path: Path) -> None:
    """Refuse what could hang or never end when it is opened.

    Raises:
        Unreadable: If it is a pipe, a device or a socket.
    """
    kind = kind_of(path)
    if kind not in (None, stat.S_IFREG, stat.S_IFDIR):
        raise Unreadable(
            path,
            found="a pipe, a device or a socket",
            expected="a file",
            repair="remove it, or copy its content to a file.",
        )


def stand_in(path: Path) -> Unreadable | None:
    """The error for a file that does not open because it is empty or a pointer of Git LFS; None if it is neither."""
    if kind_of(path) != stat.S_IFREG:
        return None
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except (OSError, ValueError):
        return None
    if not start:
        return Unreadable(
            path,
            found="an empty file",
            expected="a complete image",
            repair="copy or download it again, or leave it out with --skip-unreadable.",
        )
    if start == LFS_POINTER:
        return Unreadable(
            path,
            found="a pointer of Git LFS, not the image itself",
            expected="a complete image",
            repair="get the images with 'git lfs pull', or leave this one out with --skip-unreadable.",
        )
    return None
