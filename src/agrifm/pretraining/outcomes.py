"""Counts of chips of scenes: samples by dominant cover, chips that each filter removed, shares of the covers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agrifm.data.records import Record
from agrifm.tasks.fractions import COVERS


@dataclass(frozen=True)
class Outcomes:
    """Counts of chips, which grow while samples are written.

    Args:
        chips: Counts by sensor and dominant cover of written chips, or by sensor and filter of the others.
        biomes: Samples by biome.
        area: Summed shares of the covers and of what is unknown ``(9)``.
    """

    chips: Counter[tuple[str, str]] = field(default_factory=Counter)
    biomes: Counter[str] = field(default_factory=Counter)
    area: np.ndarray = field(default_factory=lambda: np.zeros(len(COVERS) + 1))

    def add(self, record: Record) -> None:
        """Count a sample that was written."""
        shares = np.concatenate([record.fractions, record.unknown[None]])
        mean_shares = shares.mean((1, 2), dtype=float)
        dominant_cover = COVERS[mean_shares[:-1].argmax()]
        self.chips[record.sensor, dominant_cover] += 1
        self.biomes[record.biome] += 1
        self.area[:] += mean_shares

    def to_dict(self) -> dict[str, Any]:
        """Plain values: samples by sensor and dominant cover, rejected by sensor and filter, biomes, mean shares."""
        samples: dict[str, dict[str, int]] = defaultdict(dict)
        rejected: dict[str, dict[str, int]] = defaultdict(dict)
        for (sensor, outcome), count in sorted(self.chips.items()):
            if outcome in COVERS:
                samples[sensor][outcome] = count
            else:
                rejected[sensor][outcome] = count
        mean_shares = self.area / max(1, self.biomes.total())
        shares = dict(zip((*COVERS, "unknown"), mean_shares.round(6).tolist(), strict=True))
        return {"samples": samples, "rejected": rejected, "biomes": self.biomes, "shares": shares}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcomes:
        """Read the values of ``to_dict``; shares are then rounded."""
        chips: Counter[tuple[str, str]] = Counter()
        for group in ("samples", "rejected"):
            for sensor, counts in values[group].items():
                for outcome, count in counts.items():
                    chips[sensor, outcome] = int(count)
        biomes = Counter(values["biomes"])
        shares = np.array([values["shares"][name] for name in (*COVERS, "unknown")], float)
        return cls(chips, biomes, shares * biomes.total())

    def left_out(self) -> str:
        """Text on the number of chips that each filter removed."""
        rejected = self.to_dict()["rejected"]
        parts = [f"{sensor}: {_listed(reasons)}" for sensor, reasons in rejected.items()]
        return "; ".join(parts) or "nothing"

    def show(self, console: Console) -> None:
        """Print samples by sensor and dominant cover, removed chips, and the shares of the covers."""
        values = self.to_dict()
        table = Table("dominant cover", *values["samples"], "mean share")
        for cover, share in values["shares"].items():
            counts = [str(covers.get(cover, 0)) for covers in values["samples"].values()]
            table.add_row(cover, *counts, f"{share:.1%}")
        console.print(table)
        console.print(f"samples: {_listed(self.biomes)}; left out: {self.left_out()}", highlight=False)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
