"""What the documentation claims: the README's commands run, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
import torch
from test_weights import released_state
from typer.testing import CliRunner

from agrifm.cli import app
from agrifm.config import Experiment

ROOT = Path(__file__).parents[1]
FRANCE = ROOT.parent / "shared" / "data" / "france_parcels_2018"
DAYS = ("20180123", "20180418", "20180707", "20180826")  # four of ten dates, because JPEG 2000 is slow to open
JOURNEY = "From images to a map"
GENERATED = {"reference/command-line.md", "reference/configuration.md"}  # by tools/reference.py, when the site is built
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sections():
    """Headings of the README with their text."""
    parts = re.split(r"^## (.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(text):
    """Every agrifm command of a text, in order, without comments."""
    text = text.replace("\\\n", " ")
    return [line.split("#")[0].split() for line in re.findall(r"^\.venv/bin/agrifm (.*)$", text, re.MULTILINE)]


def run(found):
    """Run commands here; training is cut short, with few pixels and dates."""
    for words in found:
        if words[0] == "train":
            words += ["--set", "training.workers=0", "--set", "training.epochs=1"]
            words += ["--set", "pixels.max_pixels=400", "--set", "pixels.time_steps=6"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"agrifm {' '.join(words)}\n{result.output}{result.exception}"


def test_the_commands_of_the_readme_run(farm, tmp_path, monkeypatch):
    """In a folder of their own, on a small farm instead of the example, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/example").symlink_to(farm)
    yaml = re.search(r"```yaml\n# crops\.yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    Path("crops.yaml").write_text(yaml[1])
    torch.save(released_state(), "AgriFM.pth")
    found = commands("".join(text for heading, text in sections().items() if heading != JOURNEY))
    assert len(found) >= 7
    run(found)
    assert list(Path("runs/crops/maps").glob("*_confidence.tif"))


@pytest.mark.skipif(not FRANCE.is_dir(), reason=f"needs the French parcels in {FRANCE.parent.name}/{FRANCE.name}")
def test_the_journey_of_the_readme_runs(tmp_path, monkeypatch):
    """From JPEG 2000 files and a shapefile to a map that covers the whole scene."""
    monkeypatch.chdir(tmp_path)
    Path("france/images").mkdir(parents=True)
    for day in DAYS:
        for path in (FRANCE / "jp2").glob(f"{day}_*"):
            Path("france/images", path.name).symlink_to(path)
    for path in (FRANCE / "reference_data").glob("parcels.*"):
        Path("france", path.name).symlink_to(path)
    Path("configs").symlink_to(ROOT / "configs")
    found = commands(sections()[JOURNEY])
    assert [words[0] for words in found] == ["scene", "chips", "train", "evaluate", "map", "reproduce"]
    found[2] += ["--set", "model.branch=pixel", "--set", "model.branch_steps=6"]  # the default, with fewer dates
    run(found)
    with rasterio.open("france.tif") as file:
        assert (file.shape, file.crs.to_epsg()) == ((353, 232), 32631)
        assert (file.read(1) != file.nodata).mean() > 0.9
        assert "vineyard" in file.tags(1).values()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert target in GENERATED or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_names_every_command_and_every_key(tmp_path):
    command = [sys.executable, str(ROOT / "tools/reference.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    commands_page = (tmp_path / "command-line.md").read_text()
    for command in ("train", "map", "scene show", "area estimate", "fractions build"):
        assert f"## `agrifm {command}`" in commands_page
    configuration = (tmp_path / "configuration.md").read_text()
    schema = Experiment.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        for key in definition.get("properties", {}):
            assert f"| `{key}` |" in configuration


def test_every_make_target_is_listed():
    text = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "lint", "bench", "docs"):
        assert re.search(rf"^{target}:.*## ", text, re.MULTILINE), target
