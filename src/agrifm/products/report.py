"""One HTML file about a checkpoint or a map: scores, curves, pictures and provenance."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.enums import Resampling

from agrifm.checkpoint import Checkpoint, describe
from agrifm.errors import InputError, refusing
from agrifm.figures import png_bytes
from agrifm.io import sha256, write_whole
from agrifm.maps.files.legend import NODATA, picture
from agrifm.maps.provenance import Provenance
from agrifm.products.map_rasters import class_counts, is_class_map
from agrifm.products.page import Html, facts, folded, image, missing, note, page, section, table
from agrifm.training.history import HISTORY

WIDTH = 1200  # pixels of a picture


def report(source: Path, out: Path) -> None:
    """Write a self-contained report; missing parts are listed with the command that adds them.

    Args:
        source: Checkpoint, or GeoTIFF of a map.
        out: HTML file, which is written atomically.

    Raises:
        InputError: If the source is neither, or the file has another suffix.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            out, found=f"the ending '{out.suffix}'", expected="an HTML file", repair="give a name that ends in .html."
        )
    kinds = {".safetensors": _model_page, ".tif": _map_page, ".tiff": _map_page}
    readable = source.suffix.lower() == ".safetensors" or is_class_map(source)
    if source.suffix.lower() not in kinds or not readable:
        raise InputError(
            source,
            found="neither a checkpoint nor a map of classes" if source.exists() else "no such file",
            expected="best.safetensors of a run, or OUT.tif of 'agrifm map'",
            repair="give one of them.",
        )
    title, parts = kinds[source.suffix.lower()](source)
    write_whole(out, page(title, parts))


def _model_page(path: Path) -> tuple[str, list[Html]]:
    loaded = Checkpoint.load(path)
    return f"Model {loaded.experiment.name}", [*_model(loaded, path), _model_provenance(loaded, path)]


def _map_page(path: Path) -> tuple[str, list[Html]]:
    beside = Provenance.beside(path)
    provenance = Provenance.load(beside) if beside.is_file() else None
    parts = [_picture(path), _areas(path), _confidence(path), _map_provenance(path, provenance)]
    if provenance is not None:
        recorded = provenance.values["model"]
        model = Path(recorded["path"])
        if model.is_file() and sha256(model) == recorded["sha256"]:
            parts += _model(Checkpoint.load(model), model)
        else:
            text = note(f"{model} is missing or has changed since, so its scores are not reported here.")
            parts.append(section("The model", text))
    return f"Map {path.name}", parts


def _model(loaded: Checkpoint, path: Path) -> Iterator[Html]:
    yield section("The model", facts(describe(loaded).items()))
    score_files = sorted(path.parent.glob("scores_*/scores.json"))
    for scores in score_files:
        source = note(f"From {scores}, of the last evaluated checkpoint of this folder.")
        title = f"Scores: {scores.parent.name.removeprefix('scores_').replace('_', ', ')}"
        with refusing(scores, expected="scores as 'agrifm evaluate' writes them", repair="evaluate again."):
            parts = list(_scores(json.loads(scores.read_text(encoding="utf-8"))))
        yield section(title, *parts, source)
    if not score_files:
        text = missing("scores on ground that the model never saw.", "agrifm", "evaluate", path, "--split", "test")
        yield section("Scores", text)
    yield section("Calibration", *_calibration(loaded, path))
    yield section("Training", _curves(path.parent / HISTORY))


def _scores(values: dict[str, Any]) -> Iterator[Html]:
    """Summary, classes and confusion matrix."""
    summary = values["summary"]
    yield table(("", *summary), [("all classes", *_with_dashes(summary.values()))])
    classes = values["classes"]
    columns = [key for key in classes[0] if key != "name"]
    rows = []
    for entry in classes:
        scores = [entry[key] for key in columns]
        rows.append((entry["name"], *_with_dashes(scores)))
    yield table(("class", *columns), rows)
    if "confusion" in values:
        counts = np.array(values["confusion"])
        names = [entry["name"] for entry in classes]
        yield note("Pixels by true class (rows) and predicted class (columns); darker is a larger share of the row.")
        shares = counts / counts.sum(1, keepdims=True).clip(min=1)
        rows = [(name, *row) for name, row in zip(names, counts.tolist(), strict=True)]
        yield table(("truth \\ prediction", *names), rows, shades=shares.tolist())


def _with_dashes(scores: Iterable[float | None]) -> list[float | str]:
    """Replace scores that do not exist by a dash."""
    return ["–" if score is None else score for score in scores]


def _calibration(loaded: Checkpoint, path: Path) -> Iterator[Html]:
    if loaded.calibration is None:
        yield missing("calibration of its probabilities.", "agrifm", "calibrate", path)
        return
    yield note(str(loaded.calibration))
    numbers = path.with_suffix(".json")
    diagram = path.with_suffix(".png")
    if numbers.is_file():
        rows = []
        with refusing(numbers, expected="numbers as 'agrifm calibrate' writes them", repair="calibrate again."):
            for split, values in json.loads(numbers.read_text(encoding="utf-8"))["splits"].items():
                scores = []
                for key in ("ECE", "Brier", "NLL"):
                    scores += [values["before"][key], values["after"][key]]
                rows.append((split, values["pixels"], *scores, values["sets"]["chips"], values["sets"]["size"]))
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
        epochs = [int(epoch) + 1 for epoch in series.pop("epoch")]
        losses = series.pop("loss")
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, losses, color="#222222")
    left.set(title="loss on train", xlabel="epoch")
    for name, values in series.items():
        right.plot(epochs, values, label=name)
    right.set(title="scores on val", xlabel="epoch")
    for text in right.legend(fontsize=7, frameon=False, ncols=2).get_texts():
        text.set_parse_math(False)
    return image(png_bytes(figure, dpi=110), "loss and scores by epoch")


def _model_provenance(loaded: Checkpoint, path: Path) -> Html:
    versions = table(("library", "version"), loaded.versions.items())
    text = folded("the experiment in full", loaded.experiment.to_yaml())
    return section("Provenance", note(f"{path}, sha256 {sha256(path)}"), versions, text)


def _picture(path: Path) -> Html:
    with tempfile.TemporaryDirectory() as folder:
        picture(path, Path(folder) / "map.png", width=WIDTH)
        return section("The map", image((Path(folder) / "map.png").read_bytes(), "the map of classes with its legend"))


def _areas(path: Path) -> Html:
    """Area and share of each class, from counted pixels."""
    counts = class_counts(path)
    with rasterio.open(path) as file:
        names = file.tags(1)
        colors = file.colormap(1)
        hectares = None
        if file.crs is not None and file.crs.is_projected:
            meters = file.crs.linear_units_factor[1]
            hectares = abs(file.transform.determinant) * meters**2 / 1e4
    rows = []
    squares = []
    for value in np.flatnonzero(counts).tolist():
        name = "no data" if value == NODATA else names.get(f"class_{value}", str(value))
        area = "–" if hectares is None else f"{counts[value] * hectares:,.1f}"
        rows.append((name, area, f"{counts[value] / counts.sum():.1%}"))
        squares.append("#ffffff" if value == NODATA else "#" + bytes(colors[value][:3]).hex())
    text = note("Counted pixels of the map, not an estimate of areas: errors of the map do not cancel out.")
    return section("Areas on the map", table(("class", "hectares", "share"), rows, colors=squares), text)


def _confidence(path: Path) -> Html:
    layer = path.with_name(f"{path.stem}_confidence{path.suffix}")
    if not layer.is_file():
        text = missing("a layer of confidence.", "agrifm", "map", "CKPT", "SCENE", path, "--confidence", "--overwrite")
        return section("Confidence", text)
    from matplotlib.image import imsave

    with rasterio.open(layer) as file:
        step = max(1.0, max(file.shape) / 800)
        shape = max(1, round(file.height / step)), max(1, round(file.width / step))
        values = file.read(1, out_shape=shape, resampling=Resampling.average, masked=True)
        text = file.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
    buffer = BytesIO()
    imsave(buffer, values, cmap="viridis", vmin=0, vmax=100)
    return section("Confidence", image(buffer.getvalue(), "confidence"), note(f"{text} Dark is 0, yellow 1."))


def _map_provenance(path: Path, provenance: Provenance | None) -> Html:
    if provenance is None:
        text = missing("its provenance.", "agrifm", "map", "CKPT", "SCENE", path, "--overwrite")
        return section("Provenance", text)
    values = provenance.values
    images = []
    for layer in provenance.scene.layers:
        images.append((layer.sensor.name, len(layer.frames), layer.days[0], layer.days[-1]))
    model = values["model"]
    entries = [("model", f"{model['name']}, {model['path']}, sha256 {model['sha256']}")]
    for other in values.get("ensemble", ()):
        entries.append(("averaged with", f"{other['path']}, sha256 {other['sha256']}"))
    entries += [(key, values[key]) for key in ("options", "seams", "machine", "versions")]
    return section(
        "Provenance",
        table(("sensor", "images", "first", "last"), images),
        facts(entries),
        note(f"agrifm reproduce {provenance.path} computes the map again and compares every file."),
        folded("the experiment in full", yaml.safe_dump(values["experiment"], sort_keys=False)),
    )
