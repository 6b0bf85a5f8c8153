"""What samples for pre-training cost to store and to read: tar beside Zarr, raw beside compressed, and 25 million.

``python benchmarks/shards.py`` writes the same synthetic samples as shards and as Zarr 3 (a group per sensor, a chunk a
sample, sharded as the tars are), reads them in the order of training from disk and over HTTP from this machine, whose
answers are delayed, and prints Markdown tables. Times are ratios to the tar's within the run. All that is read becomes
a checked ``Record``. ``--scale`` prints only what 25,244,211 samples cost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import FsspecStore

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from loopback import Loopback

from agrifm.data.records import COVERS, Record
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.pretraining.shards import FORMAT, MANIFEST, Shard, Shards
from agrifm.pretraining.stream import Stream, StreamBatches
from agrifm.synthetic.landcover import SyntheticLandCover

COUNTS = {"Landsat": 13_444_211, "Modis": 1_500_000, "S2": 10_300_000}  # of the original: 25,244,211
ARRAYS = ("image", "days", "clear", "fractions", "unknown")
PLACE = ("lon", "lat", "year")
SHARD = 256  # samples, the default of ShardWriter


def rows(head: tuple[str, ...], body: list[tuple]) -> None:
    """Print a Markdown table."""
    for line in (head, ("---",) * len(head), *body):
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in line) + " |")
    print(flush=True)


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


# Zarr


def write_zarr(folder: Path, records: list[Record], size: int, codec: tuple) -> None:
    """One group per sensor; records are gathered until a shard is full, as a writer of a stream would."""
    root = zarr.open_group(str(folder), mode="w", zarr_format=3)
    by_sensor: dict[str, list[Record]] = {}
    for record in records:
        by_sensor.setdefault(record.sensor, []).append(record)
    for sensor, several in by_sensor.items():
        group = root.create_group(sensor)
        for key in ARRAYS:
            first = getattr(several[0], key)
            array = group.create_array(
                key,
                shape=(len(several), *first.shape),
                chunks=(1, *first.shape),
                shards=(size, *first.shape),
                dtype=first.dtype,
                compressors=codec,
            )
            for start in range(0, len(several), size):
                array[start : start + size] = np.stack([getattr(r, key) for r in several[start : start + size]])
        place = np.array([[getattr(r, key) for key in PLACE] for r in several], np.float64)
        group.create_array("place", data=place, compressors=codec)
        group.attrs["names"] = [r.name for r in several]
    with warnings.catch_warnings(action="ignore"):  # that not every reader knows consolidated metadata
        zarr.consolidate_metadata(str(folder))


class Zarrs:
    """The records of a Zarr store by the same index as ``Shards``: each alone, or whole shards held as tars are."""

    def __init__(self, place: str, size: int, keep: int, *, whole: bool) -> None:
        store = FsspecStore.from_url(place, read_only=True) if "://" in place else place
        root = zarr.open_group(store, mode="r", use_consolidated=True)
        self.size, self.keep, self.whole = size, keep, whole
        self.groups = [
            (s, {k: root[s][k] for k in ARRAYS}, root[s]["place"][:], root[s].attrs["names"])
            for s in sorted(dict(root.groups()))
        ]
        self.held: dict[str, OrderedDict[int, dict[str, np.ndarray]]] = {s: OrderedDict() for s, *_ in self.groups}

    def record(self, index: int) -> Record:
        """One record, checked as those of the tars are."""
        for sensor, arrays, place, names in self.groups:  # noqa: B007
            if index < len(names):
                break
            index -= len(names)
        if self.whole:
            number, row = divmod(index, self.size)
            values = {key: value[row] for key, value in self._shard(sensor, arrays, number).items()}
        else:
            values = {key: array[index] for key, array in arrays.items()}
        lon, lat, year = place[index].tolist()
        record = Record(sensor=sensor, name=names[index], lon=lon, lat=lat, year=int(year), **values)
        record.check(record.name)
        return record

    def _shard(self, sensor: str, arrays: dict[str, zarr.Array], number: int) -> dict[str, np.ndarray]:
        held = self.held[sensor]
        if number not in held:
            part = slice(number * self.size, (number + 1) * self.size)
            held[number] = {key: array[part] for key, array in arrays.items()}
        held.move_to_end(number)
        while len(held) > self.keep:
            held.popitem(last=False)
        return held[number]


# Reading


def forget(folder: Path) -> None:
    """Ask the system to drop a folder's files from memory."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _serve(folder: str, delay: float, port: multiprocessing.Queue) -> None:
    with Loopback(Path(folder), delay=delay) as server:
        port.put(server.address)
        time.sleep(1e6)


@contextmanager
def served(folder: Path, delay: float) -> Iterator[str]:
    """The folder over HTTP from a process of its own, every answer delayed by some seconds."""
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue = context.Queue()
    process = context.Process(target=_serve, args=(str(folder), delay, port), daemon=True)
    process.start()
    try:
        yield port.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def compare_formats(records: list[Record], folder: Path, size: int, window: int, delay: float) -> None:
    """Write and read tar and Zarr, and print the table."""
    raw, packed = (Crc32cCodec(),), (ZstdCodec(level=3), Crc32cCodec())
    shuffled = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())

    def write_tar() -> None:
        with ShardWriter(folder / "tar", size=size) as writer:
            for record in records:
                writer.add(record)

    written = {"tar": clocked(write_tar)}
    for name, codec in {"zarr raw": raw, "zarr zstd": packed, "zarr shuffle+zstd": shuffled}.items():
        written[name] = clocked(partial(write_zarr, folder / name.replace(" ", "-"), records, size, codec))
    stream = Stream(Shards.open(folder / "tar").groups, window=window)
    order = [index for _, index in stream.order(0, len(records))]
    cases = [("tar", "tar", None)] + [
        (f"{name}, {'whole shards' if whole else 'by sample'}", name, whole)
        for name in list(written)[1:]
        for whole in (True, False)
    ]
    body, base = [], None
    for title, name, whole in cases:
        place = folder / name.replace(" ", "-")
        files = [path for path in place.rglob("*") if path.is_file()]
        make = partial(_open, size=size, keep=stream.shards_per_window, whole=whole)
        forget(place)
        cold = clocked(lambda: _read(make(str(place)), order))  # noqa: B023
        warm = min(clocked(lambda: _read(make(str(place)), order)) for _ in range(2))  # noqa: B023
        with served(place, delay) as address:
            far = clocked(lambda: _read(make(address), order))  # noqa: B023
        numbers = (written[name][0], cold[0], warm[0], warm[1], far[0])
        base = base or numbers
        bytes_ = sum(path.stat().st_size for path in files)
        body.append((title, f"{bytes_ / 1e6:.0f}", len(files), *(x / y for x, y in zip(numbers, base, strict=True))))
        print(f"  {title}: " + " ".join(f"{x:.2f}" for x in numbers) + " s", file=sys.stderr, flush=True)
    print(f"{len(records)} samples in shards of {size}, window {window}, {1000 * delay:.0f} ms added to each request.")
    print(
        f"Tar: written in {base[0]:.2f} s, read in {base[1]:.2f} s cold, {base[2]:.2f} s warm, {base[4]:.2f} s HTTP.\n"
    )
    rows(("", "MB", "files", "write", "read cold", "read warm", "processor, warm", "read over HTTP"), body)


def _open(place: str, size: int, keep: int, whole: bool | None) -> Shards | Zarrs:
    return Shards.open(place, keep=keep) if whole is None else Zarrs(place, size, keep, whole=whole)


def _read(source: Shards | Zarrs, order: list[int]) -> None:
    for index in order:
        source.record(index)


# Compression


def real_series(path: Path) -> list[bytes]:
    """Series of 24 dates as a record stores them, from a patch of real Sentinel-2 and Landsat."""
    with np.load(path) as patch:
        images = patch["s2_10m"][..., :48, :48], patch["s2_20m"][..., :32, :32], patch["l8_10m"][..., ::3, ::3]
    rng, series = np.random.default_rng(0), []
    for image in images * 6:
        chosen = np.sort(rng.choice(len(image), 24, replace=False))
        series.append(image[chosen].astype(np.uint16).tobytes())
    return series


def compare_codecs(data: list[bytes], what: str) -> None:
    """Bytes of content raw and compressed, and the processor's time to write it and to get it back."""
    shuffled = Blosc("zstd", 3, Blosc.SHUFFLE)
    codecs: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "raw": (lambda x: x, bytes),
        "deflate 1": (lambda x: zlib.compress(x, 1), zlib.decompress),
        "deflate 6": (lambda x: zlib.compress(x, 6), zlib.decompress),
        "zstd 1": (lambda x: Zstd(1).encode(x), Zstd().decode),
        "zstd 3": (lambda x: Zstd(3).encode(x), Zstd().decode),
        "bytes shuffled, zstd 3": (lambda x: shuffled.encode(np.frombuffer(x, np.uint16)), Blosc().decode),
    }
    total, body = sum(map(len, data)), []
    for name, (pack, unpack) in codecs.items():
        packed: list[bytes] = []
        _, write = clocked(lambda: packed.extend(map(pack, data)))  # noqa: B023
        _, read = clocked(lambda: [unpack(x) for x in packed])  # noqa: B023
        size = sum(map(len, packed)) / total
        body.append((name, size, 1000 * write / len(data), 1000 * read / len(data)))
    rows((what, "bytes, ratio", "write, ms of processor", "read, ms"), body)


# 25 million samples


def synthetic_data_set(folder: Path, bytes_of: dict[str, int]) -> int:
    """A manifest of all shards and empty files of their sizes; bytes of the manifest."""
    shards = []
    for sensor, count in COUNTS.items():
        for number, start in enumerate(range(0, count, SHARD)):
            samples = min(SHARD, count - start)
            shard = Shard(f"{sensor}-{number:05d}.tar", sensor, samples, samples * bytes_of[sensor], f"{number:064x}")
            with (folder / shard.name).open("wb") as file:
                file.truncate(shard.bytes)
            shards.append(asdict(shard))
    text = json.dumps({"format": FORMAT, "classes": list(COVERS), "shards": shards}, indent=1)
    return (folder / MANIFEST).write_text(text)


def fetched(stream: Stream, batch: int, world: int, workers: int = 1) -> float:
    """How often a shard is fetched in a pass by all processes together, from what three of them need."""
    sizes = np.concatenate([stream.groups[s][1] for s in stream.sensors])
    ends, keep = np.cumsum(sizes), stream.shards_to_cache(world)
    sensor = np.repeat(np.arange(len(stream.sensors)), [len(stream.groups[s][1]) for s in stream.sensors])
    steps, used, got = 20 * stream.window // batch + 8, 0, 0
    for rank in sorted({0, world // 2, world - 1}):
        held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(workers * len(stream.sensors))]
        for step, part in enumerate(StreamBatches(stream, steps * batch, batch, rank=rank, world=world)):
            for number in np.searchsorted(ends, [index for _, index in part], "right").tolist():
                mine = held[step % workers * len(stream.sensors) + sensor[number]]
                got += 0 if number in mine else sizes[number]
                mine[number] = None
                mine.move_to_end(number)
                if len(mine) > keep:
                    mine.popitem(last=False)
            used += len(part)
    return float(got / used)


def scale(bytes_of: dict[str, int], folder: Path) -> None:
    """Print what the original's number of samples costs in this format."""
    folder.mkdir()
    size, count = synthetic_data_set(folder, bytes_of), sum(COUNTS.values())
    opened: list[Shards] = []
    _, local = clocked(lambda: opened.append(Shards.open(folder)))
    source = opened[0]
    _, remote = clocked(lambda: Shards.open(f"file://{folder}"))  # as if remote: no sizes are looked at
    tracemalloc.start()
    again = Shards.open(f"file://{folder}")
    memory = tracemalloc.get_traced_memory()[0]
    stream = Stream(again.groups)
    stream.order(10**7, 512)
    order_memory = tracemalloc.get_traced_memory()[0] - memory
    tracemalloc.stop()
    _, batch = clocked(lambda: [stream.order(10**7 + 512 * i, 512) for i in range(20)])
    whole = sum(COUNTS[s] * bytes_of[s] for s in COUNTS)
    rows(
        ("25,244,211 samples", ""),
        [
            *((f"bytes of a sample, {s}", f"{bytes_of[s]:,}") for s in COUNTS),
            ("bytes of all", f"{whole / 1e12:.1f} TB"),
            (f"files, {SHARD} samples each", f"{len(source.shards):,}"),
            ("manifest", f"{size / 1e6:.0f} MB"),
            ("open, remote", f"{remote:.1f} s of processor, {memory / 1e6:.0f} MB of memory"),
            ("open, local: sizes of all files are compared", f"{local:.1f} s of processor"),
            ("order: memory", f"{order_memory / 1e6:.0f} MB"),
            ("order: a batch of 512", f"{1000 * batch / 20:.1f} ms of processor"),
        ],
    )
    mean = whole / count
    used = [(f"{rate:,}", f"{rate * mean / 1e6:,.0f} MB/s") for rate in (100, 500, 1000)]
    rows(("samples/s of a GPU", f"content it uses, {mean / 1e6:.2f} MB a sample"), used)
    body = []
    for world, size, window in ((1, 512, 2048), (8, 512, 2048), (8, 512, 16384), (64, 4096, 2048), (64, 4096, 16384)):
        stream = Stream(source.groups, dict(COUNTS), window)
        times, keep = fetched(stream, size, world), stream.shards_to_cache(world)
        held = sum(keep * SHARD * bytes_of[s] for s in COUNTS) / 1e9
        rates = (f"{rate * mean * times / 1e6:,.0f}" for rate in (100, 500, 1000))
        body.append((world, size, window, times, f"{held:.1f}", *rates))
    head = ("processes", "batch", "window", "fetches of a shard in a pass", "memory of a process, GB at most")
    rows((*head, "MB/s of a GPU at 100 samples/s", "500", "1,000"), body)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--size", type=int, default=32, help="samples of a shard")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds added to each HTTP request")
    parser.add_argument("--scale", action="store_true", help="only what 25 million samples cost")
    parser.add_argument("--real", type=Path, help="a patch of worldcereal_patches (.npz), to compress it too")
    asked = parser.parse_args()
    covers = SyntheticLandCover(seed=0)
    records = [covers.record(covers.sensors[i % 3].name, i) for i in range(3 if asked.scale else asked.samples)]
    bytes_of = {r.sensor: len(r.to_bytes()) + 512 for r in records[:3]}
    with tempfile.TemporaryDirectory() as folder:
        if not asked.scale:
            compare_formats(records, Path(folder), asked.size, asked.window, asked.delay)
            compare_codecs([record.to_bytes() for record in records[:96]], "synthetic records")
            if asked.real:
                compare_codecs(real_series(asked.real), "real series")
        scale(bytes_of, Path(folder) / "scale")


if __name__ == "__main__":
    main()
