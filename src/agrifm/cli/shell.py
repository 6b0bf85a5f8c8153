"""What all commands share: common options, exit codes, and the handling of errors and signals."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from agrifm.errors import InputError, RenamedKeyWarning, Terminated, reason
from agrifm.io import disk_refusal
from agrifm.network.hub import local_file
from agrifm.progress import Terminal

WRONG_INPUT, INTERNAL, INTERRUPTED, TERMINATED = 2, 70, 130, 143  # exit codes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Crop maps from satellite time series.",
)
console = Terminal()


def local_checkpoint(path: Path | None) -> Path | None:
    """Callback of an argument that may be an address ``hf://``: return the downloaded copy, or the path unchanged."""
    return None if path is None else local_file(path)


def _local_checkpoints(paths: list[Path] | None) -> list[Path] | None:
    return None if paths is None else [local_file(path) for path in paths]


Config = Annotated[Path, typer.Argument(help="Experiment in YAML.")]
Ckpt = Annotated[
    Path, typer.Argument(help="Checkpoint of 'agrifm train', or hf://ORG/NAME.", callback=local_checkpoint)
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value. Can be repeated.")]
Flips = Annotated[
    bool, typer.Option("--flips", help="Average over the eight orientations of a square (test-time augmentation).")
]
Ensemble = Annotated[
    list[Path] | None,
    typer.Option(
        help="Another checkpoint whose probabilities are averaged. Can be repeated.", callback=_local_checkpoints
    ),
]
Links = Annotated[bool, typer.Option("--allow-links", help="Follow links in chips to other files.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"agrifm {package_version('agrifm')}", highlight=False)
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the name of a command."""


def main() -> None:
    """Run the command. No exception reaches the user as a traceback."""
    warnings.formatwarning = _warning_text  # ty: ignore[invalid-assignment]
    # Of several processes that train together, only the first prints; all of them print errors.
    console.quiet = any(os.environ.get(key, "0") != "0" for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    try:
        signal.signal(signal.SIGTERM, _terminate)
        app(standalone_mode=True)
    except SystemExit as ended:
        sys.exit(TERMINATED if Terminated.received else ended.code)
    except KeyboardInterrupt:  # outside of the commands, where typer does not turn it into an exit code
        sys.exit(TERMINATED if Terminated.received else INTERRUPTED)
    except InputError as error:
        _refuse(error)
    except BrokenPipeError:  # the reader of a pipe, such as 'head', has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        refusal = disk_refusal(Path(error.filename or "."), error)
        if refusal is None:
            _report(error)
        _refuse(refusal)
    except Exception as error:  # the last resort: a defect of this program
        _report(error)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    Terminated.received = True
    raise Terminated


_usual_warning_text = warnings.formatwarning


def _warning_text(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line without a place in the code for warnings about the user's own files."""
    if issubclass(category, RenamedKeyWarning):
        return f"warning: {message}\n"
    return _usual_warning_text(message, category, filename, lineno, line)


def refusal(error: InputError) -> Text:
    """Format an error for the terminal."""
    return Text.assemble(("error: ", "bold red"), str(error))


def _refuse(error: InputError) -> NoReturn:
    Terminal(stderr=True).print(refusal(error), highlight=False, soft_wrap=True)
    sys.exit(WRONG_INPUT)


def _report(error: BaseException) -> NoReturn:
    """Print one line on the failure and save the full traceback."""
    handle, name = tempfile.mkstemp(prefix="agrifm-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"agrifm {' '.join(sys.argv[1:])}\n")
        file.writelines(traceback.format_exception(error))
    text = f"internal error: {type(error).__name__}: {reason(error)} (full traceback in {name})"
    Terminal(stderr=True).print(text, style="bold red", highlight=False, soft_wrap=True)
    sys.exit(INTERNAL)


@contextmanager
def resumable() -> Generator[None]:
    """Report after Ctrl-C and SIGTERM that nothing is lost, and end with their exit codes."""
    try:
        yield
    except KeyboardInterrupt as signaled:
        console.print("stopped; the same command resumes from here")
        raise typer.Exit(TERMINATED if isinstance(signaled, Terminated) else INTERRUPTED) from None
