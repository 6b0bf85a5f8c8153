"""The front door: what ``import agrifm`` offers to people who work in Python.

Everything here is a thin layer over the rooms below; the command line uses the same functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.chips.plan import ChipPlan
from agrifm.chips.report import Report
from agrifm.chips.writer import write_chips
from agrifm.config import Experiment
from agrifm.config import load as load_experiment
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate as score
from agrifm.maps.embedding.points import embed_points
from agrifm.maps.embedding.scene import Embedded, write_embedding
from agrifm.maps.in_memory import embed_scene, predict_scene
from agrifm.maps.map_scene import Mapped, map_scene
from agrifm.maps.options import EMBED_DEFAULTS, EmbedOptions, MapOptions
from agrifm.opening import open_scene
from agrifm.sample import Sample, collate
from agrifm.scenes.scene import Scene
from agrifm.sensors import Sensor, names
from agrifm.tasks.field_scores import FieldScores
from agrifm.tasks.fractions import FractionScores
from agrifm.tasks.scores import Scores
from agrifm.training.samples.sources import open_sources
from agrifm.weight_files.start_weights import weights_path

if TYPE_CHECKING:
    from agrifm.viewer.server import LiveView

Data = Scene | xr.Dataset | Sample | Mapping[str, Any]


@dataclass(frozen=True)
class WrittenMap(Mapped):
    """A map that :meth:`Model.map` wrote."""

    def explore(self, *, port: int = 0, height: int = 640) -> LiveView:
        """Show the map in a browser or notebook, above the images that it was made from; see :func:`view`.

        Raises:
            InputError: If the port is taken, or the files were moved.
        """
        return view(self.files[0], port=port, height=height)


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict, map and embed; :func:`load` opens one.

    Args:
        path: Checkpoint.
        checkpoint: Its content.
    """

    path: Path
    checkpoint: Checkpoint

    def __repr__(self) -> str:
        """One line without the weights, for notebooks and terminals."""
        facts = [f"sensors {', '.join(names(self.sensors))}", f"outputs {', '.join(self.classes)}"]
        return f"<agrifm.Model {self.path.name}: {'; '.join(facts)}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(self.checkpoint.experiment.task.names)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that the model reads; any of them may be missing."""
        return tuple(self.checkpoint.experiment.data.sensors)

    @property
    def experiment(self) -> Experiment:
        """Experiment that made the model."""
        return self.checkpoint.experiment

    def predict(
        self,
        data: Data,
        *,
        dates: Mapping[str, Sequence[Any]] | None = None,
        valid: Mapping[str, Any] | None = None,
        probabilities: bool = True,
        confidence: bool = False,
        device: str = "auto",
    ) -> xr.Dataset:
        """Predict the class of every pixel, in memory.

        Args:
            data: A scene; a dataset as a netCDF cube would hold it (dimensions ``time``, ``y``, ``x``, one variable for
                each band, and a CRS); a sample; or arrays ``(t, c, h, w)`` of stored numbers by sensor name.
            dates: With arrays, ISO dates or days since 1970-01-01 by sensor.
            valid: With arrays, masks ``(t, h, w)`` by sensor that are true where the ground was seen.
            probabilities: Also give the probability of every class.
            confidence: Also give the probability of the chosen class.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            Dataset with ``classes (y, x)`` uint8, 255 where no sensor saw the ground, and the other layers. Scenes and
            datasets keep their CRS and coordinates.

        Raises:
            InputError: If the data do not fit the model.
        """
        if isinstance(data, xr.Dataset):
            with tempfile.TemporaryDirectory(prefix="agrifm-") as folder:
                return self.predict(
                    scene_of(data, Path(folder)), probabilities=probabilities, confidence=confidence, device=device
                )
        wanted = {"probabilities": probabilities, "confidence": confidence}
        extras = tuple(name for name, on in wanted.items() if on)
        if isinstance(data, Scene):
            return predict_scene(self.checkpoint, data, MapOptions(extras, device=device))
        if not isinstance(data, Sample):
            data = Sample.from_item({"data": data, "dates": dates or {}, "valid": valid or {}})
        return self._predict_sample(data, extras, device)

    def _predict_sample(self, sample: Sample, extras: Sequence[str], device: str) -> xr.Dataset:
        """Predict the pixels of one sample, which has no place on the ground."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = self.checkpoint.model().to(device)
        batch = collate([sample]).to(device)
        with torch.inference_mode():
            values = self.checkpoint.experiment.task.probabilities(model(batch))[0].cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(
                f"sample {sample.name or '(unnamed)'}",
                found="outputs of the model that are infinite or not a number",
                expected="finite numbers",
                repair="check the images for values that no sensor stores.",
            )
        calibration = self.checkpoint.calibration
        classes = values.argmax(0).astype(np.uint8)
        if calibration is not None:
            values = calibration.probabilities(values)
        variables: dict[str, Any] = {"classes": (("y", "x"), classes)}
        if "probabilities" in extras:
            variables["probabilities"] = (("class", "y", "x"), values)
        if "confidence" in extras:
            variables["confidence"] = (("y", "x"), values.max(0))
        coordinates = {"class": list(self.classes)} if "probabilities" in extras else {}
        return xr.Dataset(variables, coords=coordinates, attrs={"class_names": list(self.classes)})

    def map(
        self,
        scene: Scene,
        path: str | Path,
        options: MapOptions | None = None,
        *,
        overwrite: bool = False,
        workers: int = 1,
        console: Console | None = None,
    ) -> WrittenMap:
        """Write the map of a scene as a Cloud-Optimized GeoTIFF, with style, STAC item and provenance beside it.

        Args:
            scene: Scene of any size.
            path: GeoTIFF to write.
            options: Extra layers, size of windows, memory, device.
            overwrite: Replace a map that exists.
            workers: Processes on this machine.
            console: Where progress is shown.

        Returns:
            The written files and the hectares of each class; its ``explore()`` shows the map.

        Raises:
            InputError: If sensors do not fit, a file cannot be read, or the map exists.
        """
        options = options or MapOptions()
        mapped = map_scene(self.path, scene, Path(path), options, overwrite=overwrite, workers=workers, console=console)
        return WrittenMap(**vars(mapped))

    def embed(self, data: Scene | xr.Dataset, *, device: str = "auto") -> xr.Dataset:
        """Compute the features of every pixel, e.g. for a classifier of scikit-learn.

        Args:
            data: A scene, or a dataset as for :meth:`predict`.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            Dataset with ``embedding (feature, y, x)`` float32, NaN where no sensor saw the ground.

        Raises:
            InputError: If the data do not fit the model.
        """
        if isinstance(data, xr.Dataset):
            with tempfile.TemporaryDirectory(prefix="agrifm-") as folder:
                return self.embed(scene_of(data, Path(folder)), device=device)
        return embed_scene(self.checkpoint, data, MapOptions(device=device))

    def write_embedding(
        self,
        scene: Scene,
        path: str | Path,
        options: EmbedOptions | None = None,
        *,
        overwrite: bool = False,
        workers: int = 1,
        console: Console | None = None,
    ) -> Embedded:
        """Write the features of every pixel of a scene of any size, with STAC item and provenance beside them.

        Args:
            scene: Scene of any size.
            path: GeoTIFF or Zarr store to write.
            options: Data type, size of windows, memory, device.
            overwrite: Replace embeddings that exist.
            workers: Processes on this machine.
            console: Where progress is shown.

        Returns:
            The written files, and the share of numbers that were clipped.

        Raises:
            InputError: If sensors do not fit, a file cannot be read, or the file exists.
        """
        options = options or EMBED_DEFAULTS
        return write_embedding(
            self.path, scene, Path(path), options, overwrite=overwrite, workers=workers, console=console
        )

    def embed_points(self, scene: Scene, points: Any, *, device: str = "auto") -> Any:
        """Compute the features of the pixels in which points lie; only the windows over them are computed.

        Args:
            scene: Scene of any size.
            points: GeoDataFrame of points, or a DataFrame with columns ``lon`` and ``lat`` in degrees.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            DataFrame with the columns of the points and ``e000``, ``e001`` and so on, NaN where a point is outside of
            the scene or was never seen.

        Raises:
            InputError: If the data do not fit the model, or all points are outside.
        """
        return embed_points(self.checkpoint, scene, points, EmbedOptions("float32", device=device)).table


def load(model: str | Path) -> Model:
    """Open a model: a checkpoint of ``agrifm train``, a model on the Hugging Face Hub, or weights of the package.

    Args:
        model: Path of a checkpoint, ``hf://org/name[@revision][/file.safetensors]``, or a name such as ``agrifm-tiny``.
            An address is downloaded once, into the cache of ``huggingface_hub``; a path or name needs no network.

    Returns:
        The model. Opening the file runs no code.

    Raises:
        InputError: If there is no such file, it is no checkpoint, or the hub does not serve it.

    Example:
        >>> import agrifm
        >>> agrifm.load("agrifm-tiny").sensors[0].name
        'S2'
    """
    path = weights_path(Path(model))
    return Model(path, Checkpoint.load(path))


def make_chips(
    scene: Scene,
    labels: str | Path,
    out: str | Path,
    plan: ChipPlan | None = None,
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Cut a scene into labeled chips and write all that :func:`train` needs into a folder.

    Args:
        scene: Scene on a grid in meters.
        labels: Vector file of polygons or points, table of points (CSV, Parquet), or raster of class codes.
        out: Folder to write; ``crops.yaml`` in it is an experiment.
        plan: Class column, size of chips, radius of points, groups, spatial split; see :class:`agrifm.ChipPlan`.
        overwrite: Replace chips that exist.
        console: Where progress is shown.

    Returns:
        Report on chips, areas and leakage between splits.

    Raises:
        InputError: If labels or scene cannot be used, or chips exist.
    """
    return write_chips(scene, Path(labels), Path(out), plan or ChipPlan(), overwrite=overwrite, console=console)


def train(
    experiment: Experiment | str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    console: Console | None = None,
) -> Model:
    """Train a model. Stopped at any moment, the same call resumes.

    Args:
        experiment: Experiment, or the path of its YAML file.
        out: Folder of the run.
        overrides: ``section.key=value`` for a YAML file.
        console: Where progress is shown.

    Returns:
        The best model of the run.

    Raises:
        InputError: If the experiment or its data cannot be used.
    """
    from agrifm.training.fit import fit  # imports Lightning, which takes seconds

    if not isinstance(experiment, Experiment):
        experiment = load_experiment(Path(experiment), overrides)
    path = fit(experiment, Path(out), console=console)
    return load(path)


def evaluate(
    model: Model | str | Path,
    split: str = "test",
    *,
    root: str | Path | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Scores | FractionScores | FieldScores:
    """Score a model on a split of its data, or of other data with the same layout.

    Args:
        model: Model, or the path of its checkpoint.
        split: ``train``, ``val`` or ``test``.
        root: Folder of other data.
        out: Folder of tables and pictures to write; nothing is written without it.
        console: Where progress is shown.

    Returns:
        Scores with ``summary`` and ``classes``.

    Raises:
        InputError: If there is no such split or the data do not fit.
    """
    opened = model if isinstance(model, Model) else load(model)
    checkpoint = opened.checkpoint.with_root(None if root is None else Path(root))
    source = open_sources(checkpoint.experiment, (split,))[split]
    return score(checkpoint.for_split(split), source, None if out is None else Path(out), console=console)


def view(
    *paths: str | Path,
    scene: str | Path | None = None,
    parcels: str | Path | None = None,
    labels: str | Path | None = None,
    port: int = 0,
    height: int = 640,
) -> LiveView:
    """Show maps, a scene, chips, a run or a sample in a browser; in a notebook, the result appears as a frame.

    The page is served by this machine to this machine only, from a thread that ends with the process.

    Args:
        paths: One or two maps, a scene, or a map and a scene; or a folder of chips; or a folder of a run; or
            a sample of ``agrifm area design`` to interpret, which is written with every answer.
        scene: Scene below the maps, by default the images that the provenance of the map names; or of a sample.
        parcels: Vector file of parcels to outline.
        labels: GeoPackage of labels to draw into; it may not exist yet, and is the only file that is written.
        port: Port of this machine; 0 takes a free one.
        height: Pixels of the frame in a notebook.

    Returns:
        The page: its ``address``, and ``close()``, which ends it.

    Raises:
        InputError: If a path is nothing that can be shown, or the port is taken.
    """
    from agrifm.viewer.opening import open_page  # imports a web server, which nothing else here needs
    from agrifm.viewer.server import LiveView

    given = [None if path is None else Path(path) for path in (scene, parcels, labels)]
    page = open_page([Path(path) for path in paths], given[0], given[1], labels=given[2])
    return LiveView(page, port, height)


def scene_of(dataset: xr.Dataset, folder: Path) -> Scene:
    """Open a dataset in memory as a scene: it is written as a netCDF cube and read like any other cube.

    Args:
        dataset: Dimensions ``time``, ``y`` and ``x``, one variable for each band, and a CRS.
        folder: Folder of the cube, which must exist as long as the scene is used.

    Raises:
        InputError: If bands, dates or CRS are not recognized.
    """
    path = folder / "dataset.nc"
    dataset.to_netcdf(path, engine="h5netcdf")
    return open_scene(path)


__all__ = ["Model", "evaluate", "load", "make_chips", "open_scene", "scene_of", "train", "view"]
