"""The rows for which a speed is promised, ours and the yardstick in turn, as medians and ratios.

``python benchmarks/targets.py`` starts three processes for each row and round: ours and the yardstick with freed memory
kept, as training and mapping keep it, and the yardstick with the default allocator. Each process warms up once and
counts the shortest of its runs. Ratios are of medians over the rounds; other programs on the machine disturb them less
than two runs one after the other, but do disturb them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from cost import Case, Result, in_child
from run_log import append


@dataclass(frozen=True)
class Target:
    """A row.

    Args:
        text: What it is called in the table.
        case: What is measured.
        mode: ``forward`` or ``train``.
        wanted: How many times less than the yardstick; None if nothing is promised.
        key: ``forward`` and ``train`` are seconds; ``megabytes`` is the peak memory of a training step.
    """

    text: str
    case: Case
    mode: str
    wanted: float
    key: str


def target(text: str, size: str, pixels: int, precision: str, subject: str, mode: str, wanted: float) -> Target:
    """A row in seconds."""
    return Target(f"{text}, {pixels} px, {precision}", Case(size, pixels, precision, subject), mode, wanted, mode)


LIGHT, CHECKPOINTING = "model, light", "model, light, checkpointing"
LARGE_STEP = Case("base", 256, "bf16", LIGHT)
TARGETS = (
    target("encoder, forward", "base", 256, "float32", "encoder", "forward", 4.5),
    target("encoder, forward", "base", 256, "bf16", "encoder", "forward", 6.0),
    target("model, forward", "base", 256, "float32", LIGHT, "forward", 8.0),
    target("model, forward", "base", 128, "bf16", LIGHT, "forward", 8.0),
    target("training step", "base", 128, "float32", LIGHT, "train", 6.0),
    target("training step", "base", 128, "bf16", LIGHT, "train", 6.0),
    target("training step", "base", 256, "bf16", LIGHT, "train", 6.0),
    Target("memory of that step", LARGE_STEP, "train", 4.0, "megabytes"),
    Target("the same, checkpointing", Case("base", 256, "bf16", CHECKPOINTING), "train", 7.0, "megabytes"),
    target("tiny model, forward", "tiny", 128, "float32", LIGHT, "forward", 6.0),
    target("tiny model, training step", "tiny", 128, "float32", LIGHT, "train", 5.0),
)
OURS, THEIRS, DEFAULT = "ours", "yardstick", "yardstick, default allocator"
Found = dict[tuple[Case, str, str], list[Result]]  # by case, mode and what was measured


def measure(options: argparse.Namespace) -> Found:
    """Measure all rows, round after round, and say how far it is."""
    jobs = {}
    for row in TARGETS:
        jobs[row.case, row.mode, OURS] = (row.case, True)
        jobs[row.case.yardstick, row.mode, THEIRS] = (row.case.yardstick, True)
        jobs[row.case.yardstick, row.mode, DEFAULT] = (row.case.yardstick, False)
    found: Found = {}
    start = time.perf_counter()
    for number in range(options.rounds):
        for (case, mode, what), (measured, keep) in jobs.items():
            found.setdefault((case, mode, what), []).append(in_child(measured, mode, options, keep=keep))
            spent = time.perf_counter() - start
            name = f"round {number + 1} of {options.rounds}: {case.size} {case.pixels} {case.precision} {case.subject}"
            print(f"{name}: {mode}, {spent:.0f} s spent", file=sys.stderr, flush=True)
    return found


def table(found: Found) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| base unless stated | ours | {THEIRS} | ratio | {DEFAULT} | ratio | wanted |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for row in TARGETS:
        middle = {}
        for what in (OURS, THEIRS, DEFAULT):
            case = row.case if what == OURS else row.case.yardstick
            values = [result[row.key] for result in found[case, row.mode, what] if row.key in result]
            middle[what] = median(values) if values else float("nan")
        ours, kept, default = middle[OURS], middle[THEIRS], middle[DEFAULT]
        unit = "MB" if row.key == "megabytes" else "s"
        digits = 0 if unit == "MB" else 3 if ours < 1 else 2
        figures = f"{ours:.{digits}f} {unit} | {kept:.{digits}f} | {kept / ours:.1f} | {default:.{digits}f}"
        yield f"| {row.text} | {figures} | {default / ours:.1f} | {row.wanted:g} |"


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="counted runs in each process")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one process")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    lines = list(table(measure(options)))
    text = "\n".join([f"torch {torch.__version__}, {torch.get_num_threads()} threads", "", *lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    append(f"targets: {'; '.join(line.strip('| ').replace(' | ', ', ') for line in lines[2:])}")


if __name__ == "__main__":
    main()
