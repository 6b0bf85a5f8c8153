"""What the version before wrote still opens: a checkpoint, chips, a map and its provenance."""

import gzip
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from agrifm.checkpoint import Checkpoint
from agrifm.config.migration import migrate
from agrifm.data.folder import ChipFolder
from agrifm.maps.predict_chips import predict
from agrifm.products.reproduce import reproduce
from agrifm.sensors import S2
from agrifm.tensor_files import read_safetensors
from agrifm.weight_files.start_weights import SHIPPED

BEFORE = Path(__file__).parent / "data" / "before"


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A copy of the files in a folder of this machine, which the provenance names."""
    folder = tmp_path_factory.mktemp("before") / "before"
    shutil.copytree(BEFORE, folder)
    weights = folder / "best.safetensors"
    weights.write_bytes(gzip.decompress(weights.with_suffix(".safetensors.gz").read_bytes()))
    provenance = folder / "map" / "map.passport.json"
    provenance.write_text(provenance.read_text().replace("FOLDER", str(folder)))
    return folder


def test_the_checkpoint_opens_and_predicts(before, tmp_path):
    checkpoint = Checkpoint.load(before / "best.safetensors")
    assert checkpoint.experiment.task.names == ("other", "wheat", "maize")
    chips = ChipFolder.in_folder(before / "chips" / "h5_samples", checkpoint.experiment.data.sensors)
    paths = predict(checkpoint, chips, tmp_path)
    assert {path.name for path in paths} == {"a.tif", "b.tif"}


def test_configurations_of_checkpoints_are_migrated_without_a_warning(before):
    """Nobody can edit them. Each of their values is found under its present name."""
    for path in (before / "best.safetensors", SHIPPED / "agrifm-tiny.safetensors"):
        stated = json.loads(read_safetensors(path)[1]["experiment"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            written = json.loads(Checkpoint.load(path).experiment.model_dump_json())
            present = migrate(stated, path, warn=False)
        assert "turns" in stated["augment"]
        assert "rot90" in present["augment"]
        for section, values in present.items():
            for key, value in (values if isinstance(values, dict) else {}).items():
                assert written[section][key] == value, f"{section}.{key}"


def test_the_chips_open(before):
    chips = ChipFolder.from_list(before / "chips" / "h5_samples", before / "chips" / "data_lists" / "test.txt", (S2,))
    sample = chips.read(1)
    assert sample.images["S2"].shape == (2, 10, 24, 24)
    assert sample.dates["S2"].tolist() == [17600, 17650]
    assert sample.label is not None
    assert sorted(np.unique(sample.label)) == [-1, 0, 1, 2]


def test_the_map_is_made_again_from_its_provenance(before, tmp_path):
    provenance = before / "map" / "map.passport.json"
    result = reproduce(provenance, before / "best.safetensors", tmp_path / "again")
    with rasterio.open(before / "map" / "map.tif") as old, rasterio.open(tmp_path / "again" / "map.tif") as new:
        assert (old.read() == new.read()).mean() > 0.99  # processors round sums differently
    assert set(result.files) >= {"map.tif", "map_confidence.tif"}
