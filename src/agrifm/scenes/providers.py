"""What differs between providers of the same product, in one table."""

from __future__ import annotations


def signed(href: str) -> str:
    """The address under which a file can be read now."""
    return href
