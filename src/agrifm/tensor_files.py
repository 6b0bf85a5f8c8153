"""Files of tensors from unknown origin, safetensors and PyTorch: nothing in them is run, and their size is checked
against what they declare before memory is asked for."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agrifm.errors import InputError, refusing
from agrifm.io import LFS_POINTER, whole

LARGEST_HEADER = 50_000_000  # bytes of a safetensors header; a tensor takes some 100
LENGTH = 8  # bytes at the start of a safetensors file that give the length of its header
COPY = "copy it again; it was probably cut off or damaged, or it is of another kind."
SAME_TENSOR = 4  # so many times a tensor may stand in a PyTorch file: tied weights share their numbers


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: it is missing or does not open.
    """
    _refuse_other(path, "a safetensors file")
    _refuse_header(path)
    with refusing(path, expected="a complete safetensors file", repair=COPY), safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors with metadata; the file appears whole.

    Raises:
        InputError: the disk is full or read-only, or the folder cannot be made.
    """
    with whole(path) as unfinished:
        try:
            save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished, metadata)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def read_torch(path: Path) -> Any:
    """Plain values and tensors of a file that PyTorch wrote; unknown classes become empty stand-ins.

    Raises:
        InputError: it is missing, cut off, of another kind, or larger inside than it is.
    """
    _refuse_other(path, "a weights file")
    zipped = _is_zip(path)
    if zipped:
        _refuse_inflated(path)
    with (
        refusing(
            path,
            expected="a PyTorch state dict or safetensors",
            repair="download it again if it was cut off; a file with other content is not opened: it could run code.",
        ),
        warnings.catch_warnings(action="ignore"),
    ):  # of odd pickles: what matters is raised
        return _unpickle(path, zipped)


def refuse_expanded(tensors: Collection[Tensor], path: Path) -> None:
    """Refuse tensors that claim more numbers than their file holds, before they are copied.

    Raises:
        InputError: they are larger than the file, or no plain tensors.
    """
    with refusing(path, expected="plain tensors, neither sparse nor quantized"):
        declared = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for tensor in tensors:
            tensor.data_ptr()  # fails where there are no numbers of its own
    size = path.stat().st_size
    if declared > SAME_TENSOR * size:
        raise InputError(
            path,
            found=f"tensors of {declared} bytes in a file of {size}",
            expected="tensors that the file holds in full",
            repair="do not use this file; get the weights from another source.",
        )


def refuse_not_finite(
    tensors: Mapping[str, Tensor],
    where: object,
    repair: str = "take another checkpoint, e.g. from before the loss became infinite, or copy the file again.",
) -> None:
    """Refuse weights that hold NaN or infinity: a model with them gives every pixel the same class.

    Args:
        tensors: by name.
        where: they come from.
        repair: what to do about it.

    Raises:
        InputError: names the tensors.
    """
    wrong = [key for key, tensor in tensors.items() if not _is_finite(tensor)]
    if wrong:
        more = f" and {len(wrong) - 1} more of {len(tensors)} tensors" if len(wrong) > 1 else ""
        raise InputError(
            where,
            found=f"numbers in {wrong[0]}{more} that are not finite",
            expected="finite weights",
            repair=repair,
        )


@dataclass(frozen=True)
class Match:
    """How weights met a model: keys that were loaded, that stayed new, that were left over."""

    matched: tuple[str, ...]
    new: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.matched)} tensors matched, {len(self.new)} new, {len(self.left_over)} left over"


def load_strict(module: nn.Module, weights: dict[str, Tensor], *, may_be_new: tuple[str, ...] = ()) -> Match:
    """Load weights; nothing may be left over, and only keys with these prefixes may stay new.

    Raises:
        InputError: names the keys or shapes that do not fit, or numbers that are not finite.
    """
    match = match_weights(module, weights, may_be_new=may_be_new)
    refuse_not_finite(weights, "weights")
    module.load_state_dict(weights, strict=not match.new)
    return match


def match_weights(
    module: nn.Module, weights: dict[str, Tensor], *, may_be_new: tuple[str, ...] = (), where: str = "weights"
) -> Match:
    """Compare names, shapes and kinds of numbers without loading anything.

    Raises:
        InputError: names the keys or shapes that do not fit.
    """
    own = module.state_dict()
    new = tuple(key for key in own if key not in weights)
    match = Match(tuple(key for key in weights if key in own), new, tuple(key for key in weights if key not in own))
    missing = [key for key in new if not key.startswith(may_be_new)] if may_be_new else list(new)
    wrong = []
    for key in match.matched:
        ours, theirs = own[key], weights[key]
        if theirs.shape != ours.shape:
            wrong.append(f"{key}: {tuple(theirs.shape)} in the file, {tuple(ours.shape)} in the model")
        elif theirs.is_floating_point() != ours.is_floating_point() or theirs.is_complex():
            wrong.append(f"{key}: {theirs.dtype} in the file, {ours.dtype} in the model")
    if missing or match.left_over or wrong or not match.matched:
        details = [f"missing: {_some(missing)}"] if missing else []
        details += [f"left over: {_some(match.left_over)}"] if match.left_over else []
        details += [f"shapes: {_some(wrong)}"] if wrong else []
        raise InputError(
            where,
            found=f"{match}; " + "; ".join(details or ["nothing matched"]),
            expected="every tensor of the file in its place",
            repair="build the model as it was trained: same size, patch, decoder, sensors and classes.",
        )
    return match


def _some(items: list[str] | tuple[str, ...], limit: int = 4) -> str:
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # As the model will hold it: a number that is finite in double precision may not be in single precision.
    return bool(torch.isfinite(tensor if tensor.is_complex() else tensor.float()).all())


def _refuse_other(path: Path, expected: str) -> None:
    """Refuse what is no file, and files whose first bytes say what they are instead."""
    if not os.path.isfile(path):  # unlike the method of Path, it also answers for names that no file can have
        found = "a folder" if os.path.isdir(path) else "no such file"
        raise InputError(path, found=found, expected=expected, repair="check the path.")
    with refusing(path, expected=expected, repair="check its permissions."), path.open("rb") as file:
        start = file.read(512)
        size = file.seek(0, os.SEEK_END)
    if not size:
        raise InputError(path, found="an empty file", expected=expected, repair="download or copy it again.")
    if start.startswith(LFS_POINTER):
        raise InputError(
            path,
            found="a Git-LFS pointer, which only names the file",
            expected=expected,
            repair="run 'git lfs pull' in its repository, or download the file itself.",
        )
    if start.lstrip()[:1] == b"<":
        raise InputError(
            path,
            found="a web page or XML",
            expected=expected,
            repair="download the file itself; what was saved is the page about it, or a message of the server.",
        )
    memory = psutil.virtual_memory().total
    if size > memory:
        raise InputError(
            path,
            found=f"{size / 1e9:.1f} GB",
            expected=f"{expected} that fits into the memory of this machine ({memory / 1e9:.1f} GB)",
            repair="use a machine with more memory, or name the right file.",
        )


def _refuse_header(path: Path) -> None:
    """Refuse a safetensors file whose header is longer than the file, is no JSON, or declares more than there is."""
    size = path.stat().st_size
    with refusing(path, expected="a complete safetensors file"), path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        header = file.read(min(length, LARGEST_HEADER + 1))
    if size < LENGTH or length > min(size - LENGTH, LARGEST_HEADER):
        found = f"a file of {size} bytes whose header should have {length}"
        raise _damaged(path, found)
    with refusing(path, expected="a safetensors file: its header is JSON", repair=COPY):
        entries = json.loads(header)
    if not isinstance(entries, dict):
        raise _damaged(path, "a header that names no tensors")


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="a complete safetensors file",
        repair=COPY,
    )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _refuse_inflated(path: Path) -> None:
    """Refuse an archive that holds more than the file's size: PyTorch never compresses, whereas zip bombs do."""
    size = path.stat().st_size
    with refusing(path, expected="a complete file that PyTorch wrote", repair=COPY), zipfile.ZipFile(path) as archive:
        inside = sum(entry.file_size for entry in archive.infolist())
    if inside > size:
        raise InputError(
            path,
            found=f"an archive of {size} bytes that holds {inside}",
            expected="a file that PyTorch wrote, without compression",
            repair="do not use this file; get the weights from another source.",
        )


def _unpickle(path: Path, zipped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        # Training libraries keep objects of their own beside the weights. They are not needed, so none is built.
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        stand_ins = [(type(name.rsplit(".", 1)[-1], (_Ignored,), {}), name) for name in named]
        with torch.serialization.safe_globals(stand_ins):  # ty: ignore[invalid-argument-type]
            return torch.load(path, map_location="cpu", weights_only=True)


class _Ignored:
    """Stands in for a class named in a pickle: takes anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...
