"""Files of tensors from unknown origin, safetensors and PyTorch.

Nothing in them is executed, and what they declare is compared with their size before memory is allocated.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agrifm.errors import InputError, counted, refusing
from agrifm.io import LFS_POINTER, whole

LARGEST_HEADER = 50_000_000  # bytes of a safetensors header; a tensor takes some 100
LENGTH = 8  # bytes at the start of a safetensors file that give the length of its header
COPY = "copy it again; it was probably cut off or damaged, or it is of another kind."
DAMAGED = "copy the file again from where it was trained; it was damaged or changed."
MOST_TIED = 4  # names of one tensor in a PyTorch file: tied weights share their numbers
MOST_LISTED = 4  # keys that an error lists


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        InputError: If it is missing or does not open.
    """
    _refuse_other_files(path, "a safetensors file")
    _check_header(path)
    with refusing(path, expected="a complete safetensors file", repair=COPY), safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        return tensors, dict(file.metadata() or {})


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors with metadata; the file appears whole.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    with whole(path) as unfinished:
        try:
            save_file(contiguous, unfinished, metadata)
        except SafetensorError as error:
            # The library reports a full disk in its own kind of error; ``whole`` explains those of the system.
            match = re.search(r"\(os error (\d+)\)", str(error))
            if match is None:
                raise
            code = int(match[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def read_torch(path: Path) -> Any:
    """Read plain values and tensors of a file that PyTorch wrote; unknown classes become empty placeholders.

    Raises:
        InputError: If it is missing, cut off, of another kind, or declares more than it holds.
    """
    _refuse_other_files(path, "a weights file")
    is_zip = _is_zip(path)
    if is_zip:
        _refuse_zip_bomb(path)
    expected = "a PyTorch state dict or safetensors"
    repair = "download it again if it was cut off; a file with other content is not opened: it could run code."
    # PyTorch warns of unusual pickles; what matters here is raised.
    with refusing(path, expected=expected, repair=repair), warnings.catch_warnings(action="ignore"):
        return _unpickle(path, is_zip)


def refuse_expanded(tensors: Collection[Tensor], path: Path) -> None:
    """Refuse tensors that declare more numbers than their file holds, before they are copied.

    Raises:
        InputError: If they are larger than the file, or no plain tensors.
    """
    with refusing(path, expected="plain tensors, neither sparse nor quantized"):
        declared = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for tensor in tensors:
            tensor.data_ptr()  # fails for tensors without numbers of their own
    size = path.stat().st_size
    if declared > MOST_TIED * size:
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
    """Refuse weights that hold NaN or infinity: a model with them predicts the same class everywhere.

    Args:
        tensors: Tensors by name.
        where: Source of the tensors, for messages.
        repair: What to do about it.

    Raises:
        InputError: If there are any; names the tensors.
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
    """Result of matching weights with a model.

    Args:
        matched: Keys of weights that fit the model.
        new: Keys of the model without weights.
        left_over: Keys of weights without a place in the model.
    """

    matched: tuple[str, ...]
    new: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{counted(len(self.matched), 'tensor')} matched, {len(self.new)} new, {len(self.left_over)} left over"


def load_strict(module: nn.Module, weights: dict[str, Tensor], *, may_be_new: tuple[str, ...] = ()) -> Match:
    """Load weights into a module; nothing may be left over, and only keys with some prefixes may stay new.

    Args:
        module: Module to fill.
        weights: Weights by name.
        may_be_new: Prefixes of keys that may stay as they are.

    Raises:
        InputError: If keys, shapes or numbers do not fit; names them.
    """
    match = match_weights(module, weights, may_be_new=may_be_new)
    refuse_not_finite(weights, "weights")
    module.load_state_dict(weights, strict=not match.new)
    return match


def match_weights(
    module: nn.Module, weights: dict[str, Tensor], *, may_be_new: tuple[str, ...] = (), where: str = "weights"
) -> Match:
    """Compare names, shapes and types without loading anything.

    Args:
        module: Module to compare with.
        weights: Weights by name.
        may_be_new: Prefixes of keys that weights may lack.
        where: Source of the weights, for messages.

    Raises:
        InputError: If keys or shapes do not fit; names them.
    """
    own = module.state_dict()
    match = Match(
        matched=tuple(key for key in weights if key in own),
        new=tuple(key for key in own if key not in weights),
        left_over=tuple(key for key in weights if key not in own),
    )
    # startswith(()) is false for every key.
    missing = [key for key in match.new if not key.startswith(may_be_new)]
    mismatches: list[str] = []
    for key in match.matched:
        mismatches += _mismatches(key, weights[key], own[key])
    problems = {"missing": missing, "left over": match.left_over, "shapes": mismatches}
    details = [f"{name}: {_listed(keys)}" for name, keys in problems.items() if keys]
    if not match.matched and not details:
        details = ["nothing matched"]
    if details:
        raise InputError(
            where,
            found=f"{match}; {'; '.join(details)}",
            expected="every tensor of the file in its place",
            repair="build the model as it was trained: same size, patch, decoder, sensors and classes.",
        )
    return match


def _mismatches(key: str, theirs: Tensor, ours: Tensor) -> list[str]:
    """Return how a tensor of a file differs from that of a model in shape or type."""
    if theirs.shape != ours.shape:
        return [f"{key}: {tuple(theirs.shape)} in the file, {tuple(ours.shape)} in the model"]
    if theirs.is_floating_point() != ours.is_floating_point() or theirs.is_complex():
        return [f"{key}: {theirs.dtype} in the file, {ours.dtype} in the model"]
    return []


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    return ", ".join(keys[:MOST_LISTED]) + more


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if not tensor.is_complex():
        tensor = tensor.float()  # as the model will hold it: a number that is finite in float64 may not be in float32
    return bool(torch.isfinite(tensor).all())


def _refuse_other_files(path: Path, expected: str) -> None:
    """Refuse what is no file, and files whose first bytes identify them as another kind."""
    if not os.path.isfile(path):  # unlike the method of Path, it also accepts names that no file can have
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
            found="a Git-LFS pointer in place of the file",
            expected=expected,
            repair="run 'git lfs pull' in its repository, or download the file itself.",
        )
    if start.lstrip()[:1] == b"<":
        raise InputError(
            path,
            found="a web page or XML",
            expected=expected,
            repair="download the file itself; the page about it, or a message of the server, was saved instead.",
        )
    memory = psutil.virtual_memory().total
    if size > memory:
        raise InputError(
            path,
            found=f"{size / 1e9:.1f} GB",
            expected=f"{expected} that fits into the memory of this machine ({memory / 1e9:.1f} GB)",
            repair="use a machine with more memory, or name the right file.",
        )


def _check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is longer than the file, or no JSON."""
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
    return InputError(path, found=found, expected="a complete safetensors file", repair=COPY)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _refuse_zip_bomb(path: Path) -> None:
    """Refuse an archive that holds more than the size of the file: PyTorch never compresses, whereas zip bombs do."""
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


def _unpickle(path: Path, is_zip: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        # Training libraries keep their own objects beside the weights. They are not needed, so none is built.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        placeholders: list[Any] = []
        for name in names:
            class_name = name.rsplit(".", 1)[-1]
            placeholders.append((type(class_name, (_Placeholder,), {}), name))
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, map_location="cpu", weights_only=True)


class _Placeholder:
    """Replaces a class that a pickle names: accepts anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...
