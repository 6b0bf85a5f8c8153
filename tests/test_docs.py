"""What the documentation claims: the README's commands run, its links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch
from test_weights import released_state
from typer.testing import CliRunner

from agrifm.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """Every agrifm command of the README, in order, without comments."""
    lines = re.findall(r"^\.venv/bin/agrifm (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [line.split("#")[0].split() for line in lines]


def test_the_commands_of_the_readme_run(farm, tmp_path, monkeypatch):
    """In a folder of their own, on a small farm instead of the example, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/example").symlink_to(farm)
    yaml = re.search(r"```yaml\n# crops\.yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    Path("crops.yaml").write_text(yaml[1])
    torch.save(released_state(), "AgriFM.pth")
    found = commands()
    assert len(found) >= 7
    for words in found:
        if words[0] == "train":
            words += ["--set", "training.workers=0", "--set", "training.epochs=1"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"agrifm {' '.join(words)}\n{result.output}{result.exception}"
    assert list(Path("runs/crops/maps").glob("*_confidence.tif"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_target_is_listed():
    text = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "lint", "bench", "docs"):
        assert re.search(rf"^{target}:.*## ", text, re.MULTILINE), target
