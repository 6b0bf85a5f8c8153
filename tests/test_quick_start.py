"""Commands and imports load only the libraries that they use."""

import subprocess
import sys

import pytest

from agrifm.sensors import S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene

# Runs a statement in a process of its own and ends with the names of the modules that were loaded.
PROGRAM = """
import sys
try:
    {statement}
except SystemExit as ended:
    assert not ended.code, ended.code
print()
print(*sys.modules)
"""
TRAINING = ("lightning", "torchmetrics", "sklearn")
VECTORS = ("geopandas", "pandas", "pyogrio")
HEAVY = ("torch", "scipy", "xarray", "matplotlib", "requests", *TRAINING, *VECTORS)


def loaded(statement, *arguments):
    """The names of the modules that a statement loads, with arguments of the command line."""
    command = [sys.executable, "-c", PROGRAM.format(statement=statement), *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return set(answer.stdout.splitlines()[-1].split())


def loaded_by_command(*arguments):
    return loaded("from agrifm.cli import main; main()", *arguments)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import agrifm", (*HEAVY, "numpy", "rasterio", "pydantic", "typer")),
        ("from agrifm import open_scene, load, Model, evaluate", TRAINING),
    ],
)
def test_imports(statement, unwanted):
    assert loaded(statement).isdisjoint(unwanted)


def test_help():
    assert loaded_by_command("--help").isdisjoint((*HEAVY, "numpy", "rasterio"))


def test_a_scene_is_shown_without_the_libraries_of_models_and_tables(tmp_path):
    land = Landscape(rows=1, columns=1, size=48, frames=(("S2", 3),))
    scene = write_scene(tmp_path / "scene", land, rows=range(1), columns=range(1), sensors=(S2,))
    modules = loaded_by_command("scene", "show", scene)
    assert "rasterio" in modules
    assert modules.isdisjoint(HEAVY)


def test_data_are_checked_without_the_libraries_of_training(config_file):
    modules = loaded_by_command("data", "check", config_file)
    assert "torch" in modules
    assert modules.isdisjoint((*TRAINING, *VECTORS))
