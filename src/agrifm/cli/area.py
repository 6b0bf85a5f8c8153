"""Verbs about area statistics: draw a sample from a map, estimate from the sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Overwrite, app, console

area = typer.Typer(no_args_is_help=True, help="From a map to area statistics.")
app.add_typer(area, name="area")


@area.command("design")
def design(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="Raster of classes.")],
    out: Annotated[Path, typer.Argument(help="The sample: .gpkg or .csv.")],
    size: Annotated[int | None, typer.Option(help="Of the sample, instead of the next two.", min=2)] = None,
    target_se: Annotated[float, typer.Option(help="Wanted standard error of overall accuracy.", min=1e-4)] = 0.01,
    user_accuracy: Annotated[
        list[str] | None, typer.Option(help="Expected user's accuracy, or NAME=accuracy; may be repeated (0.85).")
    ] = None,
    floor: Annotated[int, typer.Option(help="Least number of pixels in a stratum.", min=2)] = 50,
    strata: Annotated[Path | None, typer.Option(help="Raster of strata; the classes of the map if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds draw other samples.", min=0)] = 0,
    open_book: Annotated[
        bool, typer.Option("--open", help="Show interpreters stratum, map class, probability and weight.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stratified random sample of a map's pixels, to be interpreted; its design lies beside it."""
    from agrifm.statistics.area_sample import Plan, check_target, draw, write_sample
    from agrifm.statistics.tables import design_table

    check_target(out, overwrite)
    accuracies = tuple(user_accuracy or ())
    if all("=" in text for text in accuracies):
        accuracies = ("0.85", *accuracies)
    drawn, census = draw(map_, Plan(size, target_se, accuracies, floor, seed), strata)
    files = write_sample(out, drawn, open_book=open_book, overwrite=overwrite)
    console.print(design_table(drawn))
    console.print(drawn.sizing, highlight=False, soft_wrap=True)
    console.print(
        f"not in the population: {census.empty:,} pixels without data, {census.no_stratum:,} without a stratum",
        highlight=False,
        soft_wrap=True,
    )
    for path in files:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    console.print(f"next: fill in 'reference', then agrifm area estimate {out}", highlight=False, soft_wrap=True)


@area.command("estimate")
def estimate(
    sample: Annotated[Path, typer.Argument(help="Sample of 'agrifm area design', with 'reference' filled in.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results; beside the sample if left out.")] = None,
    level: Annotated[float, typer.Option(help="Of the confidence intervals.", min=0.5, max=0.999)] = 0.95,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also for each region that this column names.")
    ] = None,
    regions: Annotated[Path | None, typer.Option(help="Outlines of the regions, which have that column.")] = None,
    drop_unanswered: Annotated[
        bool, typer.Option("--drop-unanswered", help="Leave out points without a reference, as if chance did.")
    ] = False,
) -> None:
    """Estimate accuracies and class areas, with confidence intervals, from an interpreted sample."""
    from agrifm.statistics.interpretation import estimates, read_answers
    from agrifm.statistics.tables import show, write_estimates

    if regions is not None and by is None:
        raise typer.BadParameter("name the column of the regions with --by COLUMN", param_hint="--regions")
    answers = read_answers(sample, drop_unanswered=drop_unanswered)
    found = estimates(answers, level, by, regions)
    show(console, found, answers)
    for path in write_estimates(out or sample.with_name(f"{sample.stem}_estimate"), found, answers):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
