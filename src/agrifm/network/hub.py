"""Models on a hub, by addresses ``hf://org/name[@revision][/file]``; the library of the hub is optional.

Only safetensors files are downloaded: other files of weights may hold code. Nothing is contacted unless an address is
given, and the hub's own environment variables (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``) hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agrifm.errors import InputError, reason, refuse_missing_library

SUFFIX = ".safetensors"
MODEL = f"model{SUFFIX}"  # name of the weights in a repository
FORM = "hf://ORGANIZATION/NAME[@REVISION][/FILE.safetensors]"
# A path from 'hf://org/name' has lost one of the slashes.
_ADDRESS = re.compile(
    r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>[^@]+))?", re.ASCII
)
_CACHED = re.compile(r"models--.+--.+")  # folder of a repository in the cache of huggingface_hub


@dataclass(frozen=True)
class HubAddress:
    """Place of a model on a hub.

    Args:
        repository: ``organization/name``.
        revision: Branch, tag or commit; None takes the default branch.
        file: File in the repository; None takes the only safetensors file, or ``model.safetensors``.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address.

        Raises:
            InputError: If it has another form, or names a file that is not safetensors.
        """
        match = _ADDRESS.fullmatch(text)
        file = match["file"] if match else None
        has_parts = match is not None and ".." not in text and "//" not in (file or "") and "\\" not in text
        if match is None or not has_parts:
            raise InputError(text, found="another form of address", expected=FORM, repair="correct the address.")
        if file is not None and PurePosixPath(file).suffix != SUFFIX:
            raise InputError(
                text,
                found=f"the file {file}",
                expected=f"a file that ends in {SUFFIX}: other weights from a hub may hold code",
                repair="name a safetensors file, or leave the file out.",
            )
        return cls(match["repository"], match["revision"], file)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"hf://{self.repository}{revision}{file}"


def is_hub(path: Path | str) -> bool:
    """Whether a path is meant as an address of a hub."""
    text = path.as_posix() if isinstance(path, Path) else path
    return text.startswith("hf:/")


def local_file(path: Path | str) -> Path:
    """Return a local path unchanged, and the downloaded copy of a file on a hub.

    Args:
        path: Path, or ``hf://org/name[@revision][/file]``.

    Raises:
        InputError: If the address is wrong, the library of the hub is missing, or the hub does not serve the file.
    """
    if not is_hub(path):
        return Path(path)
    address = HubAddress.parse(shown(Path(path)))
    with _asking(address):
        from huggingface_hub import HfApi, hf_hub_download

        file = address.file
        if file is None:
            files = HfApi(endpoint=_endpoint(), library_name="agrifm").list_repo_files(
                address.repository, revision=address.revision
            )
            file = _weights_among(files, address)
        copy = hf_hub_download(
            address.repository, file, revision=address.revision, endpoint=_endpoint(), library_name="agrifm"
        )
    return Path(copy)


def _weights_among(files: list[str], address: HubAddress) -> str:
    """The file of weights in a repository.

    Raises:
        InputError: If there is none, or several that could be meant.
    """
    weights = [name for name in files if name.endswith(SUFFIX)]
    if MODEL in weights:
        return MODEL
    if len(weights) == 1:
        return weights[0]
    raise InputError(
        address,
        found=", ".join(weights[:5]) or "no safetensors file",
        expected=f"one safetensors file, or {MODEL}",
        repair=f"name one: {FORM}.",
    )


def upload(address: HubAddress, files: Mapping[str, Path | str], *, private: bool) -> str:
    """Create a repository, if it does not exist, and write files to it in one commit.

    Args:
        address: Repository and, if given, branch.
        files: Local files by their name in the repository; texts are given as they are.
        private: Whether a new repository is private.

    Returns:
        Address of the commit.

    Raises:
        InputError: If the library of the hub is missing, or the hub refuses.
    """
    with _asking(address):
        from huggingface_hub import CommitOperationAdd, HfApi

        operations = []
        for name, content in files.items():
            source = content.encode() if isinstance(content, str) else content
            operations.append(CommitOperationAdd(name, source))
        api = HfApi(endpoint=_endpoint(), library_name="agrifm")
        api.create_repo(address.repository, private=private, exist_ok=True)
        commit = api.create_commit(
            address.repository, operations, commit_message="Model of AgriFM", revision=address.revision
        )
    return commit.commit_url


def results_folder(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint, in which its results are written by default.

    Raises:
        InputError: If the checkpoint is a copy in the cache of the hub's library.
    """
    if "snapshots" in checkpoint.parts and any(_CACHED.fullmatch(part) for part in checkpoint.parts):
        raise InputError(
            "--out",
            found="no path, and a model from a hub, whose copy lies in a cache",
            expected="a path outside of the cache",
            repair="give one with --out.",
        )
    return checkpoint.parent


def shown(path: Path) -> str:
    """Text of a path; an address of a hub has both slashes again, of which a path keeps one."""
    text = path.as_posix()
    if is_hub(text):
        return f"hf://{text.removeprefix('hf:').lstrip('/')}"
    return str(path)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def _asking(address: HubAddress) -> Generator[None]:
    """Turn every failure of the hub, or of its library, into one refusal.

    Raises:
        InputError: Names the address, and what the hub answered.
    """
    purpose = "which reads and writes models on a hub"
    refuse_missing_library(address, "huggingface_hub", purpose, "run pip install 'agrifm[hub]'.")
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the library and of HTTP, which has many kinds
        raise InputError(
            address,
            found=f"{type(error).__name__}: {reason(error)}",
            expected="a repository, revision and file that exist, and the right to use them",
            repair="check the address and the network; log in with 'hf auth login' or HF_TOKEN if it is private.",
        ) from error
