"""Commands in processes of their own, forked from one that has imported what they need, so that each starts at once."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# A new interpreter needs seconds for these imports, most of them for torch and lightning.
IMPORTS = ["agrifm.cli", "agrifm.maps.map_scene", "agrifm.training.fit", "agrifm.training.mean_teacher"]

# As it is before any test: training in this process leaves variables that would make it part of a group of processes.
ENVIRONMENT = dict(os.environ)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTS)


class Command:
    """A command of ``agrifm`` that runs in a process of its own, with its output in a file.

    Args:
        words: Arguments of the command line.
        log: File for standard output and standard error.
        before: Function that the process calls before the command; it must be importable.
        environment: Additional environment variables.
    """

    def __init__(self, words, log, before=None, environment=None):
        self.log = log
        words = [str(word) for word in words]
        environment = {**ENVIRONMENT, **(environment or {})}
        self._process = _context.Process(target=_run, args=(words, str(log), before, environment))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Exit status, or None while the command runs."""
        return self._process.exitcode

    def wait(self, seconds=120):
        """Exit status once the command has ended."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"the command still runs after {seconds} s: {self.text()}")
        return self._process.exitcode

    def send(self, number):
        """Send a signal."""
        os.kill(self.pid, number)

    def text(self):
        """What the command has printed so far."""
        return self.log.read_text() if self.log.exists() else ""


def _run(words, log, before, environment):
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    _write_output_to(log)
    # Whoever starts a command from a terminal has Python's own reaction to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _call_command(words, before)


def _write_output_to(log):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _call_command(words, before):
    if before is not None:
        before()
    from agrifm.cli import main

    sys.argv = ["agrifm", *words]
    main()


def train_in_processes(words, folder, count=2):
    """Train in several processes that find each other as those of a cluster do.

    Args:
        words: Arguments of ``agrifm train`` without the number of devices.
        folder: Folder for the output of the processes.
        count: Number of processes.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    words = ["train", *words, "--set", f"training.devices={count}"]
    folder.mkdir(parents=True, exist_ok=True)
    commands = []
    for rank in range(count):
        environment = {**cluster, "LOCAL_RANK": str(rank), "RANK": str(rank)}
        commands.append(Command(words, folder / f"rank_{rank}.log", environment=environment))
    for command in commands:
        assert command.wait(120) == 0, command.text()


def train_with_restarts(words, folder, count=2, before=None):
    """Train in several processes that are started again when one of them dies, as ``torchrun`` does.

    Args:
        words: Arguments of ``agrifm train``, with the number of devices.
        folder: Folder for the output of the processes.
        count: Number of processes.
        before: Function that each process calls before the command; it must be importable.

    Returns:
        What the processes have printed.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder.mkdir(parents=True)
    config = LaunchConfig(
        *(1, 1, count),
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="forkserver",
    )
    arguments = (["train", *[str(word) for word in words]], str(folder), before)
    # Outside of the main thread, torch leaves the reactions of this process to signals as they are.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(elastic_launch(config, _run_restarted), *arguments).result(120)
    return "".join(path.read_text() for path in sorted(folder.iterdir()))


def _run_restarted(words, folder, before):
    name = f"start_{os.environ['TORCHELASTIC_RESTART_COUNT']}_rank_{os.environ['RANK']}.log"
    _write_output_to(os.path.join(folder, name))
    try:
        _call_command(words, before)
    except SystemExit as ended:
        # A worker of torch returns; its exit would be taken for a failure.
        if ended.code not in (None, 0):
            raise


def second_dies_once():
    """Let the second of two processes die in the second epoch, unless it was started again."""
    from agrifm.training.mean_teacher import MeanTeacher

    training_step = MeanTeacher.training_step

    def dies(self, batch, number):
        place = (os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"], self.current_epoch, number)
        if place == ("0", "1", 1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, batch, number)

    MeanTeacher.training_step = dies


def slow_audit():
    """Let the audit of a map take longer than any test waits, so that the command is stopped before it ends."""
    from agrifm.maps import map_scene

    map_scene.audit = lambda *_: time.sleep(100)
