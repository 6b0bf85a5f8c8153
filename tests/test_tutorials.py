"""The tutorials run from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel():
    """One process for all tutorials, because each would need seconds to import torch."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    cells = len(notebook.cells)
    # Names of the tutorial before are gone, and this one begins in a folder of its own.
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    assert any(cell.get("outputs") for cell in notebook.cells[-cells:])
