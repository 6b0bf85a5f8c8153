"""Commands for area statistics: ``area design`` and ``area estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Overwrite, app, console
from agrifm.errors import counted

DEFAULT_ACCURACY = "0.85"  # expected user's accuracy of classes that are not named

area = typer.Typer(no_args_is_help=True, help="Estimate the area of classes from a sample of a map.")
app.add_typer(area, name="area")


@area.command("design")
def design(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="Raster of classes.")],
    out: Annotated[Path, typer.Argument(help="Sample to write: .gpkg or .csv.")],
    size: Annotated[
        int | None, typer.Option(help="Size of the sample, instead of the next two options.", min=2)
    ] = None,
    target_se: Annotated[float, typer.Option(help="Wanted standard error of the overall accuracy.", min=1e-4)] = 0.01,
    user_accuracy: Annotated[
        list[str] | None,
        typer.Option(help="Expected user's accuracy, or NAME=accuracy. Can be repeated. Default: 0.85."),
    ] = None,
    floor: Annotated[int, typer.Option(help="Smallest number of pixels in a stratum.", min=2)] = 50,
    strata: Annotated[Path | None, typer.Option(help="Raster of strata. Default: the classes of the map.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random sample.", min=0)] = 0,
    open_book: Annotated[
        bool, typer.Option("--open", help="Show interpreters stratum, map class, probability and weight.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stratified random sample of a map's pixels for interpretation; its design is saved beside it."""
    from agrifm.statistics.area_sample import Plan, check_target, draw, write_sample
    from agrifm.statistics.tables import design_table

    check_target(out, overwrite)
    accuracies = tuple(user_accuracy or ())
    if all("=" in text for text in accuracies):
        accuracies = (DEFAULT_ACCURACY, *accuracies)
    sample, census = draw(map_, Plan(size, target_se, accuracies, floor, seed), strata)
    files = write_sample(out, sample, open_book=open_book, overwrite=overwrite)
    console.print(design_table(sample))
    console.print(sample.sizing, highlight=False, soft_wrap=True)
    console.print(
        f"not in the population: {counted(census.empty, 'pixel')} without data, "
        f"{census.no_stratum:,} without a stratum",
        highlight=False,
        soft_wrap=True,
    )
    for path in files:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    console.print(
        f"next: agrifm view {out} --scene IMAGES, or fill in 'reference' elsewhere", highlight=False, soft_wrap=True
    )
    console.print(f"then: agrifm area estimate {out}", highlight=False, soft_wrap=True)


@area.command("estimate")
def estimate(
    sample: Annotated[Path, typer.Argument(help="Sample of 'agrifm area design' with 'reference' filled in.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: beside the sample.")] = None,
    level: Annotated[float, typer.Option(help="Level of the confidence intervals.", min=0.5, max=0.999)] = 0.95,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also estimate each region that this column names.")
    ] = None,
    regions: Annotated[Path | None, typer.Option(help="Vector file of the regions, with that column.")] = None,
    drop_unanswered: Annotated[
        bool,
        typer.Option(
            "--drop-unanswered", help="Leave out points without a reference, as if they were missing at random."
        ),
    ] = False,
) -> None:
    """Estimate accuracies and class areas, with confidence intervals, from an interpreted sample."""
    from agrifm.statistics.interpretation import estimates, read_answers
    from agrifm.statistics.tables import show, write_estimates

    if regions is not None and by is None:
        raise typer.BadParameter("name the column of the regions with --by COLUMN", param_hint="--regions")
    answers = read_answers(sample, drop_unanswered=drop_unanswered)
    results = estimates(answers, level, by, regions)
    show(console, results, answers)
    folder = out or sample.with_name(f"{sample.stem}_estimate")
    for path in write_estimates(folder, results, answers):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
