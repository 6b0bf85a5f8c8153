"""Files appear whole; text of unknown origin cannot control a terminal; the command never ends in a traceback."""

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from rich.table import Table

from agrifm.errors import InputError, Unreadable, counted, printable, refusing
from agrifm.io import disk_refusal, locked, plain_name, whole, whole_folder, write_whole
from agrifm.progress import Terminal


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder" / "a.tif"
    with suppress(RuntimeError), whole(target) as unfinished:
        unfinished.write_text("half")
        assert unfinished.suffix == ".tif"
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    write_whole(target, "all")
    assert [path.name for path in target.parent.iterdir()] == ["a.tif"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "shards"
    with suppress(RuntimeError), whole_folder(target) as unfinished:
        (unfinished / "one").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(target) as unfinished:
        (unfinished / "one").write_text("1")
    assert (target / "one").read_text() == "1"


def _leave_half_a_file(path):
    with whole(path) as unfinished:
        unfinished.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_a_killed_writer_go_with_the_next_write(tmp_path):
    target = tmp_path / "a.json"
    child = multiprocessing.get_context("fork").Process(target=_leave_half_a_file, args=(target,))
    child.start()
    child.join()
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(target, "all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_another_living_process_writes_is_left_alone(tmp_path):
    other = tmp_path / f".a.{os.getppid()}.part.json"
    other.write_text("of another process")
    write_whole(tmp_path / "a.json", "all")
    assert other.exists()


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "no space left"), (errno.EFBIG, "no space left"), (errno.EROFS, "written")]
)
def test_disk_errors_become_a_sentence(tmp_path, number, text):
    with pytest.raises(InputError, match=text), whole(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_whole(tmp_path / "file" / "a.json", "{}")
    assert disk_refusal(tmp_path, OSError(errno.EIO, "input/output error")) is None


def test_two_processes_cannot_write_one_target(tmp_path):
    target = tmp_path / "map.tif"
    program = (
        "import sys; from pathlib import Path; from agrifm.io import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process"), locked(target):
            pass
        other.kill()
        other.wait()
        with locked(target):
            pass


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\\b", "C:x", "a\x1b[2J", 3, None])
def test_names_from_files_are_plain(name):
    with pytest.raises(InputError, match="plain file name"):
        plain_name(name, "provenance")
    assert plain_name("map_confidence.tif", "provenance") == "map_confidence.tif"


def test_control_characters_are_shown():
    assert printable("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert printable("maïs \u200c می") == "maïs \u200c می"
    assert len(printable("9" * 5_000)) < 1_100
    assert "\x1b" not in str(InputError("a\x1b", found="\x1b", expected="\x1b", repair="\x1b"))


def test_the_terminal_shows_text_as_it_is():
    out = io.StringIO()
    terminal = Terminal(file=out, width=80)
    table = Table("class [/bold]\x1b[31m", title="[bold]\x07")
    table.add_row(":smile: [red]maize[/]\x1b]0;owned\x07")
    terminal.print(table)
    terminal.print("[/]\x1b[2J")
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert ":smile: [red]maize[/]\\x1b]0;o" in text


def test_libraries_are_refused_in_one_sentence():
    with pytest.raises(Unreadable, match="KeyError"), refusing("a.h5", expected="a chip", kind=Unreadable):
        raise KeyError
    with pytest.raises(InputError, match="as it is"), refusing("a.h5", expected="a chip"):
        raise InputError("b", found="as it is", expected="", repair="")


PROGRAM = """
import sys
from agrifm.cli.shell import app, main

@app.command()
def fail():
    {body}

@app.command()
def other(): ...

main()
"""


def _run(body, **options):
    command = [sys.executable, "-c", PROGRAM.format(body=body), "fail"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_an_unknown_failure_is_one_line_and_a_file(tmp_path):
    result = _run("raise ZeroDivisionError('a\\nb')", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert result.returncode == 70
    assert len(result.stderr.splitlines()) == 1
    (trace,) = tmp_path.glob("agrifm-*.txt")
    assert str(trace) in result.stderr
    assert "Traceback" in trace.read_text()


def test_a_full_disk_is_a_sentence_wherever_it_happens():
    result = _run("raise OSError(28, 'No space left on device', '/out/a.tif')")
    assert result.returncode == 2
    assert "no space left" in result.stderr


def test_sigterm_ends_with_143():
    result = _run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert result.returncode == 143
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("chip",), "0 chips"),
        (1, ("chip",), "1 chip"),
        (12345, ("chip",), "12,345 chips"),
        (1, ("class", "classes"), "1 class"),
        (2, ("point lies", "points lie"), "2 points lie"),
        (np.int64(1), ("row",), "1 row"),
    ],
)
def test_a_noun_agrees_with_its_number(count, words, text):
    assert counted(count, *words) == text
