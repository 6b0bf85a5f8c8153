"""Samples for pre-training from scenes and a land-cover raster: one sensor, one place, one year, land-cover shares."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import heapify, heappop, heappush
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agrifm.data.records import Record
from agrifm.errors import InputError
from agrifm.io import locked
from agrifm.pretraining.crosswalk import Crosswalk
from agrifm.pretraining.landcover import LandCover
from agrifm.pretraining.outcomes import Outcomes
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.pretraining.shards import MANIFEST
from agrifm.pretraining.views import DARK, FEW, FEWEST, FractionCell, FractionPlan, SensorYear
from agrifm.scenes.scene import Scene
from agrifm.tasks.fractions import COVERS

SPARE = "not needed"
REPORT = "report.json"


class Group(NamedTuple):
    """What samples are balanced over."""

    sensor: str
    cover: str
    biome: str


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
    """Cut scenes into samples with shares of land cover, and write them as shards with ``report.json``.

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
        are returned, so that a command that was killed at its very end can be given again.

    Raises:
        InputError: If land cover or scenes cannot be used, nothing is left after the filters, or the folder is there.
    """
    for scene in scenes:
        for layer in scene.layers:
            plan.size(layer.sensor.name)
    origin = {
        "scenes": [scene.name for scene in scenes],
        "landcover": Path(landcover).name,
        "crosswalk": {"name": Path(crosswalk.name).name, "source": crosswalk.source},
        "plan": asdict(plan),
    }
    outcomes = Outcomes()
    with locked(_lock(out)):
        finished = None if overwrite else _finished(out, origin)
        if finished is not None:
            if console is not None:
                console.print(f"{out} is finished already; --overwrite makes it again", highlight=False)
            return finished
        _refuse_existing(out, overwrite)
        found = records(scenes, landcover, crosswalk, plan, outcomes, console)
        first = next(found, None)
        if first is None:
            raise InputError(
                out,
                found=f"no sample is left; the filters took {outcomes.left_out()}",
                expected="at least one",
                repair="check the filter that took most: --max-unknown, --min-clear, --year; or use a smaller --size.",
            )
        with ShardWriter(out, overwrite=overwrite, made_from=origin) as writer:
            for record in chain((first,), found):
                writer.add(record)
            report = {**outcomes.to_dict(), "plan": asdict(plan)}
            writer.attach(REPORT, json.dumps(report, indent=1))
    return outcomes


def _finished(out: Path, origin: Mapping[str, Any]) -> Outcomes | None:
    """Counts of a folder that was finished with the same settings; None for any other folder."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        if manifest["made_from"] != json.loads(json.dumps(origin)):
            return None
        return Outcomes.from_dict(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        repair = "name another folder, or replace it with --overwrite."
        raise InputError(out, found="something of that name", expected="a new folder", repair=repair)


def _lock(out: Path) -> Path:
    """What is locked while land cover is measured, which takes long; the shards have a lock of their own."""
    return out.with_name(f"{out.name}.build")


def records(
    scenes: Sequence[Scene],
    landcover: str,
    crosswalk: Crosswalk,
    plan: FractionPlan,
    outcomes: Outcomes,
    console: Console | None = None,
) -> Iterator[Record]:
    """The samples, one after another, and what became of all chips in ``outcomes``.

    Raises:
        InputError: If land cover or scenes cannot be used.
    """
    names = [f"{i:04d}_" if len(scenes) > 1 else "" for i in range(len(scenes))]
    views = [view for scene, name in zip(scenes, names, strict=True) for view in SensorYear.of(scene, name, plan)]
    with LandCover.open(landcover, crosswalk) as ground, _progress(console) as progress:
        for scene in scenes:
            ground.check(scene.grid, scene.name)
        queues = _candidates(views, ground, plan, outcomes, progress)
        for record in _drawn(views, queues, ground, plan, outcomes, progress):
            outcomes.add(record)
            yield record


def _candidates(
    views: Sequence[SensorYear], ground: LandCover, plan: FractionPlan, outcomes: Outcomes, progress: Progress
) -> dict[Group, list[FractionCell]]:
    """All chips with land cover, in random order, by group."""
    queues = defaultdict(list)
    chips = [FractionCell(number, row, column) for number, view in enumerate(views) for row, column in view.chips]
    for chip in progress.track(chips, description="measuring land cover"):
        view = views[chip.view]
        shares = view.shares(chip, ground, plan.cells).mean((1, 2))
        if shares[-1] > plan.max_unknown:
            outcomes.chips[view.sensor, DARK] += 1
        elif len(view.scene.layers[0].days) < FEWEST:
            outcomes.chips[view.sensor, FEW] += 1
        else:
            queues[Group(view.sensor, COVERS[shares[:-1].argmax()], view.place(chip)[2])].append(chip)
    rng = np.random.default_rng(plan.seed)
    return {group: [queues[group][i] for i in rng.permutation(len(queues[group]))] for group in sorted(queues)}


def _drawn(
    views: Sequence[SensorYear],
    queues: Mapping[Group, list[FractionCell]],
    ground: LandCover,
    plan: FractionPlan,
    outcomes: Outcomes,
    progress: Progress,
) -> Iterator[Record]:
    """Records of as many chips as are wanted; what clouds take is made up for as long as there are others."""
    sizes = np.array([len(queue) for queue in queues.values()], int)
    weights = (1 - plan.balance) * sizes / sizes.sum() + plan.balance / max(1, len(sizes))
    wanted = int(sizes.sum()) if plan.samples is None else plan.samples
    taken, lost = np.zeros_like(sizes), np.zeros_like(sizes)
    bar = progress.add_task("writing samples", total=min(wanted, int(sizes.sum())))
    while (more := apportioned(weights, taken - lost, sizes - taken, wanted - int((taken - lost).sum()))).any():
        group_of = {chip: i for i, queue in enumerate(queues.values()) for chip in queue[taken[i] : taken[i] + more[i]]}
        taken += more
        for chip, found in _read(views, list(group_of), ground, plan):
            if isinstance(found, Record):
                yield found
                progress.advance(bar)
            else:
                outcomes.chips[views[chip.view].sensor, found] += 1
                lost[group_of[chip]] += 1
    for group, spare in zip(queues, sizes - taken, strict=True):
        if spare:
            outcomes.chips[group.sensor, SPARE] += int(spare)


def apportioned(weights: np.ndarray, have: np.ndarray, left: np.ndarray, wanted: int) -> np.ndarray:
    """How many more to take of each group ``(n)``, as far as there are some left; together ``wanted`` if possible.

    By weight, after Sainte-Laguë: what was taken before never turns out to be too much.
    """
    if wanted >= left.sum():
        return left
    more = np.zeros_like(left)
    queue = [((2 * have[i] + 1) / weights[i], i) for i in np.flatnonzero(left)]
    heapify(queue)
    for _ in range(wanted):
        _, i = heappop(queue)
        more[i] += 1
        if more[i] < left[i]:
            heappush(queue, ((2 * (have[i] + more[i]) + 1) / weights[i], i))
    return more


def _read(
    views: Sequence[SensorYear], chips: Sequence[FractionCell], ground: LandCover, plan: FractionPlan
) -> Iterator[tuple[FractionCell, Record | str]]:
    """The record of each chip, or why there is none; chips that are near each other are read together."""
    tiles = defaultdict(list)
    for chip in sorted(chips):
        side = views[chip.view].tile
        tiles[chip.view, chip.row // side, chip.column // side].append(chip)
    for (number, *_), several in tiles.items():
        view = views[number]
        stack = view.read(several)
        for chip in several:
            yield chip, view.record(chip, stack, ground, plan)


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console or Console(quiet=True), transient=True)
