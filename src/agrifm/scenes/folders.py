"""Files below a folder, and special files in the place of images: pipes, empty files, pointers of Git LFS."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agrifm.errors import InputError, Unreadable
from agrifm.io import LFS_POINTER
from agrifm.rasters.cube_file import is_cube

MAX_FOLDERS = 100_000  # links between folders may multiply the paths through them without bounds


def kind_of(path: Path) -> int | None:
    """Return the type of a file as ``stat`` codes it; None if it does not exist or cannot be reached."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a name that no file system stores
        return None


def names_upward(path: Path, root: Path) -> list[str]:
    """Return the names from a file up to the scene's folder, or up to the SAFE folder in which the scene lies.

    Args:
        path: Path of the file.
        root: Folder of the scene, or the file itself.
    """
    names = [path.name] + [folder.name for folder in path.parents]
    inside = len(path.parts) - len(root.parts) + 1
    for position in range(inside, min(inside + 5, len(names))):
        if names[position].upper().endswith(".SAFE"):
            return names[: position + 1]
    return names[:inside]


def files_below(root: Path) -> Iterator[Path]:
    """Iterate over files and Zarr stores below a folder, by name; links are followed, but never in a circle.

    Raises:
        InputError: If a folder cannot be listed, or links lead through too many folders.
    """
    kind = kind_of(root)
    if kind is None:
        return
    if kind != stat.S_IFDIR or is_cube(root):
        yield root
        return
    # Folders to visit, each with the real paths of those above it.
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, (os.path.realpath(root),))]
    visited = 0
    while waiting:
        folder, ancestors = waiting.pop()
        visited += 1
        if visited > MAX_FOLDERS:
            raise InputError(
                root,
                found=f"more than {MAX_FOLDERS} folders",
                expected="the images of one scene; links between folders may lead around many times",
                repair="name the folder that holds the images, or remove links to folders.",
            )
        files, subfolders = _list_folder(folder)
        for name in files:
            yield folder / name
        for name in reversed(subfolders):
            real = os.path.realpath(folder / name)
            if real not in ancestors:
                waiting.append((folder / name, (*ancestors, real)))


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of files and Zarr stores, and of folders, without hidden ones."""
    files = []
    subfolders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry) and not is_cube(folder / entry.name):
                    subfolders.append(entry.name)
                else:
                    files.append(entry.name)
    except OSError as error:
        raise InputError(
            folder,
            found=f"a folder that cannot be listed: {os.strerror(error.errno or 0)}",
            expected="a folder that you may read",
            repair="correct its permissions, or name a folder that holds the images alone.",
        ) from error
    return sorted(files), sorted(subfolders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def refuse_special(path: Path) -> None:
    """Refuse files that could block or never end when they are opened.

    Raises:
        Unreadable: If the path is a pipe, a device or a socket.
    """
    kind = kind_of(path)
    if kind not in (None, stat.S_IFREG, stat.S_IFDIR):
        raise Unreadable(
            path,
            found="a pipe, a device or a socket",
            expected="a file",
            repair="remove it, or copy its content to a file.",
        )


def placeholder_error(path: Path) -> Unreadable | None:
    """Return the error for a file that is empty or a pointer of Git LFS; None if it is neither."""
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
