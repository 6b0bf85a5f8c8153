"""Small farmland shared by the tests; one per test process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in the processes that tests start

import pytest
import torch
import yaml

from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2, Statistics
from agrifm.synthetic.chips import Landscape, write_example

torch.set_num_threads(1)
# Files that take longest come first, so that no process is left alone with one of them at the end.
LONGEST = ("test_tutorials", "test_embed", "test_pretrain", "test_map_stops", "test_docs", "test_mapping", "test_real")
FARM = Landscape(rows=2, columns=7, size=48, frames=(("S2", 6), ("Landsat", 4), ("Modis", 5)))


def pytest_collection_modifyitems(items):
    """Begin with the longest files."""

    def place(item):
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def farm(tmp_path_factory):
    """Root of an example data set of 48-pixel chips: S2 48 x 48, Landsat 16 x 16, Modis 1 x 1."""
    root = tmp_path_factory.mktemp("farm")
    write_example(root, FARM)
    return root


# Pixel classifiers that are fitted within a second.
FEW_PIXELS = {"members": ["lda"], "time_steps": 8, "max_pixels": 400}
TINY = {"width": 16, "depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8], "drop_path": 0.1}


@pytest.fixture
def settings(farm):
    """An experiment as plain values, small enough to train within seconds."""
    names = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
    return {
        "name": "test",
        "seed": 3,
        "data": {"root": str(farm), "sensors": ["S2", "Landsat"]},
        "augment": {"crop": 24},
        "model": {"size": TINY},
        "pixels": None,  # the network alone; test_pixels.py has both
        "task": {"classes": names},
        "training": {"epochs": 2, "batch_size": 2, "workers": 0, "accelerator": "cpu"},
    }


@pytest.fixture
def config_file(settings, tmp_path):
    """The same experiment as a YAML file."""
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def unit(sensor):
    """The sensor with mean 0 and deviation 1."""
    count = len(sensor.bands)
    return sensor.with_statistics(Statistics((0.0,) * count, (1.0,) * count, "test"))


SENSORS = tuple(unit(sensor) for sensor in (S2, LANDSAT, MODIS))


def random_sample(seed=0, frames=6, size=(24, 28), without=(), clear=0.7):
    """Normal noise for three sensors over one footprint, with random gaps."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    shapes = {"S2": (frames, 10, h, w), "Landsat": (5, 6, h // 3, w // 3), "Modis": (7, 7, 2, 2)}
    images = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    valid = {name: torch.rand(len(x), *x.shape[2:], generator=generator) < clear for name, x in images.items()}
    label = torch.randint(0, 5, size, generator=generator)
    sample = Sample(images, valid=valid, label=label, name=f"sample{seed}")
    for name in without:
        sample = sample.without(name)
    return sample


def unequal_samples():
    """Samples that differ in frames and sensors."""
    return [
        random_sample(0),
        random_sample(1, frames=13),
        random_sample(2, without=("S2",)),
        random_sample(3, frames=1, without=("Landsat", "Modis")),
        random_sample(4, frames=7),
    ]
