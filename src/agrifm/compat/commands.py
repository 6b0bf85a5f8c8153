"""The original's three command lines. Each says what it made of its arguments and prints the modern equivalent."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Sequence
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
from agrifm.errors import InputError, Terminated, printable
from agrifm.io import write_whole
from agrifm.progress import Terminal

if TYPE_CHECKING:
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import SampleSource

# How each launcher tells a process the number of processes and its own number.
_LAUNCHERS = {
    "pytorch": ("WORLD_SIZE", "RANK"),
    "slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "mpi": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}


def train(argv: Sequence[str] | None = None) -> int:
    """``train.py CONFIG [--work_dir DIR] [--no-resume] [--no-amp] [--cfg-options k=v ...] [--launcher ...]``.

    A configuration in Python is a program and is run. Returns the exit code: 2 for input that cannot be used.
    """
    parser = _parser("Train a model.", "CONFIG")
    parser.add_argument("--resume", action=BooleanOptionalAction, help="go on where a run in DIR stopped (default)")
    parser.add_argument("--amp", action=BooleanOptionalAction, help="mixed precision on a GPU (default)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of CONFIG")
    parser.add_argument("--launcher", choices=["none", *_LAUNCHERS], default="none", help="who starts the processes")
    return _told(_train, parser.parse_args(argv))


def test(argv: Sequence[str] | None = None) -> int:  # noqa: PT028 (a command, not a test)
    """``test.py CONFIG CKPT [--work_dir DIR]``; a configuration in Python is run. Returns the exit code."""
    return _told(_test, _parser("Score a checkpoint on the test split.", "CONFIG", "CKPT").parse_args(argv))


def inference(argv: Sequence[str] | None = None) -> int:
    """``inference.py CONFIG CKPT OUT_DIR``; a configuration in Python is run. Returns the exit code."""
    parser = _parser("Write <name>_pred.png for every test chip.", "CONFIG", "CKPT", "OUT_DIR")
    return _told(_inference, parser.parse_args(argv))


def _parser(description: str, *positional: str) -> ArgumentParser:
    parser = ArgumentParser(description=description)
    for name in positional:
        parser.add_argument(name.lower(), metavar=name, type=Path)
    parser.add_argument("--work_dir", "--work-dir", metavar="DIR", type=Path, help="folder of the results")
    parser.add_argument("--local_rank", "--local-rank", metavar="N", type=int, default=0, help="set by launchers")
    return parser


def _told(run: Callable[[Namespace], None], arguments: Namespace) -> int:
    usual = signal.signal(signal.SIGTERM, _terminate)
    try:
        run(arguments)
    except InputError as error:
        Terminal(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as signaled:
        print("stopped; the same command goes on from the last finished epoch", file=sys.stderr)
        return 143 if isinstance(signaled, Terminated) else 130
    finally:
        signal.signal(signal.SIGTERM, usual)
    return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _train(arguments: Namespace) -> None:
    first = _first(arguments.launcher)
    translation = _open(arguments.config, arguments.cfg_options, loud=first)
    experiment, said = _precision(translation.experiment, arguments.amp, _is_python(arguments.config))
    experiment = _spread(experiment, arguments.launcher, arguments.local_rank)
    out = _out(arguments, translation)
    resume = next(choice for choice in (arguments.resume, translation.resume, True) if choice is not None)
    if first:
        _show(translation.notes)
        path = _write(out / f"{experiment.name}.yaml", experiment)
        _equivalent(said, ["train", path, "--out", out, *([] if resume else ["--no-resume"])])
    from agrifm.training import fit

    try:
        best = fit(experiment, out, resume=bool(resume))
    except BandOrder as error:
        raise _in_their_words(error) if _is_python(arguments.config) else error from error
    if first:
        print(f"best checkpoint: {best}")


def _in_their_words(error: BandOrder) -> InputError:
    """The error with the key of a configuration in Python instead of that of our YAML."""
    key = "train_dataloader.dataset"
    theirs = f"write check_bands=False into {key} (or add '--cfg-options {key}.check_bands=False')"
    repair = error.repair.replace("set 'check_bands: false' in the data section", theirs)
    return InputError(error.where, found=error.found, expected=error.expected, repair=repair)


def _test(arguments: Namespace) -> None:
    checkpoint, path, out = _checkpoint(arguments)
    _equivalent("", ["evaluate", path, "--split", "test", "--out", out / "test"])
    from agrifm.evaluation import evaluate

    scores = evaluate(checkpoint, _chips(checkpoint.experiment, label=True), out / "test")
    table = Table("score", "0 to 1")
    for name, value in scores.summary.items():
        table.add_row(name, f"{value:.4f}")
    Terminal().print(table)
    print(f"written to {out / 'test'} (the original printed percent)")


def _inference(arguments: Namespace) -> None:
    checkpoint, path, _ = _checkpoint(arguments)
    folder = checkpoint.experiment.data.folder
    said = "maps every chip of the folder, as GeoTIFF where the chip knows its place"
    _equivalent(said, ["predict", path, folder, arguments.out_dir])
    from agrifm.maps.predict_chips import predict

    chips = _chips(checkpoint.experiment, label=False)
    paths = predict(checkpoint, chips, arguments.out_dir, suffix="_pred", force_png=True)
    print(f"{len(paths)} files written to {arguments.out_dir}")


def _is_python(path: Path) -> bool:
    return path.suffix not in (".yaml", ".yml")


def _open(path: Path, options: Sequence[str] = (), *, loud: bool = True) -> Translation:
    """Read a configuration of either kind; a Python file is run."""
    if not _is_python(path):
        return Translation(load(path, options))
    if loud:
        print(printable(f"{path} is a program, and it is run with your rights"))
    translation = translate(read(path, options), path)
    for option in options:
        if option.partition("=")[0].split(".")[0] in translation.variables:
            raise InputError(
                f"--cfg-options {option}",
                found="a helper variable of the file, whose value was used before the option came",
                expected="a key of the schema, e.g. train_cfg.max_epochs=5",
                repair="name every key that the variable goes into, or edit the file.",
            )
    return translation


def _out(arguments: Namespace, translation: Translation) -> Path:
    return arguments.work_dir or translation.out or Path("work_dirs") / arguments.config.stem


def _precision(experiment: Experiment, amp: bool | None, original: bool) -> tuple[Experiment, str]:
    """The experiment with the precision that the flags ask for, and a sentence about it."""
    import torch

    chosen = experiment.training.precision
    if amp is False:
        return _with_training(experiment, precision="32-true"), ""
    wanted = amp or (amp is None and original)
    if wanted and not torch.cuda.is_available():
        said = "no GPU here: mixed precision is left off, it would gain nothing"
        return _with_training(experiment, precision="auto"), said
    return _with_training(experiment, precision="auto" if wanted and chosen == "32-true" else chosen), ""


def _with_training(experiment: Experiment, **changes: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})


def _first(launcher: str) -> bool:
    """Whether this process is the one that talks."""
    rank = _LAUNCHERS[launcher][1] if launcher in _LAUNCHERS else "LOCAL_RANK"
    return os.environ.get(rank, "0") == "0"


def _spread(experiment: Experiment, launcher: str, local_rank: int) -> Experiment:
    """The experiment over the launcher's processes, each with the batch of the configuration."""
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


def _checkpoint(arguments: Namespace) -> tuple[Checkpoint, Path, Path]:
    """The checkpoint reading the data of CONFIG, a file of ours that holds just this, and the results' folder."""
    from agrifm.compat.weights import open_checkpoint

    translation = _open(arguments.config)
    _show(translation.notes)
    opened, out = open_checkpoint(arguments.ckpt, translation.experiment), _out(arguments, translation)
    moved = _moved(opened.experiment, translation.experiment)
    checkpoint = replace(opened, experiment=moved)
    if arguments.ckpt.suffix == ".safetensors" and moved == opened.experiment:
        return checkpoint, arguments.ckpt, out
    copy = out / f"{arguments.ckpt.stem}_converted.safetensors"
    checkpoint.save(copy)
    print(f"written {copy}: the same weights with model and data paths beside them, for the command below")
    return checkpoint, copy, out


def _moved(own: Experiment, given: Experiment) -> Experiment:
    """A checkpoint's own experiment with the data paths of another one; they are all that CONFIG decides."""
    keys = ("root", "chips", "train", "val", "test", "dataset", "label_key")
    paths = {key: getattr(given.data, key) for key in keys}
    return own.model_copy(update={"data": own.data.model_copy(update=paths)})


def _chips(experiment: Experiment, *, label: bool) -> SampleSource:
    from agrifm.data.folder import CustomDataset, import_dataset

    data = experiment.data
    return (
        CustomDataset(import_dataset(data.dataset)("test"), data.seasons)
        if data.dataset
        else data.split("test", label=label)
    )


def _write(path: Path, experiment: Experiment) -> Path:
    """Write the experiment as YAML; it appears whole, by rename."""
    write_whole(path, experiment.to_yaml())
    return path


def _equivalent(said: str, words: Iterable[object]) -> None:
    """Print the modern command on one line, so that it can be copied."""
    if said:
        print(said)
    print("the same with the new command:\n  agrifm " + " ".join(shlex.quote(str(word)) for word in words))


def _show(notes: Sequence[Note]) -> None:
    """Print the notes as a table; keys with the same words share a row, and so do those without effect."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kind in ("changed", "derived"):
        for note in notes:
            if note.kind == kind:
                rows.setdefault((kind, note.text), []).append(note.key)
    idle = [note.key for note in notes if note.kind == "harmless"]
    if not notes:
        return
    table = Table("key", "", "what became of it", title="translation")
    for (kind, text), keys in rows.items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        table.add_row(keys[0] + more, kind, text)
    if idle:
        table.add_row(f"{len(idle)} keys", "harmless", "no effect on results here: " + ", ".join(idle))
    Terminal().print(table)
