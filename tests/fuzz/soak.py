"""Stop commands at random moments, give them again, and compare what they leave behind byte by byte.

    python tests/fuzz/soak.py --stops 200

Each command first runs undisturbed: the reference. Then it is started anew in an empty folder, stopped after a random
time by SIGKILL, SIGTERM or SIGINT, and given again until it ends. It must end without an error, and the files must be
those of the reference, with nothing left over. Ended early, ``--seed`` repeats the same moments as fractions of the
command's duration.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from formats import TINY

import agrifm.chips.writer
import agrifm.cli
import agrifm.maps.map_scene
import agrifm.pretraining.fractions
import agrifm.training.fit
from agrifm.checkpoint import Checkpoint, build
from agrifm.config import parse
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.sensors import LANDSAT, S2, Statistics
from agrifm.synthetic.chips import CLASSES, Landscape, write_example
from agrifm.synthetic.landcover import SyntheticLandCover
from agrifm.synthetic.scenes import write_scene

NAMES = [name for name, _ in CLASSES]
LAND = Landscape(rows=2, columns=4, size=48, frames=(("S2", 8), ("Landsat", 6)), cloudiness=0.3)
FARM = Landscape(rows=2, columns=7, size=48, frames=(("S2", 6), ("Landsat", 4), ("Modis", 5)))
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
SHARES = {"KILL": 0.6, "TERM": 0.2, "INT": 0.2}
# Exit codes of a command that was stopped; negative ones if it had not begun yet.
STOPPED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 143, 130}
TRIES = 3
COVER_CODES = np.array([40, 10, 30, 20, 90, 80, 50, 60], np.uint8)
# TensorBoard logs hold times; the history of training and environment are compared without them.
NOT_COMPARED = ("events.out.tfevents", "hparams.yaml")


@dataclass(frozen=True)
class Command:
    """A command line, given in a folder of its own, and how often it is stopped."""

    name: str
    arguments: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Trial:
    """What became of one stop."""

    command: str
    signal: str
    moment: float
    problem: str = ""


def commands(inputs: Path) -> list[Command]:
    """The commands that write something, with inputs in one folder."""
    scene, model = str(inputs / "scene"), str(inputs / "best.safetensors")
    extras = ("--probabilities", "--confidence", "--observations", "--memory", "0.3")
    fractions = ("fractions", "build", scene, str(inputs / "cover.tif"), "shards", "--cells", "4")
    return [
        Command("map", ("map", model, scene, "map.tif", *extras), 0.3),
        Command("train", ("train", str(inputs / "train.yaml"), "--out", "run"), 0.2),
        Command("pretrain", ("train", str(inputs / "pretrain.yaml"), "--out", "run"), 0.15),
        Command("chips", ("chips", scene, str(inputs / "labels.tif"), "chips", "--size", "12"), 0.2),
        Command("fractions", (*fractions, "--size", "24"), 0.15),
    ]


def write_inputs(folder: Path) -> None:
    """A scene, a model, labels, land cover, chips and shards, all small."""
    write_scene(folder / "scene", LAND, rows=slice(None), columns=slice(None), sensors=(S2, LANDSAT))
    write_example(folder / "farm", FARM)
    rng = np.random.default_rng(0)
    size = (96, 192)
    with rasterio.open(sorted((folder / "scene").rglob("*B02*"))[0]) as file:
        place = {"crs": file.crs, "transform": file.transform}
        size = file.shape
    profile = {"driver": "GTiff", "count": 1, "height": size[0], "width": size[1], "dtype": "uint8", **place}
    blocks = -(-size[0] // 12), -(-size[1] // 12)
    for name, codes in (("cover.tif", COVER_CODES), ("labels.tif", np.array([1, 2, 3], np.uint8))):
        pixels = np.kron(rng.choice(codes, blocks), np.ones((12, 12), np.uint8))[: size[0], : size[1]]
        with rasterio.open(folder / name, "w", **profile, nodata=0) as file:
            file.write(pixels, 1)
    _write_experiments(folder)


def _write_experiments(folder: Path) -> None:
    fine_tuning = {
        "name": "soak",
        "data": {"root": str(folder / "farm"), "sensors": ["S2", "Landsat"]},
        "augment": {"crop": 24},
        "model": {"size": {**TINY, "width": 16}},
        "task": {"classes": NAMES},
        "training": {"epochs": 4, "batch_size": 2, "workers": 0, "accelerator": "cpu"},
    }
    for split, seed in (("train", 0), ("val", 1)):
        covers = SyntheticLandCover(seed=seed, sizes={"S2": 16, "Landsat": 16}, frames=6, sensors=(S2, LANDSAT))
        with ShardWriter(folder / "fractions" / split, size=4) as writer:
            for index in range(24):
                writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    places = {split: str(folder / "fractions" / split) for split in ("train", "val")}
    pretraining = {
        "name": "soak",
        "data": {"sensors": ["S2", "Landsat"], "frames": 4, "shards": {**places, "epoch_size": 24, "val_samples": 4}},
        "task": {"kind": "fractions"},
        "model": {"size": {**TINY, "width": 16}, "shared_backbone": True},
        "training": {"epochs": 4, "batch_size": 4, "workers": 0, "accelerator": "cpu"},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(fine_tuning))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(pretraining))
    values = {"data": {"sensors": ["S2"], "footprint": 480}, "model": {"size": TINY}, "task": {"classes": NAMES}}
    sensors = [
        s.with_statistics(Statistics((2e3,) * len(s.bands), (1e3,) * len(s.bands), "soak")) for s in (S2, LANDSAT)
    ]
    experiment = parse(values).with_sensors(sensors)
    torch.manual_seed(1)
    Checkpoint(experiment, build(experiment).state_dict()).save(folder / "best.safetensors")


def run(arguments: tuple[str, ...], folder: Path, stop: tuple[int, float] | None = None) -> tuple[int, str]:
    """Run a command in a forked process; ``stop`` is a signal and the seconds after which it is sent."""
    log = folder.with_suffix(".log")
    child = os.fork()
    if child == 0:
        _become(arguments, folder, log)
    if stop is not None:
        time.sleep(stop[1])
        os.kill(child, stop[0])
    deadline = time.monotonic() + 300
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")[-3_000:]
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124, "it did not end within 300 seconds"
        time.sleep(0.01)


def _become(arguments: tuple[str, ...], folder: Path, log: Path) -> None:
    """Turn the forked process into the command; it never returns."""
    code = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        sys.argv = ["agrifm", *arguments]
        agrifm.cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:  # before the command had begun
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def contents(folder: Path) -> dict[str, str]:
    """Checksums of all files that are compared, by path below the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(word in path.name for word in NOT_COMPARED):
            found[str(path.relative_to(folder))] = hashlib.sha256(_comparable(path)).hexdigest()
    return found


def _comparable(path: Path) -> bytes:
    """The bytes of a file; of two formats those of its content.

    The safetensors library writes metadata in random order; a pickled state depends on which strings are one object.
    """
    if path.suffix == ".ckpt":
        return b"".join(_values(torch.load(path, weights_only=True)))
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True)
    return header.encode() + data[8 + length :]


def _values(state: Any) -> Iterator[bytes]:
    """Keys and values of nested containers, one after another."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield repr(key).encode()
            yield from _values(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _values(value)
    elif isinstance(state, torch.Tensor):
        yield repr((state.dtype, state.shape)).encode() + state.contiguous().numpy().tobytes()
    else:
        yield repr(state).encode()


def attempt(command: Command, folder: Path, stop: tuple[str, float], reference: dict[str, str]) -> str:
    """Stop a command once, give it again until it ends, and return what is wrong with the result."""
    name, seconds = stop
    code, text = run(command.arguments, folder, (SIGNALS[name], seconds))
    tries = 0
    while code != 0:
        if code not in STOPPED or tries == TRIES:
            return f"exit code {code} at try {tries + 1}\n{text}"
        tries += 1
        code, text = run(command.arguments, folder)
        if code in STOPPED:
            return f"exit code {code} without a signal\n{text}"
    made = contents(folder)
    different = [path for path in {*made, *reference} if made.get(path) != reference.get(path)]
    return f"differs in {', '.join(sorted(different)[:8])}" if different else ""


def main() -> None:
    """Stop commands as often as the command line asks for; exit code 1 if one was not made good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command")
    parser.add_argument("--keep", type=Path, help="Folder that stays, for looking at what went wrong.")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp(prefix="agrifm-soak-"))
    inputs = (root / "inputs").resolve()
    inputs.mkdir(parents=True)
    _write_inputs_apart(inputs)
    trials: list[Trial] = []
    rng = random.Random(options.seed)
    for command in commands(inputs):
        if options.command in (None, command.name):
            trials += _stop_often(command, root, rng, max(1, round(command.share * options.stops)), bool(options.keep))
    print(table(trials))
    if options.keep is None:
        shutil.rmtree(root)
    sys.exit(any(trial.problem for trial in trials))


def _write_inputs_apart(inputs: Path) -> None:
    """In a process of its own: libraries that were used do not survive a fork well."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; import soak; "
    program += f"soak.write_inputs(Path({str(inputs)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True)


def _stop_often(command: Command, root: Path, rng: random.Random, count: int, keep: bool) -> list[Trial]:
    # Always the same folder: the state for resuming holds its path.
    folder = root / command.name / "work"
    begun = time.monotonic()
    code, text = run(command.arguments, folder)
    duration = time.monotonic() - begun
    if code != 0:
        raise SystemExit(f"{command.name}: the undisturbed run ended with {code}\n{text}")
    reference = contents(folder)
    folder.rename(folder.with_name("reference"))
    print(f"{command.name}: {duration:.1f} s undisturbed, {len(reference)} files", flush=True)
    trials = []
    for number in range(count):
        name = rng.choices(list(SHARES), list(SHARES.values()))[0]
        moment = rng.uniform(0, 1.05)
        folder.with_suffix(".log").unlink(missing_ok=True)
        problem = attempt(command, folder, (name, moment * duration), reference)
        trials.append(Trial(command.name, name, moment, problem))
        if problem:
            print(f"{command.name} {number}: SIG{name} at {moment:.3f}: {problem}", flush=True)
        if problem and keep:
            folder.rename(folder.with_name(f"{number:03d}"))
        else:
            shutil.rmtree(folder)
    return trials


def table(trials: list[Trial]) -> str:
    """Stops by command and signal, and how many were made good, as Markdown."""
    rows = ["| command | SIGKILL | SIGTERM | SIGINT | made good |", "|---|---:|---:|---:|---:|"]
    for name in [*dict.fromkeys(trial.command for trial in trials), "all"]:
        own = [trial for trial in trials if name in (trial.command, "all")]
        signals = [sum(trial.signal == key for trial in own) for key in SIGNALS]
        good = sum(not trial.problem for trial in own)
        rows.append(f"| {name} | {' | '.join(map(str, signals))} | {good} of {len(own)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
