"""Lists of samples: text files with one name a line, each the name of a chip inside one folder."""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from agrifm.errors import InputError, printable, refusing
from agrifm.io import size_of

MOST_BYTES = 256 << 20  # of a list: some ten million names
LONGEST_PART = 255  # bytes of each part of a name that file systems accept
SUFFIX = ".h5"
EXPECTED = "a text file with one sample name a line"


def read_names(list_file: Path, folder: Path) -> tuple[str, ...]:
    """Read the names in a list file. Each is the name of ``<name>.h5`` inside ``folder``, e.g. ``north/r01c02``.

    Names may be written as ``x``, ``x.h5``, ``./x`` or ``a//x``; they are returned in one form.

    Raises:
        InputError: If the file is missing, no text or empty, a name repeats, or a name leads out of the folder.
    """
    names: list[str] = []
    for line in _read_text(list_file).split("\n"):
        name = line.strip()
        if name:
            names.append(_normalize(name, list_file, folder))
    if not names:
        raise InputError(list_file, found="no names", expected="one sample name a line", repair="fill the list.")
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise InputError(
            list_file,
            found=f"{min(repeated)} twice",
            expected="each name once; 'x', './x' and 'x.h5' are the same",
            repair="delete one line.",
        )
    _refuse_outside(names, list_file, folder)
    return tuple(names)


def _read_text(list_file: Path) -> str:
    """Read a list in UTF-8, or in UTF-16 as some editors on Windows write it; line ends become LF."""
    data = _read_bytes(list_file)
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


def _read_bytes(list_file: Path) -> bytes:
    """Read a list of moderate size."""
    repair = "write it, or correct its path."
    size = size_of(list_file, expected=EXPECTED, repair=repair)
    if size > MOST_BYTES:
        raise InputError(list_file, found=f"a file of {size} bytes", expected=EXPECTED, repair=repair)
    with refusing(list_file, expected=EXPECTED, repair=repair):
        return list_file.read_bytes()


def _normalize(name: str, list_file: Path, folder: Path) -> str:
    """Return a name in one form, relative to the folder."""
    root = folder.absolute().as_posix()
    path = PurePosixPath(name.removesuffix(SUFFIX))
    if path.is_absolute() and path.is_relative_to(root):
        path = path.relative_to(root)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _leads_out(name, list_file, folder)
    longest = max(len(part.encode()) for part in path.parts) + len(SUFFIX)
    if printable(name) != name or longest > LONGEST_PART:
        raise InputError(
            list_file,
            found=f"the name {name[:200]!r}",
            expected="names of files, without control characters",
            repair="delete the line, or rename the chip; if there are many such lines, this is another kind of file.",
        )
    return path.as_posix()


def _refuse_outside(names: Sequence[str], list_file: Path, folder: Path) -> None:
    """Refuse names whose folder lies elsewhere, behind a link. A chip itself may be a link that the user made."""
    root = folder.resolve()
    example_of = {name.rpartition("/")[0]: name for name in names}
    for parent, name in example_of.items():
        try:
            is_inside = (root / parent).resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # links that lead to each other
            is_inside = False
        if not is_inside:
            raise _leads_out(name, list_file, folder)


def _leads_out(name: str, list_file: Path, folder: Path) -> InputError:
    return InputError(
        f"{list_file}: {name}",
        found="a path out of the folder",
        expected=f"a name in {folder}",
        repair="correct the name, or copy the chip into the folder.",
    )
