"""What the project is packaged with: metadata, recipes, workflows, and code that runs on every system."""

import ast
import os
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import agrifm
from agrifm import io
from agrifm.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "agrifm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask": "dask-core"}
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": [
        "chown",
        "fchown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getloadavg",
        "getpgid",
        "getuid",
        "killpg",
        "mkfifo",
        "nice",
        "posix_fadvise",
        "pread",
        "pwrite",
        "register_at_fork",
        "rename",
        "sched_getaffinity",
        "sched_setaffinity",
        "setsid",
        "statvfs",
        "sync",
        "sysconf",
        "uname",
        "wait",
        "O_CLOEXEC",
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_NONBLOCK",
    ],
    "signal": [
        "SIGALRM",
        "SIGCHLD",
        "SIGHUP",
        "SIGKILL",
        "SIGPIPE",
        "SIGQUIT",
        "SIGUSR1",
        "SIGUSR2",
        "alarm",
        "pause",
        "setitimer",
        "sigwait",
    ],
    "socket": ["AF_UNIX"],
}
GUARDS = ("os.name", "sys.platform", "hasattr")


def split_requirement(text):
    """Name and bounds of a requirement, as pyproject.toml or a conda recipe writes it."""
    name, bounds = re.fullmatch(r"([\w.-]+)\s*(.*)", text).groups()
    return name.lower(), bounds.replace(" ", "")


def steps(workflow):
    """All steps of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow):
    """The commands of a workflow's steps."""
    return [step["run"] for step in steps(workflow) if "run" in step]


def not_portable(source):
    """Uses of what Windows does not have, outside of branches that ask for the system."""
    found = []

    def visit(node):
        if isinstance(node, ast.If | ast.IfExp) and any(guard in ast.unparse(node.test) for guard in GUARDS):
            return
        found.extend(_flaws(node))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def _flaws(node):
    """What is not portable in a node itself."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in POSIX_MODULES]
    if isinstance(node, ast.ImportFrom):
        names = POSIX_NAMES.get(node.module, ())
        return [alias.name for alias in node.names if node.module in POSIX_MODULES or alias.name in names]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        text = f"{node.value.id}.{node.attr}"
        return [text] if node.attr in POSIX_NAMES.get(node.value.id, ()) else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        is_flaw = node.value == "fork" or node.value.startswith(("/dev/", "/tmp"))
        return [node.value] if is_flaw else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _text_without_encoding(node)
    return []


def _text_without_encoding(call):
    """Text files in the encoding of the system, which is not UTF-8 everywhere."""
    count = {"read_text": 0, "write_text": 1}.get(call.func.attr)
    if count is None or len(call.args) != count or call.keywords:
        return []
    return [f"{call.func.attr} without encoding"]


def test_conda_requires_what_the_wheel_requires():
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    wheel = [("python", PROJECT["project"]["requires-python"])]
    for text in PROJECT["project"]["dependencies"]:
        name, bounds = split_requirement(text)
        wheel.append((CONDA_NAMES.get(name, name), bounds))
    assert sorted(map(split_requirement, recipe["requirements"]["run"])) == sorted(wheel)
    host = dict(map(split_requirement, recipe["requirements"]["host"]))
    assert [f"setuptools{host['setuptools']}"] == PROJECT["build-system"]["requires"]
    scripts = [f"{name} = {target}" for name, target in PROJECT["project"]["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_all_versions_are_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    versions = {citation["version"], recipe["context"]["version"], PROJECT["project"]["version"], agrifm.__version__}
    assert len(versions) == 1
    assert citation["license"] == PROJECT["project"]["license"]
    assert "arxiv.org/abs/2505.21357" in citation["references"][0]["url"]
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"agrifm {agrifm.__version__}\n")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_only_read_and_pin_their_actions(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in str(workflow["jobs"])
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_workflows_run_the_tests_and_the_wheel():
    assert ".ci/run" in commands(WORKFLOWS["ci"])
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    install = WORKFLOWS["wheel"]["jobs"]["install"]
    assert {name.partition("-")[0] for name in install["strategy"]["matrix"]["system"]} == {
        "ubuntu", "macos", "windows",
    }  # fmt: skip


def test_the_commands_of_the_wheel_workflow_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [line.split() for line in commands(WORKFLOWS["wheel"]) if line.startswith("agrifm ")]
    quick = [arguments for _, *arguments in words if arguments != ["data", "example", "example"]]  # 80 chips
    assert len(quick) == len(words) - 1 >= 3
    for arguments in quick:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{arguments}: {result.output}"


def test_the_image_is_built_from_files_that_exist():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = []
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        sources += line.split()[:-1]
    sources += re.findall(r"type=bind,source=(\S+?),", text)
    assert {"pyproject.toml", "src", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored
    assert "USER agrifm" in text
    assert 'ENTRYPOINT ["agrifm"]' in text
    assert "agrifm" in PROJECT["project"]["scripts"]
    assert text.count("--constraint /constraints.txt") == text.count("pip install")


def test_every_file_of_the_package_is_in_the_wheel():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    globs = []
    for package, patterns in data.items():
        folder = "/".join(package.split(".")[1:])
        globs += [f"{folder}/{pattern}".lstrip("/") for pattern in patterns]
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()]
    others = [name for name in files if not name.endswith((".py", ".pyc"))]
    for pattern in globs:
        assert [name for name in others if same_folder(name, pattern)], pattern
    for name in others:
        assert any(same_folder(name, pattern) for pattern in globs), name
    wanted = ["example.yaml", "py.typed", "tasks/tables/hcat.csv", "weights/agrifm-tiny.safetensors"]
    assert {*wanted, "viewer/static/vendor/maplibre-gl.mjs"} <= set(others)


def same_folder(name, pattern):
    """Whether a glob of setuptools, in which ``*`` stays inside a folder, matches."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def test_source_distributions_name_files_that_exist():
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        kind, *names = line.split()
        if kind in ("graft", "include"):
            assert all((ROOT / name).exists() for name in names), line


@pytest.mark.parametrize(
    ("source", "flaws"),
    [
        ("import os\nos.getuid()", ["os.getuid"]),
        ("import os\nif os.name != 'nt':\n    os.getuid()", []),
        ("import signal\nsignal.setitimer(0, 1)", ["signal.setitimer"]),
        ("from os import fork\nimport fcntl", ["fork", "fcntl"]),
        ("path = '/dev/shm/x'", ["/dev/shm/x"]),
        ("method = 'fork' if sys.platform == 'linux' else 'spawn'", []),
        ("path.write_text('a')\npath.read_text()", ["write_text without encoding", "read_text without encoding"]),
        ("path.write_text('a', encoding='utf-8')", []),
    ],
)
def test_code_that_windows_cannot_run_is_found(source, flaws):
    assert not_portable(source) == flaws


def test_no_module_needs_posix():
    flaws = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found = not_portable(path.read_text(encoding="utf-8"))
        if found:
            flaws[path.name] = found
    assert not flaws


def test_files_reach_the_disk_on_windows(tmp_path, monkeypatch):
    """Windows flushes a file only if it is open for writing."""
    opened = []
    real_open = os.open

    def noted(path, flags):
        opened.append(flags)
        return real_open(path, flags)

    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "open", noted)
    monkeypatch.setattr(io, "SYNC", True)
    path = tmp_path / "file"
    path.write_bytes(b"a")
    io.sync(path)
    assert opened == [os.O_RDWR]
