"""Command ``view``: maps, scenes, chips, runs and samples in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.scenes import Settings, Skip
from agrifm.cli.shell import TERMINATED, app, console
from agrifm.errors import Terminated


@app.command()
def view(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="MAP|SCENE|CHIPS|RUN|SAMPLE...",
            help="One or two maps, a scene, or a map and a scene; a folder of chips, or of a run; or a sample of "
            "'area design' to interpret.",
        ),
    ],
    scene: Annotated[
        Path | None, typer.Option(help="Images below a map (default: those that its provenance names), or of a sample.")
    ] = None,
    parcels: Annotated[Path | None, typer.Option(help="Vector file of parcels to outline.")] = None,
    labels: Annotated[Path | None, typer.Option(help="GeoPackage of labels to draw into.")] = None,
    train: Annotated[
        Path | None,
        typer.Option(help="Folder for models and maps from these labels, which a button of the page then trains."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of this machine; 0 takes a free one.", min=0, max=65535)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address without opening it.")] = False,
    settings: Settings = None,
    skip_unreadable: Skip = False,
) -> None:
    """Show maps, scenes, chips and runs in the browser, or interpret a sample: images of any date, series, scores.

    The page is served by this machine to this machine only, and loads nothing from elsewhere. Ctrl-C ends it.
    """
    from agrifm.viewer.opening import open_page
    from agrifm.viewer.server import serve

    with console.status("opening"):
        shown = open_page(
            paths, scene, parcels, settings or (), labels=labels, train=train, skip_unreadable=skip_unreadable
        )

    def opened(address: str) -> None:
        console.print(f"{shown}\n{address}\nCtrl-C ends the viewer.", highlight=False, soft_wrap=True)
        if not no_browser and _has_display():
            webbrowser.open(address)

    try:
        serve(shown, port, opened)
    except KeyboardInterrupt as signaled:  # the server has closed its connections by now
        if isinstance(signaled, Terminated):
            raise typer.Exit(TERMINATED) from None
    console.print("ended")


def _has_display() -> bool:
    """Whether a browser can open a window; without one, Python would start a browser inside the terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
