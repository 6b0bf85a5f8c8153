"""Models on a hub, against a server on this machine that answers as the Hugging Face Hub does."""

import base64
import hashlib
import json
import re
import signal
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pystac
import pytest
import rasterio
import torch
import yaml
from conftest import TINY, unit

import agrifm
from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import main
from agrifm.config import parse
from agrifm.config.reading import load as load_experiment
from agrifm.errors import InputError
from agrifm.network.hub import HubAddress, results_folder
from agrifm.products.push import push
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.weight_files.start_weights import start_weights

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra hub")

CLASSES = ["other", "winter <b>wheat</b>", "maize | early"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Files of repositories on their branch main, and the requests that came in."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files = {}  # by repository and name
        self.requests = []
        self.created = []


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            repository, tree, revision = path.removeprefix("api/models/").partition("/tree/")
            files = self.server.files.get(repository)
            if files is None or not tree or revision not in ("main", REVISION):
                return self._refuse("RepoNotFound" if files is None else "RevisionNotFound")
            entries = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
            return self._json(entries)
        repository, _, place = path.partition("/resolve/")
        revision, _, name = place.partition("/")
        if revision not in ("main", REVISION):
            return self._refuse("RevisionNotFound")
        if name not in self.server.files.get(repository, {}):
            return self._refuse("EntryNotFound")
        return self._send(200, self.server.files[repository][name], ETag=f'"{name}"')

    do_HEAD = do_GET

    def do_POST(self):
        path = urlsplit(self.path).path.strip("/")
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "api/repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['organization']}/{wanted['name']}"
            self.server.created.append(wanted)
            self.server.files.setdefault(repository, {})
            return self._json({"url": f"{self.server.address}/{repository}"})
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._json({"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if "/commit/" in path:
            repository = path.removeprefix("api/models/").partition("/commit/")[0]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[repository][entry["value"]["path"]] = content
            url = f"{self.server.address}/{repository}/commit/{REVISION}"
            return self._json({"commitUrl": url, "commitOid": REVISION, "success": True})
        return self._json({"errors": [], "warnings": []})  # api/validate-yaml

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _refuse(self, code):
        self._send(404, b"", **{"X-Error-Code": code, "X-Error-Message": f"no such thing: {code}"})

    def _send(self, status, content, **headers):
        self.send_response(status)
        for name, value in {"X-Repo-Commit": REVISION, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format, *args):
        """Keep test output quiet."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub without repositories, and an empty cache."""
    with Hub() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    values = {
        "name": "farms",
        "data": {"root": "/home/someone/chips", "train": "train.txt", "sensors": ["S2", "Landsat"]},
        "model": {"size": TINY},
        "task": {"classes": CLASSES},
    }
    experiment = parse(values).with_sensors((unit(S2), unit(LANDSAT)))
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    scores = {"mIoU": 0.61234567}
    Checkpoint(experiment, build(experiment).state_dict(), scores, 3, {"torch": "2.13.0"}).save(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; returns its exit code and all that it printed."""
    usual = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["agrifm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out + printed.err

    yield command
    signal.signal(signal.SIGTERM, usual)


def test_a_model_is_published_and_opened_by_its_address(server, checkpoint, run):
    code, printed = run("push", checkpoint, "hf://farm/crops", "--license", "cc-by-4.0", "--private")
    assert code == 0, printed
    assert f"/farm/crops/commit/{REVISION}" in printed
    assert "where your files lay: /home/someone/chips" in printed
    assert "train.txt" not in printed
    assert server.created[0].get("private") or server.created[0]["visibility"] == "private", server.created
    files = server.files["farm/crops"]
    assert sorted(files) == ["README.md", "model.json", "model.safetensors"]
    assert files["model.safetensors"] == checkpoint.read_bytes()

    server.requests.clear()
    model = agrifm.load("hf://farm/crops")
    assert model.classes == tuple(CLASSES)
    weights = Checkpoint.load(checkpoint).weights
    assert model.checkpoint.weights.keys() == weights.keys()
    assert all(torch.equal(model.checkpoint.weights[key], weights[key]) for key in weights)
    agrifm.load(f"hf://farm/crops@{REVISION}/model.safetensors")
    assert sum(request.startswith("GET farm/crops/resolve/") for request in server.requests) == 1
    assert run("show", "hf://farm/crops")[1].startswith("name: farms\n")


def test_the_item_describes_the_model_to_a_catalog(server, checkpoint):
    push(checkpoint, "hf://farm/crops")
    files = server.files["farm/crops"]
    item = pystac.Item.from_dict(json.loads(files["model.json"]))
    asset = item.assets["model"]
    assert asset.href == "./model.safetensors"
    assert asset.extra_fields["file:checksum"] == f"1220{hashlib.sha256(files['model.safetensors']).hexdigest()}"
    assert [band["name"] for band in asset.extra_fields["bands"]] == [*S2.band_ids, *LANDSAT.band_ids]
    [output] = item.properties["mlm:output"]
    assert output["result"]["shape"] == [-1, len(CLASSES), -1, -1]
    assert [entry["title"] for entry in output["classification:classes"]] == CLASSES
    mlm = pytest.importorskip("pystac.extensions.mlm")
    described = mlm.MLMExtension.ext(item)
    assert described.tasks == ["semantic-segmentation"]
    assert [each.name for each in described.input] == ["S2", "Landsat"]


def test_the_card_states_the_facts_of_the_checkpoint(server, checkpoint):
    push(checkpoint, "hf://farm/crops")
    _, header, text = server.files["farm/crops"]["README.md"].decode().split("---\n", 2)
    facts = yaml.safe_load(header)
    assert (facts["license"], facts["library_name"]) == ("unknown", "agrifm")
    assert {"agrifm", "crop-mapping", "s2", "landsat"} <= set(facts["tags"])
    for line in (
        "# farms",
        'model = agrifm.load("hf://farm/crops")',
        "1. winter &lt;b>wheat&lt;/b>",
        "2. maize \\| early",
        "| mIoU | 0.6123 |",
        "| torch | 2.13.0 |",
        "- epoch: 3",
    ):
        assert line in text.splitlines()
    assert "| S2 | B02, B03" in text


def test_a_run_starts_from_a_model_on_a_hub(server, checkpoint, tmp_path):
    push(checkpoint, "hf://farm/crops")
    trained = Checkpoint.load(checkpoint)
    values = trained.experiment.model_dump(mode="json", exclude_none=True) | {"start_from": "hf://farm/crops"}
    experiment = parse(values)
    weights = start_weights(experiment)
    assert any(key.startswith("backbones.") for key in weights)
    assert all(torch.equal(weights[key], trained.weights[key]) for key in weights)

    saved = tmp_path / "experiment.yaml"
    saved.write_text(experiment.to_yaml(), encoding="utf-8")
    assert "start_from: hf://farm/crops\n" in experiment.to_yaml()
    assert load_experiment(saved).start_from == experiment.start_from


def test_a_scene_is_mapped_with_a_model_on_a_hub(server, checkpoint, run, tmp_path):
    push(checkpoint, "hf://farm/crops")
    land = Landscape(rows=1, columns=1, size=48, frames=(("S2", 3), ("Landsat", 2), ("Modis", 2)))
    scene = write_scene(tmp_path / "scene", land, rows=range(1), columns=range(1), sensors=(S2,))
    for address in ("hf://farm/crops", checkpoint):
        out = tmp_path / Path(address).stem / "map.tif"
        code, printed = run("map", address, scene, out, "--seam-limit", 1000)
        assert code == 0, printed
    maps = [rasterio.open(tmp_path / name / "map.tif").read() for name in ("crops", "best")]
    assert np.array_equal(*maps)


@pytest.mark.parametrize("words", [("evaluate",), ("calibrate",)])
def test_results_are_not_written_into_the_cache(server, checkpoint, run, words):
    push(checkpoint, "hf://farm/crops")
    code, printed = run(*words, "hf://farm/crops")
    assert code == 2
    assert "--out" in printed
    assert results_folder(checkpoint) == checkpoint.parent


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://org/name", ("org/name", None, None)),
        (Path("hf://org/name").as_posix(), ("org/name", None, None)),
        ("hf://org/name@v1.0", ("org/name", "v1.0", None)),
        ("hf://org/na.me/a/b.safetensors", ("org/na.me", None, "a/b.safetensors")),
        ("hf://org/name@v1/b.safetensors", ("org/name", "v1", "b.safetensors")),
    ],
)
def test_addresses(text, parts):
    address = HubAddress.parse(text)
    assert (address.repository, address.revision, address.file) == parts
    assert HubAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://name", "another form"),
        ("hf://org/../x", "another form"),
        ("hf://org/name/../x.safetensors", "another form"),
        ("hf://org/name/model.pth", "may hold code"),
        ("hf://org/name/pytorch_model.bin", "may hold code"),
        ("hf://org/none", "RepositoryNotFoundError"),
        ("hf://org/pickles", "pickles\n  found:    no safetensors file"),
        ("hf://org/two", "a.safetensors, b.safetensors"),
        ("hf://org/two@v9", "RevisionNotFoundError"),
        ("hf://org/two/c.safetensors", "EntryNotFoundError"),
    ],
)
def test_what_is_refused(server, text, message):
    server.files["org/pickles"] = {"pytorch_model.bin": b"no"}
    server.files["org/two"] = {"a.safetensors": b"no", "b.safetensors": b"no"}
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        agrifm.load(text)
    assert refused.value.where.startswith("hf://")
    assert not any("pytorch_model" in request for request in server.requests)


def test_a_push_without_a_checkpoint_or_license_name_sends_nothing(server, tmp_path, checkpoint):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no")
    with pytest.raises(InputError, match="other"):
        push(other, "hf://farm/crops")
    with pytest.raises(InputError, match="--license"):
        push(checkpoint, "hf://farm/crops", license_name="My own: license")
    assert not server.requests


def test_a_missing_library_is_named(monkeypatch, run):
    monkeypatch.setattr("agrifm.errors.find_spec", lambda name: None)
    code, printed = run("show", "hf://org/name")
    assert code == 2
    assert "pip install 'agrifm[hub]'" in printed
