"""The three command lines of the original. Each prints how it reads its arguments, and the modern equivalent."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rich.table import Table

from agrifm.checks.band_order import BandOrder
from agrifm.compat.configs import Translation, translate
from agrifm.compat.keys import Note
from agrifm.compat.python_config import read
from agrifm.config import Experiment, load
from agrifm.errors import InputError, Terminated, counted, printable
from agrifm.io import write_whole
from agrifm.progress import Terminal

# PyTorch takes seconds to import, so the commands import it, and what needs it, only after their arguments are parsed.
if TYPE_CHECKING:
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import SampleSource

# Environment variables with the number of processes and the rank of this one, by launcher.
_LAUNCHERS = {
    "pytorch": ("WORLD_SIZE", "RANK"),
    "slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "mpi": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}


def train(argv: Sequence[str] | None = None) -> int:
    """``train.py CONFIG [--work_dir DIR] [--no-resume] [--no-amp] [--cfg-options k=v ...] [--launcher ...]``.

    A configuration in Python is a program and is run. Returns the exit code, which is 2 for unusable input.
    """
    parser = _parser("Train a model.", "CONFIG")
    parser.add_argument("--resume", action=BooleanOptionalAction, help="resume an interrupted run in DIR (default)")
    parser.add_argument("--amp", action=BooleanOptionalAction, help="mixed precision on a GPU (default)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of CONFIG")
    parser.add_argument("--launcher", choices=["none", *_LAUNCHERS], default="none", help="what starts the processes")
    return _exit_code(_train, parser.parse_args(argv))


def test(argv: Sequence[str] | None = None) -> int:  # noqa: PT028 (a command, not a test)
    """``test.py CONFIG CKPT [--work_dir DIR]``; a configuration in Python is run. Returns the exit code."""
    parser = _parser("Score a checkpoint on the test split.", "CONFIG", "CKPT")
    return _exit_code(_test, parser.parse_args(argv))


def inference(argv: Sequence[str] | None = None) -> int:
    """``inference.py CONFIG CKPT OUT_DIR``; a configuration in Python is run. Returns the exit code."""
    parser = _parser("Write <name>_pred.png for every test chip.", "CONFIG", "CKPT", "OUT_DIR")
    return _exit_code(_inference, parser.parse_args(argv))


def _parser(description: str, *positional: str) -> ArgumentParser:
    parser = ArgumentParser(description=description)
    for name in positional:
        parser.add_argument(name.lower(), metavar=name, type=Path)
    parser.add_argument("--work_dir", "--work-dir", metavar="DIR", type=Path, help="folder of the results")
    parser.add_argument("--local_rank", "--local-rank", metavar="N", type=int, default=0, help="set by launchers")
    return parser


def _exit_code(run: Callable[[Namespace], None], arguments: Namespace) -> int:
    """Run a command; errors of the input and signals become messages and exit codes."""
    previous_handler = signal.signal(signal.SIGTERM, _terminate)
    try:
        run(arguments)
    except InputError as error:
        Terminal(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as interrupt:
        print("stopped; the same command continues after the last finished epoch", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _train(arguments: Namespace) -> None:
    first = _is_first(arguments.launcher)
    is_python = _is_python(arguments.config)
    translation = _open(arguments.config, arguments.cfg_options, verbose=first)
    experiment, remark = _with_precision(translation.experiment, arguments.amp, is_python)
    experiment = _with_launcher(experiment, arguments.launcher, arguments.local_rank)
    out = _out(arguments, translation)
    # The flag overrides the file, and the default is to resume.
    resume = True
    if arguments.resume is not None:
        resume = arguments.resume
    elif translation.resume is not None:
        resume = bool(translation.resume)
    if first:
        _print_notes(translation.notes)
        path = out / f"{experiment.name}.yaml"
        write_whole(path, experiment.to_yaml())
        _print_equivalent(remark, "train", path, "--out", out, *([] if resume else ["--no-resume"]))
    from agrifm.training.fit import fit

    try:
        best = fit(experiment, out, resume=resume)
    except BandOrder as error:
        raise _with_original_key(error) if is_python else error from error
    if first:
        print(f"best checkpoint: {best}")


def _with_original_key(error: BandOrder) -> InputError:
    """The error with the key of a configuration in Python instead of the key of our YAML."""
    key = "train_dataloader.dataset"
    advice = f"write check_bands=False into {key} (or add '--cfg-options {key}.check_bands=False')"
    repair = error.repair.replace("set 'check_bands: false' in the data section", advice)
    return InputError(error.where, found=error.found, expected=error.expected, repair=repair)


def _test(arguments: Namespace) -> None:
    checkpoint, path, out = _open_checkpoint(arguments)
    _print_equivalent("", "evaluate", path, "--split", "test", "--out", out / "test")
    from agrifm.evaluation.scoring import evaluate

    scores = evaluate(checkpoint, _test_chips(checkpoint.experiment, label=True), out / "test")
    table = Table("score", "0 to 1")
    for name, value in scores.summary.items():
        table.add_row(name, f"{value:.4f}")
    Terminal().print(table)
    print(f"written to {out / 'test'} (the original printed percent)")


def _inference(arguments: Namespace) -> None:
    checkpoint, path, _ = _open_checkpoint(arguments)
    remark = "maps every chip of the folder, as GeoTIFF where the chip has a georeference"
    _print_equivalent(remark, "predict", path, checkpoint.experiment.data.folder, arguments.out_dir)
    from agrifm.maps.predict_chips import predict

    chips = _test_chips(checkpoint.experiment, label=False)
    paths = predict(checkpoint, chips, arguments.out_dir, suffix="_pred", force_png=True)
    print(f"{counted(len(paths), 'file')} written to {arguments.out_dir}")


def _is_python(path: Path) -> bool:
    return path.suffix not in (".yaml", ".yml")


def _open(path: Path, options: Sequence[str] = (), *, verbose: bool = True) -> Translation:
    """Read a configuration of either kind; a Python file is run."""
    if not _is_python(path):
        return Translation(load(path, options))
    if verbose:
        print(printable(f"{path} is a program, and it is run with your rights"))
    translation = translate(read(path, options), path)
    for option in options:
        key = option.partition("=")[0]
        if key.split(".")[0] in translation.variables:
            raise InputError(
                f"--cfg-options {option}",
                found="a helper variable of the file, whose value was used before the option was applied",
                expected="a key of the schema, e.g. train_cfg.max_epochs=5",
                repair="name every key that the variable affects, or edit the file.",
            )
    return translation


def _out(arguments: Namespace, translation: Translation) -> Path:
    return arguments.work_dir or translation.out or Path("work_dirs") / arguments.config.stem


def _with_precision(experiment: Experiment, amp: bool | None, is_python: bool) -> tuple[Experiment, str]:
    """The experiment with the precision that the flags request, and a remark about it."""
    import torch

    if amp is False:
        return _with_training(experiment, precision="32-true"), ""
    wanted = amp or (amp is None and is_python)
    if not wanted:
        return experiment, ""
    if not torch.cuda.is_available():
        remark = "no GPU here: mixed precision stays off, since it would gain nothing"
        return _with_training(experiment, precision="auto"), remark
    if experiment.training.precision == "32-true":
        return _with_training(experiment, precision="auto"), ""
    return experiment, ""


def _with_training(experiment: Experiment, **changes: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})


def _is_first(launcher: str) -> bool:
    """Whether this process prints."""
    rank = _LAUNCHERS[launcher][1] if launcher in _LAUNCHERS else "LOCAL_RANK"
    return os.environ.get(rank, "0") == "0"


def _with_launcher(experiment: Experiment, launcher: str, local_rank: int) -> Experiment:
    """The experiment on the processes of a launcher, each with the batch size of the configuration."""
    if launcher == "none":
        return experiment
    variable = _LAUNCHERS[launcher][0]
    if not os.environ.get(variable, "").isdigit():
        raise InputError(
            f"--launcher {launcher}",
            found=f"no number in the environment variable {variable}",
            expected="a process started by that launcher",
            repair="start with it, e.g. torchrun --nproc-per-node 2 train.py ..., or leave --launcher out.",
        )
    if launcher == "pytorch":
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    count = int(os.environ[variable])
    return _with_training(experiment, devices=count, batch_size=experiment.training.batch_size * count)


def _open_checkpoint(arguments: Namespace) -> tuple[Checkpoint, Path, Path]:
    """Open CKPT with the data paths of CONFIG.

    Returns:
        The checkpoint, a file of ours that holds exactly this, and the folder of the results.
    """
    from agrifm.compat.weights import open_checkpoint

    translation = _open(arguments.config)
    _print_notes(translation.notes)
    opened = open_checkpoint(arguments.ckpt, translation.experiment)
    experiment = _with_data_paths(opened.experiment, translation.experiment)
    checkpoint = replace(opened, experiment=experiment)
    out = _out(arguments, translation)
    if arguments.ckpt.suffix == ".safetensors" and experiment == opened.experiment:
        return checkpoint, arguments.ckpt, out
    copy = out / f"{arguments.ckpt.stem}_converted.safetensors"
    checkpoint.save(copy)
    print(f"written {copy}: the same weights with their model and data paths, for the command below")
    return checkpoint, copy, out


def _with_data_paths(own: Experiment, given: Experiment) -> Experiment:
    """The experiment of a checkpoint with the data paths of another one, which are all that CONFIG decides."""
    keys = ("root", "chips", "train", "val", "test", "dataset", "label_key")
    paths = {key: getattr(given.data, key) for key in keys}
    return own.model_copy(update={"data": own.data.model_copy(update=paths)})


def _test_chips(experiment: Experiment, *, label: bool) -> SampleSource:
    from agrifm.data.folder import CustomDataset, import_dataset

    data = experiment.data
    if data.dataset:
        return CustomDataset(import_dataset(data.dataset)("test"), data.seasons)
    return data.split("test", label=label)


def _print_equivalent(remark: str, *words: object) -> None:
    """Print the modern command on one line, so that it can be copied."""
    if remark:
        print(remark)
    print("the same with the new command:\n  agrifm " + " ".join(shlex.quote(str(word)) for word in words))


def _print_notes(notes: Sequence[Note]) -> None:
    """Print notes as a table. Keys with the same text share a row, and so do all keys without effect."""
    if not notes:
        return
    table = Table("key", "", "meaning", title="translation")
    for kind in ("changed", "derived"):
        keys_of_text: dict[str, list[str]] = {}
        for note in notes:
            if note.kind == kind:
                keys_of_text.setdefault(note.text, []).append(note.key)
        for text, keys in keys_of_text.items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            table.add_row(keys[0] + more, kind, text)
    harmless = [note.key for note in notes if note.kind == "harmless"]
    if harmless:
        table.add_row(counted(len(harmless), "key"), "harmless", "no effect on results here: " + ", ".join(harmless))
    Terminal().print(table)
