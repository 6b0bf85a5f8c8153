"""The command's frame: what every verb shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agrifm.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Crop maps from satellite time series.",
)
# Of several processes that train together, the first speaks; errors are told by all. ':end:' is no picture.
_later = any(os.environ.get(key, "0") != "0" for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
console = Console(quiet=_later, emoji=False)

Config = Annotated[Path, typer.Argument(help="Experiment in YAML.")]
Ckpt = Annotated[Path, typer.Argument(help="Checkpoint written by 'agrifm train'.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated.")]
Flips = Annotated[bool, typer.Option("--flips", help="Average over the eight orientations of a square.")]
Ensemble = Annotated[list[Path] | None, typer.Option(help="Another checkpoint to average with, may be repeated.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def main() -> None:
    """Run the command; input errors are told without a traceback."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        told = Console(stderr=True, emoji=False)
        told.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


@contextmanager
def resumable() -> Generator[None]:
    """Ctrl-C loses nothing, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from there")
        raise typer.Exit(130) from None


def plain(text: str) -> str:
    """Text without markup."""
    return text.replace("[", r"\[")
