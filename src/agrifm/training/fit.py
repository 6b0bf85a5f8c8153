"""One training run: check the data, resolve the experiment, train, keep the best weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from agrifm.checkpoint import Checkpoint, Match, load_strict, write_provenance
from agrifm.config import Experiment, parse
from agrifm.data.folder import SampleSource
from agrifm.errors import InputError
from agrifm.io import locked, refuse_unwritable
from agrifm.tasks.fields import Fields
from agrifm.training.callbacks import BEST, LAST
from agrifm.training.field_stage import choose, fit_edges
from agrifm.training.history import HISTORY
from agrifm.training.linear_probe import open_probe
from agrifm.training.loggers import refuse_missing
from agrifm.training.mean_teacher import MeanTeacher
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import from_first, is_first
from agrifm.training.pixel_stage import MEMBERS, blend, fit_pixels, score, write_members
from agrifm.training.resolve import resolve
from agrifm.training.samples.loaders import Loaders
from agrifm.training.samples.sources import open_sources
from agrifm.training.state import (
    RESUME,
    checksums_of,
    inputs_of,
    read_checksums,
    refuse_changed_chips,
    with_sizes_of_run,
    write_checksums,
)
from agrifm.training.trainer import make_trainer, run
from agrifm.weight_files.start_weights import start_weights

PIXELS = "pixels.safetensors"
# Parts of a model that start weights may lack.
NEW_WEIGHTS = ("context.", "decoder.", "head.", "normalize.", "pixel_time.", "pixel_head.")


def fit(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = True,
    sources: Mapping[str, SampleSource] | None = None,
    console: Console | None = None,
) -> Path:
    """Train an experiment and return the path of the best checkpoint.

    Args:
        experiment: The experiment.
        out: Folder of the results: ``best.safetensors``, ``last.safetensors``, ``history.csv``,
            ``experiment.yaml``, ``environment.json``, logs and the state for resuming; with pixel
            classifiers also ``pixels.safetensors`` and ``members.csv``.
        resume: Continue an interrupted run in ``out``, if there is one; otherwise start from the beginning.
        sources: Samples of ``train`` and ``val``, instead of those that the experiment names.
        console: Shows progress.

    Raises:
        InputError: If the data, the configuration or the weights are wrong.
    """
    console = console or Console()
    refuse_missing(experiment)
    weights = start_weights(experiment)
    refuse_unwritable(out)
    _refuse_to_replace_network(experiment, out)
    # Processes that train together share their folder, and the first of them locks it against other runs.
    with locked(out / "training") if is_first() else nullcontext():
        sources = sources or open_sources(experiment)
        state = out / RESUME
        resumed_state = state if resume and state.is_file() else None

        # Reading all chips takes long, so one process does it for the others.
        data = from_first(partial(_check_data, experiment, out, weights, sources, resumed_state, console))
        experiment = parse(json.loads(data["experiment"]), "experiment")

        if not experiment.network:
            if is_first():
                _fit_pixels(experiment, out, sources, console, resuming=False)
            return out / BEST

        module = MeanTeacher(experiment) if experiment.data.shards else TrainingModule(experiment)
        module.inputs = data["inputs"]
        if weights is not None:
            console.print(f"start weights: {load_start_weights(module, weights)}", highlight=False)
        beside = None
        if experiment.pixels is not None and is_first():
            beside = _fit_pixels(experiment, out, sources, console, resuming=resumed_state is not None)
        if not resume and is_first():
            for name in (RESUME, HISTORY, BEST, LAST):
                (out / name).unlink(missing_ok=True)
        if resumed_state is not None:
            console.print(f"resuming from {resumed_state}", highlight=False)

        trainer = make_trainer(experiment, out, console, open_probe(experiment))
        run(trainer, module, Loaders(experiment, sources), resumed_state)
        if beside is not None:
            network = Checkpoint.load(out / BEST)
            if not network.stands_beside:  # a run that had ended has averaged them already
                _combine(network, beside, sources["val"], console).save(out / BEST)
    return out / BEST


def _combine(network: Checkpoint, beside: Checkpoint, val: SampleSource, console: Console) -> Checkpoint:
    """Combine the network with what was fitted beside it, by their scores on the validation split."""
    if beside.edges is not None:
        return choose(network, beside, val, console)
    return blend(network, beside, val, console)


def _fit_pixels(
    experiment: Experiment, out: Path, sources: Mapping[str, SampleSource], console: Console, *, resuming: bool
) -> Checkpoint:
    """Fit the pixel classifiers, and edges for fields, and save them as a checkpoint; a resumed run takes it up."""
    path = out / (PIXELS if experiment.network else BEST)
    if resuming and path.is_file():
        saved = Checkpoint.load(path)
        if saved.stands_beside:
            return saved
    quick = experiment.quick()
    if isinstance(experiment.task, Fields):
        beside, comparison = fit_edges(quick, sources, console)
    else:
        fitted = fit_pixels(experiment, sources["train"], sources["val"], console)
        comparison = fitted.comparison
        beside = Checkpoint(quick, {}, pixels=fitted.ensemble, held_out=fitted.held_out, pixel_share=1.0)
    scores = score(beside.for_split("val").model(), quick, sources["val"])
    beside = replace(beside, scores=scores)
    beside.save(path)
    if comparison is not None:
        write_members(comparison, out / MEMBERS)
    write_provenance(experiment, out)
    shown = "  ".join(f"{name} {scores[name]:.4f}" for name in experiment.task.shown if name in scores)
    learned = " (then the classifiers learned from this split, too)" if beside.learned_from_val else ""
    console.print(f"validation: {shown}{learned}\nsaved: {path}", highlight=False, soft_wrap=True)
    return beside


def _refuse_to_replace_network(experiment: Experiment, out: Path) -> None:
    """Refuse to write pixel classifiers over a network that took long to train."""
    if experiment.network or not (out / HISTORY).is_file():
        return
    raise InputError(
        out,
        found="a run that trained a network",
        expected="a folder without one, because its best.safetensors would be replaced",
        repair="name another folder with --out, or set network: true to train it again.",
    )


def _check_data(
    experiment: Experiment,
    out: Path,
    weights: dict[str, Tensor] | None,
    sources: Mapping[str, SampleSource],
    resumed_state: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Return the resolved experiment and fingerprints of its inputs, as plain values.

    Raises:
        InputError: If the data have problems, or are not those of the run to resume.
    """
    resuming = resumed_state is not None
    with console.status("comparing the data with those of the run" if resuming else "computing checksums"):
        previous = read_checksums(out)
        checksums = checksums_of(sources, out)
    if resumed_state is not None:
        refuse_changed_chips(previous, checksums, resumed_state)
        experiment = with_sizes_of_run(experiment, resumed_state)
    resolved = resolve(experiment, sources, console)
    write_checksums(checksums, out)
    return {"experiment": resolved.model_dump_json(), "inputs": inputs_of(checksums, sources, weights)}


def load_start_weights(module: TrainingModule, weights: dict[str, Tensor]) -> Match:
    """Load pre-trained weights into a model, whose decoder, head and additions to the encoder may be new.

    Raises:
        InputError: If a tensor of the encoder is missing, left over or of another shape.
    """
    return load_strict(module.model, weights, may_be_new=NEW_WEIGHTS)
