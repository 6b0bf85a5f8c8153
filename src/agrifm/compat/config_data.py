"""The data loaders of the published configuration: lists, sensors, statistics, sizes and random steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agrifm.compat.config_model import Network
from agrifm.compat.keys import Keys, is_list
from agrifm.config import DataConfig
from agrifm.data.transforms import Augment
from agrifm.errors import counted, nearest
from agrifm.sensors import LANDSAT, MODIS, S2, Band, Sensor, Statistics

_BY_CHANNELS = {len(sensor.bands): sensor for sensor in (S2, LANDSAT, MODIS)}
_RANDOM_STEPS = ("MapVerticalFlip", "MapHorizontalFlip", "MapRotate")
_STEPS = ("MapNormalize", "MapResize", "MapToTensor", "MapRandomCrop", *_RANDOM_STEPS)


@dataclass(frozen=True)
class Loading:
    """The data loaders of a configuration."""

    data: DataConfig
    augment: Augment
    batch_size: int
    workers: int


@dataclass
class _Split:
    """Files of a split; mean, deviation and size by sensor; probabilities of the random steps by type."""

    folder: Path
    names: Path
    label_key: str
    check_bands: bool
    mean: dict[str, tuple[float, ...]] = field(default_factory=dict)
    std: dict[str, tuple[float, ...]] = field(default_factory=dict)
    size: dict[str, tuple[int, int]] = field(default_factory=dict)
    random: dict[str, float] = field(default_factory=dict)


def read_data(config: Keys, network: Network) -> Loading:
    """Translate ``train_dataloader``, ``val_dataloader`` and ``test_dataloader``.

    Raises:
        InputError: If a key is unknown, or the three do not describe one data set.
    """
    with config.inside("train_dataloader") as loader:
        batch_size = loader.number("batch_size", 1, least=1, whole=True)
        workers = loader.number("num_workers", 0, whole=True)
        if loader.take("sampler", None) is not None:
            with loader.inside("sampler", "DefaultSampler") as sampler:
                sampler.only("shuffle", True, repair="write True: training always shuffles.")
        train = _split(loader, network)
        augment = _augment(loader, train.random)
    splits = {"train": train}
    for name in ("val", "test"):
        key = f"{name}_dataloader"
        if name == "test" and config.take(key, None) is None:
            config.note(key, "derived", "no test split is named: data_lists/test.txt is assumed where one is needed")
            continue
        with config.inside(key) as loader:
            loader.harmless("evaluation has the batch size and workers of training", "batch_size", "num_workers")
            loader.harmless("evaluation uses every chip once, in order", "sampler")
            splits[name] = _split(loader, network)
            _refuse_different(loader, splits[name], train)
    return Loading(_data(config, network, splits), augment, batch_size, workers)


def _split(loader: Keys, network: Network) -> _Split:
    loader.harmless("workers are kept between epochs", "persistent_workers")
    if loader.take("collate_fn", None) is not None:
        with loader.inside("collate_fn", "default_collate") as collate:
            collate.note("type", "harmless", "series of different lengths are padded and masked")
    with loader.inside("dataset", "MappingDataset") as dataset:
        value = dataset.take("data_keys", ("S2",))
        keys = (value,) if isinstance(value, str) else tuple(value)
        for name in network.channels:
            dataset.check("data_keys", name in keys, expected=f"also {name}, which has an encoder", repair="add it.")
        if len(keys) > len(network.channels):
            dataset.note("data_keys", "harmless", "sensors without an encoder are not read")
        split = _Split(
            folder=Path(dataset.take("data_toot_path")),
            names=Path(dataset.take("data_list_file")),
            label_key=str(dataset.take("label_key", "label")),
            check_bands=dataset.only("check_bands", True, False),  # a key of ours
        )
        for step in dataset.each("data_pipelines"):
            with step:
                _read_step(step, split, network)
        expected = f"MapNormalize with mean and std of {', '.join(network.channels)}"
        repair = "add dict(type='MapNormalize', mean=..., std=...); mean 0 and std 1 leave numbers as they are."
        dataset.check("data_pipelines", bool(split.mean), expected=expected, repair=repair)
    return split


def _read_step(step: Keys, split: _Split, network: Network) -> None:
    """Add a step of the pipeline to a split."""
    kind = step.kind()
    if kind == "MapNormalize":
        split.mean = _figures(step, "mean", network)
        split.std = _figures(step, "std", network)
    elif kind == "MapResize":
        split.size = _sizes(step, network)
    elif kind in _RANDOM_STEPS:
        split.random[kind] = float(step.number("p", 0.5))
    elif kind == "MapToTensor":
        step.note("type", "harmless", "chips are read as tensors")
    elif kind == "MapRandomCrop":
        repair = "delete it and set augment.crop (a side in label pixels) in the YAML that train.py writes."
        raise step.wrong("type", expected="a crop with a fixed side, not a random one", repair=repair)
    else:
        repair = f"{nearest(kind, _STEPS)} Other steps belong into a custom dataset (data.dataset in a YAML of ours)."
        raise step.wrong("type", expected="a step of the original", repair=repair)


def _figures(step: Keys, key: str, network: Network) -> dict[str, tuple[float, ...]]:
    figures = {}
    with step.inside(key) as by_sensor:
        for name, count in network.channels.items():
            values = by_sensor.take(name)
            expected = f"{counted(count, 'number')}, one for each of in_chans"
            valid = is_list(values) and len(values) == count
            by_sensor.check(name, valid, expected=expected, repair="correct the list.")
            figures[name] = tuple(float(value) for value in values)
            valid = key != "std" or min(figures[name]) > 0
            by_sensor.check(name, valid, expected="deviations above 0", repair="correct the value.")
    return figures


def _sizes(step: Keys, network: Network) -> dict[str, tuple[int, int]]:
    expected = "{sensor: (rows, columns), 'label': (rows, columns)}"
    step.check("size", isinstance(step.take("size"), Mapping), expected=expected, repair="write that.")
    size = {}
    with step.inside("size") as by_sensor:
        for name in (*network.channels, "label"):
            rows, columns = by_sensor.numbers(name, 2)
            size[name] = rows, columns
    expected = f"{network.out_size} for the label, the out_size of the neck"
    step.check("size", size["label"] == network.out_size, expected=expected, repair="make the two equal.")
    step.note("size", "changed", "pixels are averaged when made smaller (antialias); equal sizes stay untouched")
    return size


def _augment(loader: Keys, random: dict[str, float]) -> Augment:
    key = "dataset.data_pipelines"
    vertical, horizontal = random.get("MapVerticalFlip", 0.0), random.get("MapHorizontalFlip", 0.0)
    loader.check(
        key,
        (vertical, horizontal) in ((0.0, 0.0), (0.5, 0.5)),
        found=f"MapVerticalFlip with p={vertical}, MapHorizontalFlip with p={horizontal}",
        expected="both with p=0.5, or neither",
        repair="list both or neither (augment.flips mirrors rows and columns, each half of the time).",
    )
    turn = random.get("MapRotate", 0.0)
    if 0 < turn < 1:
        loader.note(key, "changed", f"MapRotate p={turn}: all four quarter turns are equally likely (augment.rot90)")
    return Augment(flips=vertical > 0, rot90=turn > 0)


def _refuse_different(loader: Keys, split: _Split, train: _Split) -> None:
    """Refuse a split that is read in another way than the training split."""
    if split.random:
        steps = ", ".join(split.random)
        loader.note(
            "dataset.data_pipelines",
            "changed",
            f"{steps} left out: random steps never run in evaluation here; the original ran those that were listed",
        )
    same_numbers = (split.mean, split.std, split.size) == (train.mean, train.std, train.size)
    for key, same, repair in (
        ("data_toot_path", split.folder == train.folder, "put all chips into one folder."),
        ("label_key", split.label_key == train.label_key, "give the label one name."),
        ("data_pipelines", same_numbers, "use the same MapNormalize and MapResize: they are part of the model."),
    ):
        loader.check(f"dataset.{key}", same, found="another value", expected="that of train_dataloader", repair=repair)


def _data(config: Keys, network: Network, splits: dict[str, _Split]) -> DataConfig:
    train = splits["train"]
    sensors = [_sensor(config, name, count, train) for name, count in network.channels.items()]
    generic = [sensor.name for sensor in sensors if not sensor.bands[0].common_name]
    if generic:
        config.note("model.encoders", "derived", f"bands of {', '.join(generic)} are unknown: data.check_bands is off")
    config.note(
        "model.neck.in_fusion_key_list",
        "derived",
        f"its channels imply {counted(network.frames, 'frame')} (data.frames): longer series are thinned to that, "
        "evenly in evaluation and at random in training; the original would stop",
    )
    root = train.folder.parent
    return DataConfig(
        root=root,
        chips=None if train.folder.name == "h5_samples" else train.folder,
        train=_list_file(splits, "train"),
        val=_list_file(splits, "val"),
        test=_list_file(splits, "test"),
        sensors=tuple(sensors),
        statistics="given",
        frames=network.frames,
        resize=train.size,
        label_key=train.label_key,
        check_bands=train.check_bands and not generic,
    )


def _list_file(splits: dict[str, _Split], name: str) -> Path | None:
    """The list of a split; None if there is none, or it is in its usual place."""
    if name not in splits:
        return None
    split = splits[name]
    usual = split.folder.parent / "data_lists" / f"{name}.txt"
    return None if split.names == usual else split.names


def _sensor(config: Keys, name: str, count: int, split: _Split) -> Sensor:
    """A sensor under the key of the files, with the bands of the known sensor that has as many."""
    key = f"model.encoders.encoders_cfg.{name}"
    known = _BY_CHANNELS.get(count)
    if known is None:
        bands = tuple(Band(f"band{i + 1}", "", 0.0) for i in range(count))
        known = Sensor(name, bands, gsd=10.0)
        config.note(
            key, "derived", f"no known sensor has {counted(count, 'band')}: called band1 to band{count}, 10 m assumed"
        )
    elif known.name != name:
        config.note(key, "derived", f"{counted(count, 'band')} are taken for those of {known.name}, in this order")
    config.note(
        key,
        "derived",
        "every stored number counts as valid, as in the original (set the sensor's nodata in the YAML); masks and "
        "dates are used where the files have them",
    )
    source = f"MapNormalize in {Path(config.source).name}"
    statistics = Statistics(split.mean[name], split.std[name], source=source)
    return replace(known, name=name, nodata=None, statistics=statistics)
