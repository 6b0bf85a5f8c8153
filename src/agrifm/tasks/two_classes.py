"""Labels have to hold two classes, because one class leaves nothing to learn."""

from __future__ import annotations

from agrifm.errors import InputError, counted


def refuse_one_class(count: int, where: object, repair: str) -> None:
    """Refuse labels that hold fewer than two classes.

    Args:
        count: Number of different classes.
        where: Where the labels are.
        repair: What to do about it.

    Raises:
        InputError: If they do.
    """
    if count < 2:
        raise InputError(
            where, found=counted(count, "class", "classes"), expected="at least two classes", repair=repair
        )
