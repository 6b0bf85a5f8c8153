"""Write a model as an ONNX file or a PyTorch program, and compare the file with the model before it is kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from agrifm.checkpoint import Checkpoint, library_versions
from agrifm.errors import InputError
from agrifm.io import checksum, whole
from agrifm.products.export.plain_classifiers import PlainClassifiers
from agrifm.products.export.plain_network import PlainNetwork

ONNX, PROGRAM = ".onnx", ".pt2"
FACTS = "facts.json"  # what a program says about its inputs and its output
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-3  # of probabilities between the file and the model
COMPARED = 3  # samples; another number than the file was made with
COMPARED_PIXELS = 64

Plain = PlainNetwork | PlainClassifiers


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Path of the file.
        inputs: Names of its inputs, with their shapes; -1 stands for any number of samples or pixels.
        difference: Largest difference of probabilities from the model on random inputs.
    """

    path: Path
    inputs: dict[str, tuple[int, ...]]
    difference: float


def export(checkpoint: Path, out: Path, dates: int | None = None, side: int | None = None) -> Exported:
    """Write a checkpoint as a file that runs without this package, and keep it if it computes what the model computes.

    Args:
        checkpoint: Path of the checkpoint.
        out: Path of the file: ``.onnx``, or ``.pt2`` for a program that runs with PyTorch alone.
        dates: Number of dates of every series; only for a network.
        side: Rows and columns of the finest sensor; only for a network.

    Raises:
        InputError: If a library is missing, the model cannot be exported, or the file computes something else.
    """
    _refuse_unwritable_kind(out)
    model = Checkpoint.load(checkpoint)
    plain = _plain(model, checkpoint, dates, side).eval()
    facts = {
        "classes": list(model.experiment.task.names),
        **plain.facts(),
        "name": model.experiment.name,
        "checkpoint_sha256": checksum(checkpoint),
        "agrifm": library_versions()["agrifm"],
    }
    is_onnx = out.suffix == ONNX
    with torch.no_grad(), whole(out) as unfinished:
        with _quietly():
            program = _traced(plain)
            if is_onnx:
                _write_onnx(program, plain.inputs, facts, unfinished)
            else:
                _write_program(program, facts, unfinished)
        difference = _compare(plain, unfinished, _run_onnx if is_onnx else _run_program)
        # Written so that a difference that is not a number is refused, too.
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                out,
                found=f"probabilities that differ by up to {difference:.2g} from those of the model",
                expected=f"a difference of at most {LARGEST_DIFFERENCE:g}",
                repair=f"try other versions of {', '.join(LIBRARIES) if is_onnx else 'torch'}; the file was not kept.",
            )
    shapes = {}
    for name, tensor in zip(plain.inputs, plain.random_inputs(1), strict=True):
        shapes[name] = (-1, *tensor.shape[1:])
    return Exported(out, shapes, difference)


def _refuse_unwritable_kind(out: Path) -> None:
    """Refuse other kinds of files than those that can be written, and ONNX files without the libraries for them."""
    if out.suffix not in (ONNX, PROGRAM):
        raise InputError(
            out,
            found=f"the suffix '{out.suffix}'",
            expected=f"{ONNX} or {PROGRAM}",
            repair=f"give a name such as model{ONNX}.",
        )
    if out.suffix == PROGRAM:
        return
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(
            out,
            found=f"no {', '.join(missing)}, which write and run ONNX files",
            expected="these optional libraries",
            repair="run pip install 'agrifm[export]'.",
        )


def _plain(model: Checkpoint, path: Path, dates: int | None, side: int | None) -> Plain:
    """Return the model as a module of plain tensors.

    Raises:
        InputError: If it is an average of several kinds of models, or finds fields.
    """
    averages = model.flips or bool(model.others) or 0 < model.pixel_share < 1
    if averages or model.edges is not None or model.experiment.task.kind == "fields":
        raise InputError(
            path,
            found="a model of fields" if not averages else "an average of several models",
            expected="a network alone, or classifiers of pixels alone, that give a probability to each class",
            repair="use 'agrifm map', or train such a model.",
        )
    if model.uses_network:
        return PlainNetwork(model, dates, side)
    if model.uses_context:
        raise InputError(
            path,
            found="classifiers of pixels with the feature 'context'",
            expected="classifiers that read each pixel alone",
            repair="train without 'context' in pixels.features, or use 'agrifm map'.",
        )
    if dates is not None or side is not None:
        raise InputError(
            "--dates, --size",
            found="a checkpoint of classifiers of pixels",
            expected="a network: dates of classifiers are fixed, and every pixel stands alone",
            repair="leave them out.",
        )
    return PlainClassifiers(model)


@contextmanager
def _quietly() -> Generator[None]:
    """Suppress what the exporter reports about its own operations: missing torchvision, deprecated calls of PyTorch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _traced(plain: Plain) -> ExportedProgram:
    """Return the operations of a model, for any number of samples or pixels."""
    # The layouts of windows are computed here, once, and become constants of the file.
    plain.reference(plain.random_inputs(1))
    example = plain.random_inputs(2)
    count = torch.export.Dim("batch", min=1)
    free = tuple({0: count} for _ in example)
    return torch.export.export(plain, example, dynamic_shapes=(free,), strict=False)


def _write_onnx(program: ExportedProgram, inputs: list[str], facts: dict[str, Any], path: Path) -> None:
    """Write an ONNX file whose metadata hold the facts."""
    written = torch.onnx.export(
        program.run_decompositions(_decompositions()),
        (),
        dynamo=True,
        verbose=False,
        input_names=inputs,
        output_names=["probabilities"],
    )
    assert written is not None
    for key, value in facts.items():
        written.model.metadata_props[key] = json.dumps(value)
    written.save(path, external_data=False)


def _write_program(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    """Write a PyTorch program with the facts beside it."""
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})


def _decompositions() -> dict[Any, Callable]:
    """Return how operations are written for which ONNX has no counterpart."""
    table = torch.export.default_decompositions()
    table[torch.ops.aten.cummax.default] = lambda x, dim: _running(x, dim, torch.maximum)
    table[torch.ops.aten.cummin.default] = lambda x, dim: _running(x, dim, torch.minimum)
    table[torch.ops.aten.median.dim] = _median
    return table


def _running(x: Tensor, dim: int, larger: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Running maximum or minimum along an axis of known length. Nothing here uses its indices, which are zeros."""
    values = [x.select(dim, 0)]
    for position in range(1, x.shape[dim]):
        values.append(larger(values[-1], x.select(dim, position)))
    stacked = torch.stack(values, dim)
    return stacked, torch.zeros_like(stacked, dtype=torch.int64)


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Median, the lower of two. Nothing here uses its indices, which are those of the sorted values."""
    values, indices = x.sort(dim)
    middle = (x.shape[dim] - 1) // 2
    chosen = values.select(dim, middle), indices.select(dim, middle)
    return (chosen[0].unsqueeze(dim), chosen[1].unsqueeze(dim)) if keepdim else chosen


def _compare(plain: Plain, path: Path, run: Callable[[Path, dict[str, Tensor]], Tensor]) -> float:
    """Return the largest difference of probabilities between the file and the model on random inputs."""
    tensors = plain.random_inputs(COMPARED if isinstance(plain, PlainNetwork) else COMPARED_PIXELS)
    probabilities = run(path, dict(zip(plain.inputs, tensors, strict=True)))
    return float((probabilities - plain.reference(tensors)).abs().max())


def _run_onnx(path: Path, tensors: dict[str, Tensor]) -> Tensor:
    import onnxruntime  # an optional library

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [probabilities] = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    return torch.from_numpy(probabilities)


def _run_program(path: Path, tensors: dict[str, Tensor]) -> Tensor:
    with path.open("rb") as file:
        program = torch.export.load(file)
    return program.module()(*tensors.values())
