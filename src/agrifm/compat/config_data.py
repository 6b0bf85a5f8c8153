"""The data loaders of the original's schema: lists, sensors, statistics, sizes and random steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agrifm.compat.config_model import Network
from agrifm.compat.keys import Keys
from agrifm.config import DataConfig
from agrifm.data.transforms import Augment
from agrifm.errors import nearest
from agrifm.sensors import LANDSAT, MODIS, S2, Band, Sensor, Statistics

_BY_CHANNELS = {len(sensor.bands): sensor for sensor in (S2, LANDSAT, MODIS)}
_EVALUATION = "random steps never run in evaluation here; the original ran those that were listed"


@dataclass(frozen=True)
class Loading:
    """What the three data loaders say."""

    data: DataConfig
    augment: Augment
    batch_size: int
    workers: int


@dataclass(frozen=True)
class _Steps:
    """A pipeline: mean, deviation and size by sensor; chances of the random steps, by type."""

    mean: dict[str, tuple[float, ...]] = field(default_factory=dict)
    std: dict[str, tuple[float, ...]] = field(default_factory=dict)
    size: dict[str, tuple[int, int]] = field(default_factory=dict)
    random: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Split:
    folder: Path
    names: Path
    label_key: str
    steps: _Steps
    check_bands: bool = True


def read_data(config: Keys, network: Network) -> Loading:
    """Translate ``train_dataloader``, ``val_dataloader`` and ``test_dataloader``.

    Raises:
        InputError: If a key is unknown, or the three do not describe one data set.
    """
    with config.inside("train_dataloader") as loader:
        batch_size = loader.number("batch_size", 1, least=1, whole=True)
        workers = loader.number("num_workers", 0, whole=True)
        loader.harmless("the last, smaller batch is used", "drop_last")
        train = _split(loader, network, "train")
        augment = _augment(loader, train.steps)
    splits = {"train": train}
    for name in ("val", "test"):
        key = f"{name}_dataloader"
        if name == "test" and config.values.get(key) is None:
            config.take(key, None)
            config.note(key, "derived", "no test split is named: data_lists/test.txt is assumed where one is needed")
            continue
        with config.inside(key) as loader:
            loader.harmless("evaluation has the batch size and workers of training", "batch_size", "num_workers")
            loader.harmless("evaluation uses every chip once", "drop_last")
            splits[name] = _split(loader, network, name)
            _agree(loader, splits[name], train)
    return Loading(_data(config, network, splits), augment, batch_size, workers)


def _split(loader: Keys, network: Network, name: str) -> _Split:
    loader.harmless("workers are kept between epochs", "persistent_workers")
    loader.harmless("moves no result", "pin_memory", "prefetch_factor", "timeout", "worker_init_fn")
    loader.only("batch_sampler", [None], "delete it; batch_size and shuffling are all there is.")
    if loader.take("sampler", None) is not None:
        with loader.inside("sampler", "DefaultSampler") as sampler:
            if name == "train":
                sampler.only("shuffle", [True], "write True: training always shuffles.")
            sampler.harmless("order of evaluation changes no score", *(() if name == "train" else ("shuffle",)))
            sampler.harmless("set by 'seed'", "seed", "round_up")
    if loader.take("collate_fn", None) is not None:
        with loader.inside("collate_fn", "default_collate", "pseudo_collate") as collate:
            collate.note("type", "harmless", "series of different lengths are padded and masked")
    with loader.inside("dataset", "MappingDataset") as dataset:
        return _dataset(dataset, network)


def _dataset(dataset: Keys, network: Network) -> _Split:
    folder, names = Path(dataset.take("data_toot_path")), Path(dataset.take("data_list_file"))
    value = dataset.take("data_keys", ("S2",))
    keys = (value,) if isinstance(value, str) else tuple(value)
    missing = [name for name in network.channels if name not in keys]
    if missing:
        raise dataset.wrong("data_keys", expected=f"also {missing[0]}, which has an encoder", repair="add it.")
    if len(keys) > len(network.channels):
        dataset.note("data_keys", "harmless", "sensors without an encoder are not read")
    label_key = str(dataset.take("label_key", "label"))
    steps = _Steps()
    for step in dataset.each("data_pipelines"):
        steps = _step(step, steps, network)
    if set(steps.mean) != set(network.channels):
        raise dataset.wrong(
            "data_pipelines",
            found="no MapNormalize for every sensor",
            expected=f"mean and std of {', '.join(network.channels)}",
            repair="add dict(type='MapNormalize', mean=..., std=...); mean 0 and std 1 leave numbers as they are.",
        )
    check_bands = dataset.take("check_bands", True)
    if not isinstance(check_bands, bool):
        raise dataset.wrong("check_bands", expected="True or False", repair="write False to leave the check out.")
    return _Split(folder, names, label_key, steps, check_bands)


def _step(step: Keys, steps: _Steps, network: Network) -> _Steps:
    kind = step.kind()
    if kind not in _STEPS:
        own = "; put steps of your own into a dataset of your own (data.dataset in a YAML of ours)"
        raise step.wrong(
            "type", expected="a step of the original", repair=nearest(kind, _STEPS).rstrip(".") + own + "."
        )
    with step:
        return _STEPS[kind](step, steps, network)


def _normalize(step: Keys, steps: _Steps, network: Network) -> _Steps:
    used = step.take("norm_keys", None)
    left_out = [] if used is None else [name for name in network.channels if name not in used]
    if left_out:
        raise step.wrong("norm_keys", expected=f"also {left_out[0]}", repair="add it, with mean 0 and std 1.")
    mean, std = (_figures(step, key, network) for key in ("mean", "std"))
    if any(x <= 0 for figures in std.values() for x in figures):
        raise step.wrong("std", expected="deviations above 0", repair="correct the value.")
    return replace(steps, mean=mean, std=std)


def _figures(step: Keys, key: str, network: Network) -> dict[str, tuple[float, ...]]:
    value = step.take(key)
    found = {}
    for name, count in network.channels.items():
        figures = value.get(name) if isinstance(value, Mapping) else None
        if figures is None or len(figures) != count:
            raise step.wrong(
                key,
                found=f"{'nothing' if figures is None else len(figures)} for {name}",
                expected=f"{{'{name}': [{count} numbers, one for each of in_chans]}}",
                repair="add them.",
            )
        found[name] = tuple(float(x) for x in figures)
    _unused(step, key, value, network.channels)
    return found


def _unused(step: Keys, key: str, value: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    extra = [name for name in value if name not in used]
    if extra:
        step.note(key, "harmless", f"{', '.join(extra)} is not among the sensors: not used")


def _resize(step: Keys, steps: _Steps, network: Network) -> _Steps:
    size = step.take("size")
    if not isinstance(size, Mapping):
        raise step.wrong("size", expected="{sensor: (rows, columns), 'label': (rows, columns)}", repair="write that.")
    wanted = (*network.channels, "label")
    with Keys(size, step.source, step.name("size"), step.notes) as sizes:
        found = {name: (pair[0], pair[1]) for name in wanted for pair in [sizes.numbers(name, 2, size.get(name))]}
        _unused(step, "size", size, found)
        for name in sizes.left():
            sizes.take(name)
    if found["label"] != network.out_size:
        raise step.wrong(
            "size",
            found=f"label {found['label']}",
            expected=f"{network.out_size}, the out_size of the neck",
            repair="make the two equal.",
        )
    way = step.take("interpolation", None)
    if isinstance(way, Mapping) and any("bilinear" not in str(mode).lower() for mode in way.values()):
        raise step.wrong("interpolation", expected="bilinear", repair="delete it: sensors are resized bilinearly.")
    step.note("size", "changed", "pixels are averaged when made smaller (antialias); equal sizes stay untouched")
    return replace(steps, size=found)


def _random(step: Keys, steps: _Steps, network: Network) -> _Steps:
    kind = step.kind()
    if kind == "MapRandomCrop":
        step.harmless("see augment.crop", "crop_ratio_min", "crop_ratio_max", "base_size")
        return replace(steps, random={**steps.random, kind: 1.0})
    if kind == "MapRotate":
        step.harmless("quarter turns move whole pixels", "interpolation")
    return replace(steps, random={**steps.random, kind: float(step.number("p", 0.5))})


def _nothing(step: Keys, steps: _Steps, network: Network) -> _Steps:
    step.note("type", "harmless", "chips are read as tensors")
    return steps


_STEPS: dict[str, Callable[[Keys, _Steps, Network], _Steps]] = {
    "MapNormalize": _normalize,
    "MapResize": _resize,
    "MapVerticalFlip": _random,
    "MapHorizontalFlip": _random,
    "MapRotate": _random,
    "MapRandomCrop": _random,
    "MapToTensor": _nothing,
}


def _augment(loader: Keys, steps: _Steps) -> Augment:
    key = "dataset.data_pipelines"
    flips = [steps.random.get(kind, 0.0) for kind in ("MapVerticalFlip", "MapHorizontalFlip")]
    if flips not in ([0.0, 0.0], [0.5, 0.5]):
        raise loader.wrong(
            key,
            found=f"MapVerticalFlip with p={flips[0]}, MapHorizontalFlip with p={flips[1]}",
            expected="both with p=0.5, or neither",
            repair="list both or neither (augment.flips mirrors rows and columns, each half of the time).",
        )
    if "MapRandomCrop" in steps.random:
        raise loader.wrong(
            key,
            found="MapRandomCrop, whose square has a random side",
            expected="a crop with a fixed side",
            repair="delete it and set augment.crop (a side in label pixels) in the YAML that train.py writes.",
        )
    turn = steps.random.get("MapRotate", 0.0)
    if 0 < turn < 1:
        loader.note(key, "changed", f"MapRotate p={turn}: all four quarter turns are equally likely (augment.rot90)")
    return Augment(flips=flips[0] > 0, rot90=turn > 0)


def _agree(loader: Keys, split: _Split, train: _Split) -> None:
    """Refuse a split that is read in another way than the training split."""
    if split.steps.random:
        loader.note("dataset.data_pipelines", "changed", f"{', '.join(split.steps.random)} left out: {_EVALUATION}")
    pairs = {
        "data_toot_path": (split.folder, train.folder, "put all chips into one folder; the lists tell them apart."),
        "label_key": (split.label_key, train.label_key, "give the label one name."),
        "data_pipelines": (
            (split.steps.mean, split.steps.std, split.steps.size),
            (train.steps.mean, train.steps.std, train.steps.size),
            "use the same MapNormalize and MapResize: they are part of the model.",
        ),
    }
    for key, (found, expected, repair) in pairs.items():
        if found != expected:
            known = [str(found), str(expected)] if key != "data_pipelines" else ["other numbers", "those of training"]
            raise loader.wrong(f"dataset.{key}", found=known[0][:200], expected=known[1][:200], repair=repair)


def _data(config: Keys, network: Network, splits: dict[str, _Split]) -> DataConfig:
    train = splits["train"]
    sensors = tuple(_sensor(config, name, count, train.steps) for name, count in network.channels.items())
    generic = [sensor.name for sensor in sensors if sensor.bands[0].common_name == ""]
    if generic:
        config.note("model.encoders", "derived", f"bands of {', '.join(generic)} are unknown: data.check_bands is off")
    root = train.folder.parent
    lists = {
        name: None if split.names == root / "data_lists" / f"{name}.txt" else split.names
        for name, split in splits.items()
    }
    config.note(
        "model.neck.in_fusion_key_list",
        "derived",
        f"its channels stand for {network.frames} frames (data.frames): longer series are thinned to that, "
        "evenly in evaluation and at random in training; the original would stop",
    )
    return DataConfig(
        root=root,
        chips=None if train.folder.name == "h5_samples" else train.folder,
        train=lists["train"],
        val=lists["val"],
        test=lists.get("test"),
        sensors=sensors,
        statistics="given",
        frames=network.frames,
        resize=train.steps.size,
        label_key=train.label_key,
        check_bands=train.check_bands and not generic,
    )


def _sensor(config: Keys, name: str, count: int, steps: _Steps) -> Sensor:
    """A sensor under the key of the files, with the bands of the known sensor that has as many."""
    key = f"model.encoders.encoders_cfg.{name}"
    known = _BY_CHANNELS.get(count)
    if known is None:
        bands = tuple(Band(f"band{i + 1}", "", 0.0) for i in range(count))
        known = Sensor(name, bands, gsd=10.0)
        config.note(key, "derived", f"no known sensor has {count} bands: called band1 to band{count}, 10 m assumed")
    elif known.name != name:
        config.note(key, "derived", f"{count} bands are taken for those of {known.name}, in this order")
    config.note(
        key,
        "derived",
        "every stored number counts as seen, as in the original (set the sensor's nodata in the YAML); masks and "
        "dates are used where the files have them",
    )
    statistics = Statistics(steps.mean[name], steps.std[name], source=f"MapNormalize in {Path(config.source).name}")
    return replace(known, name=name, nodata=None, statistics=statistics)
