"""Configuration keys of earlier versions. Every configuration passes through ``migrate``: from YAML and checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from agrifm.errors import InputError, RenamedKeyWarning, printable

# By section: the earlier name of a key and its present one. Positions in lists are left out.
RENAMED_KEYS: dict[str, dict[str, str]] = {
    "": {},
    "data": {"check": "check_chips"},
    "data.shards": {
        "lap": "epoch_size",
        "shares": "sampling_weights",
        "mix": "sensor_sampling_weights",
        "window": "shuffle_window",
        "lost": "damaged",
    },
    "augment": {"turns": "rot90", "hide": "mask_frames"},
    "model": {"calendar": "time_steps", "checkpointing": "gradient_checkpointing"},
    "task": {"pixel": "pixel_size", "partial": "partial_labels"},
    "task.classes": {"rest": "other"},
    "task.groups": {"of": "classes"},
    "task.loss": {"false_alarms": "alpha", "misses": "beta"},
    "task.crop_loss": {"false_alarms": "alpha", "misses": "beta"},
    "teacher": {"ramp": "ramp_up", "trust": "confidence_weighting"},
    "training": {
        "encoder_rate": "encoder_lr_scale",
        "clip": "gradient_clip_val",
        "spike": "gradient_spike_factor",
        "accumulate": "accumulate_grad_batches",
        "ema": "ema_decay",
        "limit": "limit_train_batches",
    },
}
# By present key: the earlier value and its present one.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    "data.shards.damaged": {"count": "skip"},
    "model.decoder": {"light": "pyramid"},
}


def migrate(values: Any, source: object, *, warn: bool = True) -> Any:
    """Return the configuration with the present names of keys and values.

    Args:
        values: Plain values of a whole experiment.
        source: File or option that they come from; named in the warning.
        warn: Warn of earlier names. Callers switch it off for values that users cannot edit, as in checkpoints.

    Raises:
        InputError: If a key is given under both names.
    """
    renamed: dict[str, str] = {}
    current = _migrate_section(values, "", source, renamed)
    if warn:
        _warn(renamed, source)
    return current


def migrate_override(text: str) -> str:
    """Return ``section.key=value`` with the present name of the key; values pass through ``migrate`` later."""
    key, equals, value = text.partition("=")
    renamed: dict[str, str] = {}
    section = ""
    for name in key.strip().split("."):
        place = _join(section, name)
        current = RENAMED_KEYS.get(section, {}).get(name, name)
        section = _join(section, current)
        if current != name:
            renamed[place] = section
    if not renamed:
        return text
    _warn(renamed, f"--set {text}")
    return f"{section}{equals}{value}"


def _migrate_section(values: Any, section: str, source: object, renamed: dict[str, str]) -> Any:
    """Migrate a section or a list of sections; what has been renamed is added to ``renamed``."""
    if isinstance(values, list):
        sections = []
        for entry in values:
            is_section = isinstance(entry, Mapping)
            sections.append(_migrate_section(entry, section, source, renamed) if is_section else entry)
        return sections
    if not isinstance(values, Mapping):
        return values
    current: dict[Any, Any] = {}
    for key, value in values.items():
        name = RENAMED_KEYS[section].get(key, key)
        place = _join(section, name)
        if name != key:
            if name in values:
                raise _both_names(source, section, key, name)
            renamed[_join(section, key)] = place
        if place in RENAMED_KEYS:
            value = _migrate_section(value, place, source, renamed)
        elif isinstance(value, str) and value in RENAMED_VALUES.get(place, {}):
            renamed[f"{place}: {value}"] = f"{place}: {RENAMED_VALUES[place][value]}"
            value = RENAMED_VALUES[place][value]
        current[name] = value
    return current


def _join(section: str, key: object) -> str:
    return f"{section}.{key}" if section else str(key)


def _both_names(source: object, section: str, earlier: str, present: str) -> InputError:
    return InputError(
        f"{source}: {_join(section, earlier)}",
        found=f"a value beside that of '{present}', the present name of this key",
        expected="one of the two",
        repair=f"delete '{earlier}'.",
    )


def _warn(renamed: Mapping[str, str], source: object) -> None:
    if renamed:
        pairs = [f"'{earlier}' is now '{present}'" for earlier, present in renamed.items()]
        message = f"{source}: {', '.join(pairs)}; the earlier names still work."
        warnings.warn(printable(message), RenamedKeyWarning, stacklevel=4)
