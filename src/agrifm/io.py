"""Files that appear whole or not at all: atomic writes, locks and checksums."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import psutil
from filelock import FileLock, Timeout

from agrifm.errors import InputError, printable

LFS_POINTER = b"version https://git-lfs"  # start of the text that Git LFS leaves in place of a file
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)

# Set AGRIFM_FSYNC=0 to trade durability after a power failure for speed on slow or network disks.
SYNC = os.environ.get("AGRIFM_FSYNC", "1") != "0"


def _permissions() -> int:
    """Permissions of new files according to the user's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


PERMISSIONS = _permissions()  # some libraries create files that only their owner can read


@contextmanager
def whole(path: Path, *, tidy: bool = True) -> Generator[Path]:
    """Write a file under a temporary name and rename it once it is complete.

    The temporary name lies in the same folder and keeps the suffix, because several libraries choose the format by it.
    The data reach the disk before the rename does. After an exception the temporary file is gone; after a kill, the
    next write of the same file removes it.

    Args:
        path: Final path of the file; its folder is created.
        tidy: Remove temporary files of killed writers, which lists the folder. Callers that write thousands of files
            into one folder switch it off and remove them once.

    Yields:
        Path to write to.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    unfinished = path.with_name(f".{path.stem[:200]}.{os.getpid()}.part{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if tidy:
            _remove_leftovers(path)
        try:
            yield unfinished
            unfinished.chmod(PERMISSIONS)
            sync(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Fill a folder under a temporary name and rename it once it is complete; ``path`` must not exist yet.

    Args:
        path: Final path of the folder.

    Yields:
        An empty folder to fill.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    unfinished = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        unfinished.mkdir()
        try:
            yield unfinished
            for file in unfinished.rglob("*"):
                sync(file)
            sync(unfinished)
            unfinished.replace(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync(path.parent)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders of writers of this path that were killed."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem[:200])}.*.part*"):
        # Names end with the number of the process that wrote them: .map.1234.part.tif
        writer = leftover.name.removesuffix(leftover.suffix).removesuffix(".part").rpartition(".")[2]
        if not writer.isdecimal():
            continue
        is_other_running_process = int(writer) != os.getpid() and psutil.pid_exists(int(writer))
        if is_other_running_process:
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8; it appears whole, and its folder is created.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV; the file appears whole."""
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk; see ``SYNC``."""
    if not SYNC:
        return
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    # Windows flushes only what is open for writing, and elsewhere folders cannot be opened so.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not sync folders
            raise
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn failures of the disk into an ``InputError``; other errors pass.

    Raises:
        InputError: If there is no space, no permission, or a file in place of a folder.
    """
    try:
        yield
    except OSError as error:
        refusal = disk_refusal(path, error)
        if refusal is None:
            raise
        raise refusal from error


def disk_refusal(path: Path, error: OSError) -> InputError | None:
    """Return the error for a file that cannot be written; None if the disk is not the cause."""
    if error.errno in NO_SPACE or "No space left on device" in str(error):
        return InputError(
            path,
            found=f"no space left to write it{_free(path)}",
            expected="enough space on the disk, and no limit on the size of files",
            repair="free some space and run the same command again.",
        )
    if error.errno in NO_PERMISSION:
        return InputError(
            path,
            found=f"a place that cannot be written: {os.strerror(error.errno or 0)}",
            expected="a folder in which you may create files",
            repair="choose another output folder, or change its permissions.",
        )
    if error.errno in NO_FOLDER:
        blocking = error.filename or path
        return InputError(
            path,
            found=f"{blocking}: {os.strerror(error.errno or 0)}",
            expected="a folder that exists or can be created, and a name that the file system accepts",
            repair="choose another output folder, or move the file that is in the way.",
        )
    return None


def _free(path: Path) -> str:
    for folder in path.absolute().parents:
        if folder.is_dir():
            return f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"
    return ""


def refuse_unwritable(folder: Path) -> None:
    """Create a folder for results and try to write into it, before the work begins.

    Raises:
        InputError: If it is a file, lies below one, or cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def locked(target: Path) -> Generator[None]:
    """Keep other processes from writing the same target. The lock ends with the process, however it ends.

    Args:
        target: File or folder to write. ``.<name>.lock`` lies beside it meanwhile, and after a kill until the next lock
            of the same target ends.

    Raises:
        InputError: If another process is writing it, or the folder cannot be created.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name[:200]}.lock"), timeout=0)
    try:
        with writing(target):
            lock.acquire()
            while not Path(lock.lock_file).exists():  # its last holder removed the file between open and lock
                lock.release()
                lock.acquire()
    except Timeout as error:
        raise InputError(
            target,
            found="another process that is writing it",
            expected="one process for each output",
            repair="wait until it has finished, or write to another place.",
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove open files
            Path(lock.lock_file).unlink()
        lock.release()


@dataclass(frozen=True)
class FileStamp:
    """Time and size of a file that is edited for a while, by which changes of other programs are noticed.

    Args:
        path: The file.
        state: Time in nanoseconds and size in bytes; None if the file does not exist.
    """

    path: Path
    state: tuple[int, int] | None

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of a file as it is now."""
        if not path.exists():
            return cls(path, None)
        status = path.stat()
        return cls(path, (status.st_mtime_ns, status.st_size))

    def refuse_change(self, repair: str) -> None:
        """Refuse a file that has changed since.

        Args:
            repair: What to do about it.

        Raises:
            InputError: If its time or size differs, or it was created or removed.
        """
        if FileStamp.of(self.path) != self:
            raise InputError(
                self.path,
                found="a file that another program has changed since",
                expected="the file as it was read",
                repair=repair,
            )


def plain_name(name: object, where: object) -> str:
    """Return a file name that was read from a file, if it is a plain name.

    Raises:
        InputError: If it is empty, absolute, holds a separator or control characters, or leads to another folder.
    """
    text = str(name)
    one_part = PurePosixPath(text).name == text and PureWindowsPath(text).name == text
    if not isinstance(name, str) or text in ("", ".", "..") or not one_part or printable(text) != text:
        raise InputError(
            where,
            found=f"the file name {text!r}",
            expected="a plain file name without folders",
            repair="restore the file that holds this name; it was damaged or changed.",
        )
    return text


def size_of(path: Path, *, expected: str, repair: str) -> int:
    """Return the size in bytes of a regular file; reading pipes and devices could block forever.

    Raises:
        InputError: If there is no such file, or it is a folder, a pipe or a device.
    """
    found = "no such file"
    try:
        if path.is_file():
            return path.stat().st_size
        if path.exists():
            found = f"no regular file, but {'a folder' if path.is_dir() else 'a pipe or device'}"
    except OSError as error:
        found = error.strerror or type(error).__name__
    raise InputError(path, found=found, expected=expected, repair=repair)


def sha256(path: Path) -> str:
    """Return the checksum of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(path: Path) -> str:
    """Return the checksum of a file, or of the names and contents of all files below a folder such as a Zarr store."""
    if not path.is_dir():
        return sha256(path)
    total = hashlib.sha256()
    for file in files_below(path):
        total.update(f"{file.relative_to(path).as_posix()}\n{sha256(file)}\n".encode())
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """List all files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
