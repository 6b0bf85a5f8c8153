"""One HTML file about a checkpoint or a map: scores, curves, pictures and where everything came from."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioIOError

from agrifm.checkpoint import Checkpoint, describe
from agrifm.errors import InputError, refusing
from agrifm.io import sha256, write_whole
from agrifm.maps.files.legend import NODATA, picture
from agrifm.maps.provenance import Provenance
from agrifm.products.page import Html, facts, folded, image, missing, note, page, section, table

WIDTH = 1200  # pixels of a picture
HISTORY = "history.csv"


def report(source: Path, out: Path) -> None:
    """Write a report that needs no other file and no network; what lacks is named with the command that makes it.

    Args:
        source: a checkpoint, or the GeoTIFF of a map.
        out: the HTML file; it appears whole.

    Raises:
        InputError: the source is neither, or the file has another ending.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(out, found=f"the ending '{out.suffix}'", expected="an HTML file", repair="end it in .html.")
    kinds = {".safetensors": _model_page, ".tif": _map_page, ".tiff": _map_page}
    readable = source.suffix.lower() == ".safetensors" or _of_classes(source)
    if source.suffix.lower() not in kinds or not readable:
        raise InputError(
            source,
            found="neither a checkpoint nor a map of classes" if source.exists() else "no such file",
            expected="best.safetensors of a run, or OUT.tif of 'agrifm map'",
            repair="name one of them.",
        )
    title, parts = kinds[source.suffix.lower()](source)
    write_whole(out, page(title, parts))


def _of_classes(path: Path) -> bool:
    """Whether a file is a raster of classes with their colors."""
    try:
        with rasterio.open(path) as file:
            return file.colorinterp[0] == ColorInterp.palette
    except RasterioIOError:
        return False


def _model_page(path: Path) -> tuple[str, list[Html]]:
    loaded = Checkpoint.load(path)
    return f"Model {loaded.experiment.name}", [*_model(loaded, path), _model_provenance(loaded, path)]


def _map_page(path: Path) -> tuple[str, list[Html]]:
    beside = Provenance.beside(path)
    passport = Provenance.load(beside) if beside.is_file() else None
    parts = [_look(path), _areas(path), _confidence(path), _map_provenance(path, passport)]
    if passport is not None:
        noted = passport.values["model"]
        model = Path(noted["path"])
        if model.is_file() and sha256(model) == noted["sha256"]:
            parts += _model(Checkpoint.load(model), model)
        else:
            gone = note(f"{model} is gone or has changed since, so nothing is said of its scores here.")
            parts.append(section("The model", gone))
    return f"Map {path.stem}", parts


def _model(loaded: Checkpoint, path: Path) -> Iterator[Html]:
    yield section("The model", facts(describe(loaded).items()))
    found = sorted(path.parent.glob("scores_*/scores.json"))
    for scores in found:
        source = note(f"From {scores}: of the checkpoint of this folder that was evaluated last.")
        title = f"Scores: {scores.parent.name.removeprefix('scores_').replace('_', ', ')}"
        with refusing(scores, expected="scores as 'agrifm evaluate' writes them", repair="evaluate again."):
            parts = list(_scores(json.loads(scores.read_text(encoding="utf-8"))))
        yield section(title, *parts, source)
    if not found:
        lacks = missing("scores on ground the model never saw.", "agrifm", "evaluate", path, "--split", "test")
        yield section("Scores", lacks)
    yield section("Calibration", *_calibration(loaded, path))
    yield section("Training", _curves(path.parent / HISTORY))


def _scores(values: dict[str, Any]) -> Iterator[Html]:
    """Summary, classes and confusion matrix; what does not exist is a dash."""
    summary = {key: "–" if value is None else value for key, value in values["summary"].items()}
    yield table(("", *summary), [("all classes", *summary.values())])
    classes = values["classes"]
    columns = [key for key in classes[0] if key != "name"]
    rows = [(entry["name"], *("–" if entry[key] is None else entry[key] for key in columns)) for entry in classes]
    yield table(("class", *columns), rows)
    if "confusion" in values:
        counts = np.array(values["confusion"])
        names = [entry["name"] for entry in classes]
        yield note("Pixels by true class (rows) and predicted class (columns); darker is a larger share of the row.")
        shares = counts / counts.sum(1, keepdims=True).clip(min=1)
        rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, counts.tolist(), strict=True)]
        yield table(("truth \\ prediction", *names), rows, shades=shares.tolist())


def _calibration(loaded: Checkpoint, path: Path) -> Iterator[Html]:
    if loaded.calibration is None:
        yield missing("its probabilities were not held against the truth.", "agrifm", "calibrate", path)
        return
    yield note(str(loaded.calibration))
    numbers, diagram = path.with_suffix(".json"), path.with_suffix(".png")
    if numbers.is_file():
        rows = []
        with refusing(numbers, expected="numbers as 'agrifm calibrate' writes them", repair="calibrate again."):
            for split, values in json.loads(numbers.read_text(encoding="utf-8"))["splits"].items():
                pair = [values[when][key] for key in ("ECE", "Brier", "NLL") for when in ("before", "after")]
                rows.append((split, values["pixels"], *pair, values["sets"]["chips"], values["sets"]["size"]))
        head = ("ECE", "after", "Brier", "after", "NLL", "after", "covered", "classes in a set")
        yield table(("split", "pixels", *head), rows)
    if diagram.is_file():
        yield image(diagram.read_bytes(), "reliability diagram")


def _curves(path: Path) -> Html:
    if not path.is_file():
        return missing(f"{path.name} beside the checkpoint.", "agrifm", "train", "EXPERIMENT.YAML")
    from matplotlib.figure import Figure

    with (
        refusing(path, expected="losses and scores by epoch, as 'agrifm train' writes them", repair="delete it."),
        path.open(newline="", encoding="utf-8") as file,
    ):
        rows = list(csv.DictReader(file))
        series = {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}
        epochs, losses = [int(epoch) + 1 for epoch in series.pop("epoch")], series.pop("loss")
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, losses, color="#222222")
    left.set(title="loss on train", xlabel="epoch")
    for name, values in series.items():
        right.plot(epochs, values, label=name)
    right.set(title="scores on val", xlabel="epoch")
    for text in right.legend(fontsize=7, frameon=False, ncols=2).get_texts():
        text.set_parse_math(False)
    figure.savefig(buffer := BytesIO(), format="png", dpi=110)
    return image(buffer.getvalue(), "loss and scores by epoch")


def _model_provenance(loaded: Checkpoint, path: Path) -> Html:
    versions = table(("library", "version"), loaded.versions.items())
    text = folded("the experiment in full", loaded.experiment.to_yaml())
    return section("Where it comes from", note(f"{path}, sha256 {sha256(path)}"), versions, text)


def _look(path: Path) -> Html:
    with tempfile.TemporaryDirectory() as folder:
        picture(path, Path(folder) / "map.png", width=WIDTH)
        return section("The map", image((Path(folder) / "map.png").read_bytes(), "the map of classes with its legend"))


def _areas(path: Path) -> Html:
    """Area and share of each class, counted."""
    counts = np.zeros(NODATA + 1, np.int64)
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            counts += np.bincount(file.read(1, window=window).ravel(), minlength=len(counts))
        names, colors = file.tags(1), file.colormap(1)
        meters = file.crs.linear_units_factor[1] if file.crs is not None and file.crs.is_projected else None
        hectares = None if meters is None else abs(file.transform.determinant) * meters**2 / 1e4
    rows, squares = [], []
    for value in np.flatnonzero(counts).tolist():
        name = "no data" if value == NODATA else names.get(f"class_{value}", str(value))
        area = "–" if hectares is None else f"{counts[value] * hectares:,.1f}"
        rows.append((name, area, f"{counts[value] / counts.sum():.1%}"))
        squares.append("#ffffff" if value == NODATA else "#" + bytes(colors[value][:3]).hex())
    text = note("Pixels counted on the map. This is no estimate of areas: the map has errors that do not cancel out.")
    return section("Areas on the map", table(("class", "hectares", "share"), rows, colors=squares), text)


def _confidence(path: Path) -> Html:
    layer = path.with_name(f"{path.stem}_confidence{path.suffix}")
    if not layer.is_file():
        lacks = missing("a layer of confidence.", "agrifm", "map", "CKPT", "SCENE", path, "--confidence", "--overwrite")
        return section("Confidence", lacks)
    from matplotlib.image import imsave

    with rasterio.open(layer) as file:
        step = max(1.0, max(file.shape) / 800)
        shape = max(1, round(file.height / step)), max(1, round(file.width / step))
        values = file.read(1, out_shape=shape, resampling=Resampling.average, masked=True)
        text = file.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
    imsave(buffer := BytesIO(), values, cmap="viridis", vmin=0, vmax=100)
    return section("Confidence", image(buffer.getvalue(), "confidence"), note(f"{text} Dark is 0, yellow 1."))


def _map_provenance(path: Path, passport: Provenance | None) -> Html:
    if passport is None:
        lacks = missing("its passport.", "agrifm", "map", "CKPT", "SCENE", path, "--overwrite")
        return section("Where it comes from", lacks)
    values, layers = passport.values, passport.scene.layers
    images = [(layer.sensor.name, len(layer.frames), layer.days[0], layer.days[-1]) for layer in layers]
    told = [("model", f"{values['model']['name']}, {values['model']['path']}, sha256 {values['model']['sha256']}")]
    told += [("averaged with", f"{one['path']}, sha256 {one['sha256']}") for one in values.get("ensemble", ())]
    told += [(key, values[key]) for key in ("options", "seams", "machine", "versions")]
    again = note(f"agrifm reproduce {passport.path} makes the map again and compares every file.")
    text = folded("the experiment in full", yaml.safe_dump(values["experiment"], sort_keys=False))
    tables = table(("sensor", "images", "first", "last"), images), facts(told)
    return section("Where it comes from", *tables, again, text)
