"""Where the curves of a training run go: the loggers of Lightning that an experiment names."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from agrifm.config import Experiment
from agrifm.errors import InputError, refusing

SERVICES = ("wandb", "mlflow")  # libraries of their own, which are imported only when they are named
PROJECT = "agrifm"
REPAIR = "check its address and login, or name another logger; the run then resumes."


def refuse_missing(experiment: Experiment) -> None:
    """Refuse loggers whose library is not installed. Without a network, nothing is logged.

    Raises:
        InputError: If one is missing; it names the command that installs it.
    """
    for name in experiment.training.logger:
        if experiment.network and name in SERVICES and find_spec(name) is None:
            raise InputError(
                "training.logger",
                found=f"{name}, which is not installed",
                expected="a logger that is installed; tensorboard and csv always are",
                repair=f"run pip install {name}, or name another logger.",
            )


def make_loggers(experiment: Experiment, out: Path) -> list[Logger]:
    """Build the loggers of an experiment.

    Args:
        experiment: Names them in ``training.logger``, and gives its own name to runs of services.
        out: Folder of the run. Files of all loggers lie below it, those of MLflow unless
            ``MLFLOW_TRACKING_URI`` names a server.

    Raises:
        InputError: If a service refuses the run.
    """
    loggers = []
    for name in experiment.training.logger:
        loggers.append(_make(name, experiment, out))
    return loggers


def _make(name: str, experiment: Experiment, out: Path) -> Logger:
    if name == "tensorboard":
        return TensorBoardLogger(out, name="tensorboard", version="")
    if name == "csv":
        # A resumed run writes to a new folder below, because the logger begins with an empty file.
        return CSVLogger(out, name="csv")
    settings = experiment.model_dump(mode="json", include={"seed", "augment", "model", "training"})
    with refusing(f"training.logger: {name}", expected="a service that answers and a valid login", repair=REPAIR):
        logger = _of_service(name, experiment.name, out)
        # Runs of a service are compared by their settings; beside files there is experiment.yaml.
        logger.log_hyperparams(settings)
    return logger


def _of_service(name: str, run: str, out: Path) -> Logger:
    if name == "wandb":
        return WandbLogger(name=run, save_dir=out, project=PROJECT)
    database = f"sqlite:///{(out / 'mlflow.db').absolute().as_posix()}"
    return MLFlowLogger(PROJECT, run_name=run, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", database))
