"""Where the files of items are, and which folders on this machine they may be in."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from agrifm.addresses import is_address, local, normalized
from agrifm.errors import InputError
from agrifm.stac.validation import not_stac


def roots(*places: str) -> tuple[Path, ...]:
    """Return the folders of local catalogs and item lists, inside which their files must lie."""
    return tuple(Path(place).resolve().parent for place in places if not is_address(place))


def resolve(href: str, base: str, allowed: Sequence[Path], where: str, catalog: Path | None = None) -> str:
    """Resolve a reference in a document to an address (http, https, s3, gs) or an absolute path.

    Args:
        href: Reference as the document states it.
        base: Address or path of the document.
        allowed: Folders in which local files may lie.
        where: Document or item, for the error.
        catalog: Folder to propose to the user if the file lies outside the allowed ones.

    Raises:
        InputError: If it has another scheme or a prefix of GDAL, or is a local file outside ``allowed``.
    """
    if is_address(href):
        return normalized(href, where)
    href = local(href, where)
    if is_address(base):
        parts = urlsplit(base)
        if parts.scheme in ("http", "https"):
            return normalized(urljoin(base, href), where)
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(parts.path), href))
        return normalized(urlunsplit(parts._replace(path=joined, query="", fragment="")), where)
    try:
        path = (Path(base).parent / href).resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links; a name that is too long
        raise not_stac(where, f"{href}: {error}") from error
    if not any(path.is_relative_to(folder) for folder in allowed):
        proposed = path.parent
        # Allowing the root or one of its folders would allow almost everything.
        if catalog is not None and len(catalog.parts) > 2 and path.is_relative_to(catalog):
            proposed = catalog
        raise InputError(
            where,
            found=f"{href}, which is {path}",
            expected=f"a file inside {' or '.join(map(str, allowed)) or 'the folder of the catalog'}",
            repair="move the files beside the list, or, if you trust the list, allow their folder: --set "
            + setting(proposed),
        )
    return str(path)


def setting(folder: Path) -> str:
    """Return the setting that allows a folder of files, quoted for the shell and for YAML where that is needed."""
    if re.fullmatch(r"[\w./-]+", str(folder)):
        return f"folders={folder}"
    quoted_path = json.dumps(str(folder), ensure_ascii=False)
    return shlex.quote(f"folders={quoted_path}")


def self_link(item: Mapping) -> str | None:
    """Return the address of an item by its own statement."""
    for link in item["links"]:
        if link.get("rel") == "self":
            return link["href"]
    return None
