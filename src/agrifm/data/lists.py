"""Lists of samples: text files with one name a line, each of which stands for a chip inside one folder."""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from agrifm.errors import InputError, printable, refusing
from agrifm.io import size_of

MOST_BYTES = 256 << 20  # of a list: some ten million names
LONGEST = 255  # bytes of each part of a name that file systems take
SUFFIX = ".h5"


def read_names(list_file: Path, folder: Path) -> tuple[str, ...]:
    """Names in a list file; each stands for ``<name>.h5`` inside ``folder``, e.g. ``north/r01c02``.

    ``x``, ``x.h5``, ``./x`` and ``a//x`` are written in various ways; they are returned in one.

    Raises:
        InputError: the file is missing, no text or empty, a name repeats, or a name leads out of the folder.
    """
    names = [line.strip() for line in _text(list_file).split("\n")]
    names = [_normal(name, list_file, folder) for name in names if name]
    if not names:
        raise InputError(list_file, found="no names", expected="one sample name a line", repair="fill the list.")
    repeated = [name for name, count in Counter(names).items() if count > 1] if len(set(names)) < len(names) else []
    if repeated:
        raise InputError(
            list_file,
            found=f"{min(repeated)} twice",
            expected="each name once; 'x', './x' and 'x.h5' are the same",
            repair="delete one line.",
        )
    _stay_inside(names, list_file, folder)
    return tuple(names)


def _text(list_file: Path) -> str:
    """The text of a list in UTF-8, or in UTF-16 as some editors on Windows write it; line ends are LF."""
    data = _bytes(list_file)
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.removeprefix(BOM_UTF8).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            list_file,
            found=f"bytes that are no text in UTF-8, the first at {error.start}",
            expected="a text file in UTF-8 with one sample name a line",
            repair="save the list as UTF-8, or name the list instead of another file.",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _bytes(list_file: Path) -> bytes:
    """Bytes of a list of moderate size."""
    expected, repair = "a text file with one sample name a line", "write it, or correct its path."
    size = size_of(list_file, expected=expected, repair=repair)
    if size > MOST_BYTES:
        raise InputError(list_file, found=f"a file of {size} bytes", expected=expected, repair=repair)
    with refusing(list_file, expected=expected, repair=repair):
        return list_file.read_bytes()


def _normal(name: str, list_file: Path, folder: Path) -> str:
    """One way of writing a name, relative to the folder."""
    path = PurePosixPath(name.removesuffix(SUFFIX))
    if path.is_absolute() and path.is_relative_to(folder.absolute().as_posix()):
        path = path.relative_to(folder.absolute().as_posix())
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _leads_out(name, list_file, folder)
    if printable(name) != name or max(len(part.encode()) for part in path.parts) + len(SUFFIX) > LONGEST:
        raise InputError(
            list_file,
            found=f"the name {name[:200]!r}",
            expected="names of files, without control characters",
            repair="delete the line, or rename the chip; if there are many such lines, this is another kind of file.",
        )
    return path.as_posix()


def _stay_inside(names: Sequence[str], list_file: Path, folder: Path) -> None:
    """Refuse names whose folder lies elsewhere, behind a link; a chip itself may be a link that the user made."""
    root = folder.resolve()
    parents = {name.rpartition("/")[0]: name for name in names}
    for parent, name in parents.items():
        try:
            inside = (root / parent).resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # links that lead to each other
            inside = False
        if not inside:
            raise _leads_out(name, list_file, folder)


def _leads_out(name: str, list_file: Path, folder: Path) -> InputError:
    return InputError(
        f"{list_file}: {name}",
        found="a path out of the folder",
        expected=f"a name in {folder}",
        repair="correct the name, or copy the chip into the folder.",
    )
