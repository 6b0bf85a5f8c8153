"""What tests of the viewer share: a farmland with two maps, a running server, and a browser."""

import json
import shutil
import socket
import threading
from contextlib import contextmanager

import numpy as np
import rasterio
import torch
import uvicorn
from conftest import unit
from odc.geo.geobox import GeoBox
from rasterio.warp import transform
from scipy.ndimage import gaussian_filter

from agrifm.checkpoint import Checkpoint
from agrifm.config import parse
from agrifm.io import sha256
from agrifm.maps.files.legend import NODATA, Legend
from agrifm.maps.files.writer import products, write_cog
from agrifm.maps.provenance import Provenance
from agrifm.opening import open_scene
from agrifm.pixels.ensemble import Fitted, PixelEnsemble
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.learners import fit_member
from agrifm.sample import Season, collate
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.document import scene_to_dict
from agrifm.scenes.tile import Area
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene

TOKEN = "a-secret"
LAND = Landscape(seed=4, rows=2, columns=3, size=96, frames=(("S2", 8), ("Landsat", 4)))
LEGEND = Legend(tuple(name for name, _ in CLASSES), tuple(color for _, color in CLASSES))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_OPTIONS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]


def write_map(path, truth, grid, seed, noise):
    """A map as a model would make it from the truth: right within most fields, wrong in spots."""
    rng = np.random.default_rng(seed)
    scores = []
    for value in range(len(CLASSES)):
        scores.append(2.2 * (truth == value) + noise * gaussian_filter(rng.normal(size=truth.shape), 3))
    share = np.exp(scores) / np.exp(scores).sum(0)
    percent = np.rint(100 * share).astype(np.uint8)
    classes = share.argmax(0).astype(np.uint8)
    gap = (slice(0, 20), slice(0, 25))
    percent[:, *gap] = NODATA
    classes[gap] = NODATA
    sets = np.concatenate([(percent >= 10).sum(0)[None], percent >= 10]).astype(np.uint8)
    sets[:, *gap] = NODATA
    arrays = {
        "classes": classes[None],
        "probabilities": percent,
        "confidence": percent.max(0)[None],
        "observations": rng.integers(1, 9, (2, *truth.shape)).astype(np.uint8),
        "sets": sets,
    }
    for product in products(LEGEND, ("S2", "Landsat")):
        if product.key in arrays:
            write_cog(product.path(path), grid, product, [(0, 0, arrays[product.key])])
    return arrays


def write_ground(folder):
    """Write a scene and two maps of it; return the folder, the grid and the arrays of the first map."""
    write_scene(folder / "images", LAND, rows=slice(None), columns=slice(None))
    with rasterio.open(folder / "images" / "truth.tif") as file:
        truth = file.read(1)
        grid = GeoBox.from_rio(file)
    arrays = write_map(folder / "map.tif", truth, grid, 1, 6.0)
    write_map(folder / "earlier.tif", truth, grid, 2, 9.0)
    return folder, grid, arrays


def experiment_of_ground():
    """An experiment on the sensors and classes of the ground, with a small network."""
    size = {"width": 8, "depths": [1, 1], "heads": [1, 1], "window": [1, 2, 2]}
    values = {
        "data": {"root": "data", "sensors": ["S2", "Landsat"]},
        "model": {"size": size},
        "task": {"classes": [name for name, _ in CLASSES]},
    }
    return parse(values).with_sensors([unit(S2), unit(LANDSAT)])


def write_model(folder):
    """Write classifiers of pixels as the model of the first map; for Landsat alone it has others."""
    scene = open_scene(folder / "images")
    with rasterio.open(folder / "images" / "truth.tif") as file:
        truth = file.read(1)
    whole = Area(0, 0, *truth.shape)
    batch = collate([cut_sample(scene.read(whole), whole)])
    pixels = np.random.default_rng(0).choice(truth.size, 600, replace=False)
    features = PixelFeatures((S2, LANDSAT), Season(0, 365), steps=6, indices=False, statistics=False)
    members = []
    for name, sensors, weight in (
        ("lda", ("S2", "Landsat"), 0.75),
        ("logistic", ("S2", "Landsat"), 0.25),
        ("lda", ("Landsat",), 0.5),
        ("logistic", ("Landsat",), 0.5),
    ):
        values = features.of_sample(batch, 0, sensors, truth.shape, torch.from_numpy(pixels))
        module = fit_member(name, values.numpy(), truth.ravel()[pixels], 0)
        members.append(Fitted(name, sensors, weight, module))
    ensemble = PixelEnsemble(features, len(CLASSES), range(len(CLASSES)), members)
    model = folder / "model.safetensors"
    Checkpoint(experiment_of_ground().quick(), {}, pixels=ensemble, pixel_share=1.0).save(model)
    write_provenance(folder / "map.tif", scene, model)


def write_provenance(path, scene, model=None, options=None):
    """Write a provenance file beside a map, as far as it must be filled."""
    zeros = "0" * 64
    values = {
        "format": "agrifm-passport-1",
        "files": {path.name: zeros},
        "model": {"path": str(model), "sha256": zeros if model is None else sha256(model)},
        "versions": {},
        "machine": {},
        "experiment": {"task": {}},
        "scene": scene_to_dict(scene),
        "inputs": {},
        "options": options or {},
        "seams": {"ratio": None, "errors": 0, "agreement": None, "pixels": 0},
    }
    Provenance.beside(path).write_text(json.dumps(values))


def place_of(grid, row, column):
    """Longitude and latitude of the middle of a pixel."""
    x, y = grid.affine * (column + 0.5, row + 0.5)
    longitude, latitude = transform(str(grid.crs), "EPSG:4326", [x], [y])
    return longitude[0], latitude[0]


@contextmanager
def running(app):
    """Serve an application in a thread; yields its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # the browser may ask before the thread runs
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
        finally:
            server.should_exit = True
            thread.join(60)


@contextmanager
def browser_page(playwright, problems, requests, width=1280, height=800):
    """Open a page in Chromium; errors of the page and its requests are appended to the lists."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)  # machines without a GPU draw slowly
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        yield page
        browser.close()


def drawn(page):
    page.wait_for_selector("#stage[aria-busy=false]")
