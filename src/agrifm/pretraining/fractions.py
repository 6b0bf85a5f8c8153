"""Samples for pre-training from scenes and a land-cover raster: one sensor, one place, one year, land-cover shares."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agrifm.data.records import Record
from agrifm.errors import InputError
from agrifm.io import locked
from agrifm.pretraining.balance import BalancedQueues, Group
from agrifm.pretraining.crosswalk import Crosswalk
from agrifm.pretraining.landcover import LandCover
from agrifm.pretraining.outcomes import Outcomes
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.pretraining.shards import MANIFEST, Shards
from agrifm.pretraining.views import FEW_DATES, MIN_DATES, UNKNOWN_COVER, ChipPosition, FractionPlan, SensorYear
from agrifm.scenes.scene import Scene
from agrifm.tasks.fractions import COVERS

SPARE = "not needed"
REPORT = "report.json"


def build(
    scenes: Sequence[Scene],
    landcover: str,
    out: Path,
    crosswalk: Crosswalk,
    plan: FractionPlan = FractionPlan(),  # noqa: B008 (frozen)
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Outcomes:
    """Cut scenes into samples with land-cover shares, and write them as shards with ``report.json``.

    Args:
        scenes: Scenes of any sensors, whose units were checked.
        landcover: Path or address of a raster of codes.
        out: Folder of the shards.
        crosswalk: Meaning of the codes.
        plan: Sizes, filters and balance of the samples.
        overwrite: Whether to replace an existing folder.
        console: Where progress is shown.

    Returns:
        Counts of samples, filters and covers. A folder that the same call has finished before is kept, and its counts
        are returned, so that a command that was killed at its very end can be repeated.

    Raises:
        InputError: If land cover or scenes cannot be used, the filters reject every chip, or the folder exists and was
            not finished by the same call.
    """
    for scene in scenes:
        for layer in scene.layers:
            plan.size(layer.sensor.name)  # refuses sizes before the long part begins
    made_from = {
        "scenes": [scene.name for scene in scenes],
        "landcover": Path(landcover).name,
        "crosswalk": {"name": Path(crosswalk.name).name, "source": crosswalk.source},
        "plan": asdict(plan),
    }
    # The shards have a lock of their own; this one also covers the measurement of land cover, which takes long.
    with locked(out.with_name(f"{out.name}.build")):
        finished = None if overwrite else _finished(out, made_from)
        if finished is not None:
            if console is not None:
                console.print(f"{out} is finished already; --overwrite builds it again", highlight=False)
            return finished
        _refuse_existing(out, overwrite)
        outcomes = Outcomes()
        samples = _at_least_one(records(scenes, landcover, crosswalk, plan, outcomes, console), out, outcomes)
        with ShardWriter(out, overwrite=overwrite, made_from=made_from) as writer:
            for record in samples:
                writer.add(record)
            report = {**outcomes.to_dict(), "plan": asdict(plan)}
            writer.attach(REPORT, json.dumps(report, indent=1))
    return outcomes


def _at_least_one(samples: Iterator[Record], out: Path, outcomes: Outcomes) -> Iterator[Record]:
    """Return the samples; refuse before anything is written if there are none.

    Raises:
        InputError: If there are none.
    """
    first = next(samples, None)
    if first is None:
        raise InputError(
            out,
            found=f"no samples; the filters rejected {outcomes.left_out()}",
            expected="at least one sample",
            repair="check the filter that rejected most: --max-unknown, --min-clear, --year; or use a smaller --size.",
        )
    return chain((first,), samples)


def _finished(out: Path, made_from: Mapping[str, Any]) -> Outcomes | None:
    """Counts of a complete folder that was made with the same settings; None for any other folder."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        if manifest["made_from"] != json.loads(json.dumps(made_from)):
            return None
        Shards.open(out)  # all of them are there, in their full length
        return Outcomes.from_dict(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        repair = "name another folder, or replace it with --overwrite."
        raise InputError(out, found="something of that name", expected="a new folder", repair=repair)


def records(
    scenes: Sequence[Scene],
    landcover: str,
    crosswalk: Crosswalk,
    plan: FractionPlan,
    outcomes: Outcomes,
    console: Console | None = None,
) -> Iterator[Record]:
    """Cut samples one after another, and count all chips in ``outcomes``.

    Raises:
        InputError: If land cover or scenes cannot be used.
    """
    views: list[SensorYear] = []
    for number, scene in enumerate(scenes):
        prefix = f"{number:04d}_" if len(scenes) > 1 else ""
        views += SensorYear.of(scene, prefix, plan)
    with LandCover.open(landcover, crosswalk) as ground, _progress(console) as progress:
        for scene in scenes:
            ground.check(scene.grid, scene.name)
        candidates = _candidates(views, ground, plan, outcomes, progress)
        queues = BalancedQueues(candidates, plan.balance, plan.samples)
        yield from _draw_records(views, queues, ground, plan, outcomes, progress)


def _candidates(
    views: Sequence[SensorYear], ground: LandCover, plan: FractionPlan, outcomes: Outcomes, progress: Progress
) -> dict[Group, Sequence[ChipPosition]]:
    """All chips with land cover, in random order, by group."""
    chips: list[ChipPosition] = []
    for number, view in enumerate(views):
        chips += [ChipPosition(number, row, column) for row, column in view.chips]
    groups = defaultdict(list)
    for chip in progress.track(chips, description="measuring land cover"):
        view = views[chip.view]
        shares = view.shares(chip, ground, plan.cells).mean((1, 2))
        if shares[-1] > plan.max_unknown:
            outcomes.chips[view.sensor, UNKNOWN_COVER] += 1
        elif view.date_count < MIN_DATES:
            outcomes.chips[view.sensor, FEW_DATES] += 1
        else:
            _, _, biome = view.place(chip)
            dominant_cover = COVERS[shares[:-1].argmax()]
            groups[Group(view.sensor, dominant_cover, biome)].append(chip)
    rng = np.random.default_rng(plan.seed)
    shuffled: dict[Group, Sequence[ChipPosition]] = {}
    for group in sorted(groups):
        members = groups[group]
        shuffled[group] = [members[i] for i in rng.permutation(len(members))]
    return shuffled


def _draw_records(
    views: Sequence[SensorYear],
    queues: BalancedQueues,
    ground: LandCover,
    plan: FractionPlan,
    outcomes: Outcomes,
    progress: Progress,
) -> Iterator[Record]:
    """Records of as many chips as are wanted; others replace those that are too cloudy, while there are any."""
    bar = progress.add_task("writing samples", total=queues.total)
    while group_of := queues.draw():
        for chip, result in _read(views, list(group_of), ground, plan):
            if isinstance(result, Record):
                outcomes.add(result)
                yield result
                progress.advance(bar)
            else:
                outcomes.chips[views[chip.view].sensor, result] += 1
                queues.reject(group_of[chip])
    for group, count in queues.spare().items():
        if count:
            outcomes.chips[group.sensor, SPARE] += count


def _read(
    views: Sequence[SensorYear], chips: Sequence[ChipPosition], ground: LandCover, plan: FractionPlan
) -> Iterator[tuple[ChipPosition, Record | str]]:
    """The record of each chip, or the filter that rejects it; chips that are near each other are read together."""
    tiles = defaultdict(list)
    for chip in sorted(chips):
        side = views[chip.view].chips_per_tile
        tiles[chip.view, chip.row // side, chip.column // side].append(chip)
    for (number, _, _), neighbors in tiles.items():
        view = views[number]
        stack = view.read(neighbors)
        for chip in neighbors:
            yield chip, view.record(chip, stack, ground, plan)


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console or Console(quiet=True), transient=True)
