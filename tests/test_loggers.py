"""Where the curves of a run go: files that Lightning writes, and services that are there or refused by name."""

import csv
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import ValidationError
from rich.console import Console
from test_run_state import FARM, plan

from agrifm.config.sections import TrainingConfig
from agrifm.errors import InputError
from agrifm.synthetic.chips import write_example
from agrifm.training import loggers
from agrifm.training.fit import fit

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    root = tmp_path_factory.mktemp("farm")
    write_example(root, FARM)
    return root


def experiment(farm, epochs, *names):
    made = plan(farm, epochs)
    training = TrainingConfig.model_validate({**made.training.model_dump(), "logger": list(names)})
    return made.model_copy(update={"training": training})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_name_is_a_list_of_one_and_tensorboard_is_the_default():
    assert TrainingConfig().logger == ("tensorboard",)
    assert TrainingConfig(logger="csv").logger == ("csv",)
    assert TrainingConfig(logger=["csv", "mlflow"]).logger == ("csv", "mlflow")
    for wrong in ("neptune", [], ["csv", "csv"]):
        with pytest.raises(ValidationError, match="logger"):
            TrainingConfig(logger=wrong)


def test_curves_in_csv_survive_resuming_and_another_logger_resumes(farm, tmp_path):
    fit(experiment(farm, 1, "csv"), tmp_path, console=QUIET)
    assert not (tmp_path / "tensorboard").exists()
    first = rows(tmp_path / "csv" / "version_0" / "metrics.csv")
    losses = [float(row["loss"]) for row in first if row.get("loss")]
    assert losses
    assert all(loss > 0 for loss in losses)
    fit(experiment(farm, 2, "csv", "tensorboard"), tmp_path, console=QUIET)
    assert rows(tmp_path / "csv" / "version_0" / "metrics.csv") == first
    assert {row["epoch"] for row in rows(tmp_path / "csv" / "version_1" / "metrics.csv") if row["epoch"]} == {"1"}
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("name", loggers.SERVICES)
def test_a_missing_library_is_refused_before_the_run(farm, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"{name}, which is not installed") as caught:
        fit(experiment(farm, 1, "csv", name), tmp_path / "run", console=QUIET)
    assert f"pip install {name}" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_wandb_gets_settings_and_curves(farm, tmp_path, monkeypatch):
    """Lightning's own logger, with a stand-in for the library of the service."""
    wandb, run = stand_in_for_wandb(monkeypatch)
    fit(experiment(farm, 1, "wandb"), tmp_path, console=QUIET)
    assert (wandb.started["project"], wandb.started["name"]) == ("agrifm", "test")
    assert wandb.started["dir"] == str(tmp_path)
    assert run.settings["training"]["epochs"] == 1
    assert run.settings["seed"] == 0
    assert any("loss" in row for row in run.logged)


def test_a_service_that_refuses_ends_in_one_message(farm, tmp_path, monkeypatch):
    wandb, _ = stand_in_for_wandb(monkeypatch)

    def refuse(**_):
        raise RuntimeError("no API key")

    wandb.init = refuse
    with pytest.raises(InputError, match="no API key") as caught:
        fit(experiment(farm, 1, "wandb"), tmp_path, console=QUIET)
    assert "name another logger" in str(caught.value)


def stand_in_for_wandb(monkeypatch):
    """A module with what Lightning uses of wandb, and the run that it starts."""
    wandb = ModuleType("wandb")
    wandb.__spec__ = ModuleSpec("wandb", None)
    run = SimpleNamespace(settings={}, logged=[], name="test", id="1")
    run.config = SimpleNamespace(update=lambda values, **_: run.settings.update(values))
    run.log = run.logged.append
    run.define_metric = lambda *_, **__: None

    def init(**options):
        wandb.started = options
        return run

    wandb.run, wandb.init = None, init
    parts = {"wandb": wandb}
    for name, kind in (("wandb.sdk", None), ("wandb.sdk.lib", "RunDisabled"), ("wandb.wandb_run", "Run")):
        parts[name] = ModuleType(name)
        if kind is not None:
            setattr(parts[name], kind, type(kind, (), {}))
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return wandb, run


def test_mlflow_gets_settings_and_curves(farm, tmp_path, monkeypatch):
    """The real library, where it is installed, with a database in place of a server."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fit(experiment(farm, 1, "mlflow"), tmp_path, console=QUIET)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("agrifm").experiment_id])
    assert run.info.run_name == "test"
    assert run.data.params["training/epochs"] == "1"
    assert run.data.metrics["loss"] > 0
