"""Reports: one file, all text escaped, nothing loaded from elsewhere, missing parts listed."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_maps import LABELS, a_map
from test_calibration import CALIBRATED, network
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint
from agrifm.cli import app
from agrifm.errors import InputError
from agrifm.evaluation.scoring import write_scores
from agrifm.products.report import report
from agrifm.tasks.scores import scores
from agrifm.training.history import write_history

EVIL = '<script>alert("x")</script>'
CLASSES = (EVIL, "maize & rye", "grass")


class Reader(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    """Parse a report and check that it is complete and self-contained."""
    found = Reader(path.read_text(encoding="utf-8"))
    assert not found.open
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "object"}
    for tag, attributes in found.tags:
        assert not {"href", "onload", "onclick"} & set(attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
    return found


@pytest.fixture
def run(tmp_path):
    """A checkpoint with scores, history and markup in its name."""
    model = network(classes=CLASSES)
    experiment = model.experiment.model_copy(update={"name": f"{EVIL} & co"})
    path = tmp_path / "run" / "best.safetensors"
    replace(model, experiment=experiment, scores={"mFscore": 0.5}).save(path)
    write_scores(scores([[70, 20, 10], [5, 95, 0], [0, 0, 0]], CLASSES), path.parent / "scores_test")
    for epoch in range(2):
        write_history(path.parent / "history.csv", epoch, {"loss": 1.0 - epoch / 2, "mFscore": 0.4 + epoch / 10})
    return path


def test_a_model_is_told_whole(run, tmp_path):
    report(run, tmp_path / "model.html")
    found = read(tmp_path / "model.html")
    assert EVIL in found.text
    for words in ("Scores: test", "maize & rye", "training", "sha256", "the experiment in full", "95"):
        assert words.lower() in found.text.lower()
    assert "agrifm calibrate" in found.text
    assert "agrifm evaluate" not in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 1
    assert "–" in found.text  # the recall of a class without pixels
    assert not list(tmp_path.glob("*.part"))


def test_what_lacks_is_named_with_its_command(run, tmp_path):
    lone = tmp_path / "elsewhere it's" / "best.safetensors"
    Checkpoint.load(run).save(lone)
    report(lone, tmp_path / "lone.html")
    text = read(tmp_path / "lone.html").text
    for command in ("agrifm evaluate '", "agrifm calibrate '", "agrifm train EXPERIMENT.YAML"):
        assert f"Add it with {command}" in text


def test_calibration_is_told_with_its_numbers(run, tmp_path):
    path = run.with_name("calibrated.safetensors")
    loaded = Checkpoint.load(run)
    thresholds = (0.1,) * len(loaded.experiment.task.names)
    replace(loaded, calibration=replace(CALIBRATED, thresholds=thresholds)).save(path)
    before, after = {"ECE": 0.2, "Brier": 0.3, "NLL": 0.4}, {"ECE": 0.125, "Brier": 0.25, "NLL": 0.375}
    split = {"before": before, "after": after, "sets": {"chips": 0.91, "size": 1.5}, "pixels": 77, "chips": 3}
    path.with_suffix(".json").write_text(json.dumps({"splits": {"test": split}}))
    report(path, tmp_path / "m.html")
    text = read(tmp_path / "m.html").text
    assert "temperature 2.500" in text
    assert "0.125" in text
    assert "agrifm calibrate" not in text


def test_a_map_is_told_whole(tmp_path):
    target = tmp_path / "crops.tif"
    _, arrays = a_map(target, extras=("confidence",))
    result = CliRunner().invoke(app, ["report", str(target), str(tmp_path / "map.html")])
    assert result.exit_code == 0, result.output + str(result.exception)
    found = read(tmp_path / "map.html")
    assert sum(tag == "img" for tag, _ in found.tags) == 2
    for value, name in enumerate(LABELS):
        count = int((arrays["classes"] == value).sum())
        assert name in found.text
        assert f"{count / 100:,.1f}" in found.text  # hectares: pixels of 10 m
    assert "not an estimate of areas" in found.text
    assert "Missing: its provenance." in found.text
    a_map(tmp_path / "bare.tif", extras=())
    report(tmp_path / "bare.tif", tmp_path / "bare.html")
    assert "--confidence" in read(tmp_path / "bare.html").text


def test_other_files_are_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.html"):
        report(run, tmp_path / "report.pdf")
    for name in ("a.txt", "a.tif"):
        (tmp_path / name).write_text("")
    a_map(tmp_path / "map.tif", extras=("confidence",))
    neither = dict.fromkeys(("a.txt", "a.tif", "map_confidence.tif"), "neither a checkpoint nor a map")
    for name, found in {**neither, "b.tif": "no such file", "b.safetensors": "no such file"}.items():
        with pytest.raises(InputError, match=found):
            report(tmp_path / name, tmp_path / "report.html")
