"""What the model costs beside the yardstick: time, memory and counted operations, as one table.

Each figure comes from a fresh process, so that peak memory is its own; ours and the yardstick run one right after
the other. Batch 1, one Sentinel-2 series of 32 frames, random weights. Compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from run_log import append
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from yardstick import ExplicitSwin, yardstick_model

from agrifm.nn.memory import keep_freed_memory
from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.swin import SIZES, Swin
from agrifm.sample import Batch, Sample, collate
from agrifm.sensors import S2
from agrifm.training.throughput import uncounted

FRAMES, CLASSES = 32, 4
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
SUBJECTS = (
    "encoder",
    "encoder, yardstick",
    "model, light",
    "model, light, checkpointing",
    "model, original",
    "model, yardstick",
)
MODES = ("forward", "train")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    size: str
    pixels: int
    precision: str
    subject: str

    @property
    def yardstick(self) -> Case:
        """What this row is compared with."""
        return replace(self, subject=f"{self.subject.split(',')[0]}, yardstick")

    def weight(self, mode: str) -> float:
        """Roughly how long it takes, in any unit: for the time left only."""
        decoder = 6 if self.subject in SUBJECTS[4:] else 1
        return (8 if self.size == "base" else 1) * self.pixels**2 * decoder * (4 if mode == "train" else 1)


Result = dict[str, float]
Results = dict[Case, Result]


def build(case: Case) -> nn.Module:
    """The network of a row; stochastic depth is off, so that all do the same work."""
    size = replace(SIZES[case.size], drop_path=0.0)
    config = ModelConfig(size=size, gradient_checkpointing="checkpointing" in case.subject)
    plain = replace(config, decoder="original")
    makers: dict[str, Callable[[], nn.Module]] = {
        "encoder": partial(Swin, size),
        "encoder, yardstick": partial(ExplicitSwin, size),
        "model, original": partial(CropModel, [S2], CLASSES, plain, frames=FRAMES),
        "model, yardstick": partial(yardstick_model, S2, CLASSES, plain, FRAMES),
    }
    return makers.get(case.subject, partial(CropModel, [S2], CLASSES, config))()


def inputs(case: Case) -> Tensor | Batch:
    """Tokens for an encoder, a batch of one sample for a model."""
    if case.subject.startswith("encoder"):
        _, rows, columns = ModelConfig().patch
        frames = FRAMES // ModelConfig().patch[0]
        return torch.randn(1, frames, case.pixels // rows, case.pixels // columns, SIZES[case.size].width)
    image = torch.rand(FRAMES, len(S2.bands), case.pixels, case.pixels) * 10_000
    return collate([Sample({"S2": image}, label=torch.randint(CLASSES, (case.pixels, case.pixels)))])


def loss_of(output: Any, given: Tensor | Batch) -> Tensor:
    """Cross entropy of a model, a mean square over all stages of an encoder."""
    if isinstance(given, Batch):
        assert given.label is not None
        return F.cross_entropy(output.float(), given.label)
    return torch.stack([stage.float().square().mean() for stage in output.stages]).sum()


def seconds(step: Callable[[], object], repeats: int, budget: float) -> float:
    """The shortest of several runs; no new one starts once half of the time is spent."""
    found, start = [], time.perf_counter()
    while len(found) < repeats and (not found or time.perf_counter() - start < budget / 2):
        before = time.perf_counter()
        step()
        found.append(time.perf_counter() - before)
    return min(found)


def peak_megabytes() -> float:
    """The most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure_forward(case: Case, repeats: int, limit: float) -> Result:
    """Seconds and counted GFLOP of a forward pass without gradients."""
    model, given = build(case).eval(), inputs(case)
    with torch.no_grad(), _autocast(case):
        with FlopCounterMode(display=False, custom_mapping=uncounted()) as counter:
            model(given)
        best = seconds(lambda: model(given), repeats, limit)
    return {"forward": best, "gflop": counter.get_total_flops() / 1e9}


def measure_train(case: Case, repeats: int, limit: float) -> Result:
    """Seconds of a training step and the memory it adds to the empty process, optimizer included."""
    before = peak_megabytes()
    model, given = build(case).train(), inputs(case)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(case):
            loss = loss_of(model(given), given)
        loss.backward()
        optimizer.step()

    step()  # from the second step on the optimizer's moments are there too
    best = seconds(step, repeats, limit)
    return {"train": best, "megabytes": peak_megabytes() - before}


def profile(case: Case, rows: int = 8) -> list[tuple[str, float]]:
    """Names and shares of the operations that take most of a forward pass."""
    model, given = build(case).eval(), inputs(case)
    with torch.no_grad(), _autocast(case):
        model(given)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            model(given)
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    top = sorted(times, key=lambda key: -times[key])[:rows]
    return [(key, times[key] / sum(times.values())) for key in top]


def _autocast(case: Case) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=PRECISIONS[case.precision] is torch.bfloat16)


def in_child(case: Case, mode: str, options: argparse.Namespace, *, keep: bool = False) -> Any:
    """Run one measurement in a process of its own; an empty result where it took too long or too much.

    Args:
        case: What is measured.
        mode: ``forward``, ``train`` or ``profile``.
        options: Repeats and limit in seconds.
        keep: Keep freed memory in the process, as training and mapping do.
    """
    values = {"mode": mode, "repeats": options.repeats, "limit": options.limit, "keep": keep}
    task = json.dumps({"case": asdict(case), **values})
    # Threads that wait must sleep: on a busy machine their spinning would be measured.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(Path(__file__).resolve()), "--task", task]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=options.limit, env=environment)
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode < 0:
        return {}
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def run_task(text: str) -> None:
    """What the child does: measure, and print the result as JSON."""
    task = json.loads(text)
    case = Case(**task["case"])
    if task.get("keep"):
        keep_freed_memory()
    torch.manual_seed(0)
    measures = {
        "forward": partial(measure_forward, case, task["repeats"], task["limit"]),
        "train": partial(measure_train, case, task["repeats"], task["limit"]),
        "profile": partial(profile, case),
    }
    print(json.dumps(measures[task["mode"]]()))


def run_all(cases: list[Case], options: argparse.Namespace) -> Results:
    """Measure every row, one mode after the other, and say how far it is."""
    results: Results = {case: {} for case in cases}
    groups = dict.fromkeys((case.size, case.pixels, case.precision) for case in cases)
    jobs = [(c, m) for g in groups for m in MODES for c in cases if (c.size, c.pixels, c.precision) == g]
    total, done, start = sum(case.weight(mode) for case, mode in jobs), 0.0, time.perf_counter()
    for case, mode in jobs:
        results[case] |= in_child(case, mode, options)
        done += case.weight(mode)
        spent = time.perf_counter() - start
        left = spent / done * (total - done)
        what = f"{case.size} {case.pixels} {case.precision} {case.subject}: {mode}"
        print(f"{what:<64} {spent:6.0f} s spent, about {left:.0f} s left", file=sys.stderr, flush=True)
    return results


def table(results: Results) -> Iterator[str]:
    """Markdown lines; in brackets how many times better than the yardstick of the same group."""
    yield "| size | pixels | precision | what | forward, s | training step, s | peak memory, MB | forward, GFLOP |"
    yield "|---|---|---|---|---|---|---|---|"
    for case, found in results.items():
        base = results.get(case.yardstick, {})
        figures = [_figure(found, base, key, digits) for key, digits in COLUMNS.items()]
        yield f"| {case.size} | {case.pixels} | {case.precision} | {case.subject} | {' | '.join(figures)} |"


COLUMNS = {"forward": 2, "train": 2, "megabytes": 0, "gflop": 1}


def _figure(found: Result, base: Result, key: str, digits: int) -> str:
    if key not in found:
        return "over limit"
    text = f"{found[key]:.{digits}f}"
    return f"{text} ({base[key] / found[key]:.2f}×)" if key in base and base is not found else text


@dataclass(frozen=True)
class Floor:
    """A promise: ``subject`` is at least ``times`` better than its yardstick in ``key``."""

    subject: str
    key: str
    times: float
    text: str


FLOORS = (
    Floor("encoder", "forward", 2.5, "encoder forward beside the yardstick's"),
    Floor("model, light", "forward", 3.0, "model forward beside yardstick with original decoder"),
    Floor("model, light", "train", 3.0, "training step beside yardstick with original decoder"),
    Floor("model, light, checkpointing", "megabytes", 3.0, "training memory, checkpointing on, beside the same"),
)
DECODER_SHARE = 0.15


def floors(results: Results) -> Iterator[tuple[str, Case | None]]:
    """One line per promise about ``base`` in float32, and the row that broke it."""
    for pixels in dict.fromkeys(case.pixels for case in results if case.size == "base"):
        for floor in FLOORS:
            case = Case("base", pixels, "float32", floor.subject)
            ours, theirs = results.get(case, {}), results.get(case.yardstick, {})
            if floor.key in ours and floor.key in theirs:
                ratio = theirs[floor.key] / ours[floor.key]
                kept = ratio >= floor.times
                line = (
                    f"{floor.text}, {pixels} pixels: {ratio:.2f}× (floor {floor.times}×): {'pass' if kept else 'MISS'}"
                )
                yield line, None if kept or floor.key == "megabytes" else case
            else:
                yield f"{floor.text}, {pixels} pixels: not measured", None
        yield decoder_share(results, pixels), None


def decoder_share(results: Results, pixels: int) -> str:
    """What everything around the encoder costs, in operations of the encoder."""
    encoder, model = (results.get(Case("base", pixels, "float32", s), {}) for s in (SUBJECTS[0], SUBJECTS[2]))
    if "gflop" not in encoder or "gflop" not in model:
        return f"operations of the light decoder, {pixels} pixels: not measured"
    share = model["gflop"] / encoder["gflop"] - 1
    verdict = "pass" if share <= DECODER_SHARE else "MISS"
    return f"operations of the light decoder, {pixels} pixels: {share:.1%} of the encoder's (at most 15 %): {verdict}"


def report(results: Results, options: argparse.Namespace) -> str:
    """The table, the floors, and a profile of every forward pass whose floor was missed."""
    header = f"torch {torch.__version__}, {torch.get_num_threads()} threads, shortest of {options.repeats} runs."
    lines = ["# Cost", "", __doc__ or "", header, "", *table(results), "", "## Floors", ""]
    missed = []
    for line, case in floors(results):
        lines.append(f"- {line}")
        missed += [case] if case else []
    for case in dict.fromkeys(c for m in missed for c in (m, m.yardstick)):
        shares = in_child(case, "profile", options)
        lines += ["", f"Profile of one forward pass, {case.size} {case.pixels}, {case.subject}:", ""]
        lines += [f"- {share:.1%} {name}" for name, share in shares or []]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)

    def many(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--sizes", type=many, default=["tiny", "base"])
    parser.add_argument("--pixels", type=many, default=["128", "256"])
    parser.add_argument("--precisions", type=many, default=list(PRECISIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one measurement")
    parser.add_argument("--quick", action="store_true", help="tiny, 128 pixels, float32, one repeat")
    parser.add_argument("--out", type=Path, help="also write the report to this Markdown file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.pixels, options.precisions, options.repeats = ["tiny"], ["128"], ["float32"], 1
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    if options.task:
        return run_task(options.task)
    rows = product(options.sizes, map(int, options.pixels), options.precisions, SUBJECTS)
    results = run_all([Case(*row) for row in rows], options)
    text = report(results, options)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    measured = [line for line, _ in floors(results) if "not measured" not in line]
    if measured:
        append(f"cost: {'; '.join(measured)}")


if __name__ == "__main__":
    main()
