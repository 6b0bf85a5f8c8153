"""Counts of labels that were used, ignored or changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from agrifm.errors import printable

NAMED = 5  # features, and pairs of classes, that a sentence names


@dataclass(frozen=True)
class Tally:
    """Number of labels (0 in label rasters), and their area within the scene in hectares (0 for points)."""

    parcels: int = 0
    hectares: float = 0.0


@dataclass(frozen=True)
class Account:
    """Counts of used and ignored labels.

    Args:
        parcels: Polygons that intersect the scene.
        points: Points in the scene; a multi-point counts as several.
        outside: Features outside of the scene.
        repaired: Invalid polygons that were repaired.
        vanished: Parcels that the inner buffer removed.
        too_small: Parcels that contain no pixel center alone.
        merged: Parcels that overlap others of the same class, with which they count as one parcel.
        empty: Labels without a class.
        unlisted: Labels by code that the class table does not list.
        overlap: Hectares in reach of labels of different classes, of which none can be trusted.
        damaged: Features near the scene with invalid coordinates, or with an ambiguous outline.
        mixed: Collections whose lines or points were ignored.
        no_place: Points without coordinates.
        same_pixel: Points in the pixel of another point of the same class, which counts once.
        disputed: Points in a pixel with labels of other classes: numbers of their features by the names of the classes.
        no_data: Points at which no image ever shows the ground.
        no_group: Labels without a value in the column of groups.
    """

    parcels: int = 0
    points: int = 0
    outside: int = 0
    repaired: int = 0
    vanished: int = 0
    too_small: int = 0
    merged: int = 0
    empty: Tally = Tally()
    unlisted: dict[str, Tally] = field(default_factory=dict)
    overlap: float = 0.0
    damaged: int = 0
    mixed: int = 0
    no_place: int = 0
    same_pixel: int = 0
    disputed: dict[str, list[int]] = field(default_factory=dict)
    no_data: int = 0
    no_group: int = 0

    @property
    def noun(self) -> str:
        """What the labels are: parcels, points or both."""
        if not self.points:
            return "parcels"
        return "labels" if self.parcels else "points"

    def sentences(self) -> list[str]:
        """Return a sentence for every reason for which labels were ignored or changed."""
        counts_and_texts = (
            (self.outside, "features lie outside the scene"),
            (self.no_place, "points have no coordinates"),
            (self.repaired, "invalid polygons were repaired"),
            (self.damaged, "features have invalid coordinates, or outlines that cross themselves ambiguously"),
            (self.mixed, "collections held lines or points, which were left out"),
            (self.vanished, "parcels vanished under the inner buffer"),
            (self.too_small, "parcels contain no pixel center of their own"),
            (self.merged, "parcels overlap others of the same class and count as one with them"),
            (self.same_pixel, "points lie in the pixel of another label of the same class and count as one with it"),
            (self.no_data, "points lie where no image ever shows the ground, and were left out"),
            (self.no_group, f"{self.noun} have no group, and count as a group each"),
        )
        lines = [f"{count:,} {text}" for count, text in counts_and_texts if count]
        if self.empty.parcels:
            lines.append(f"{self.empty.parcels:,} {self.noun} without a class{_area(self.empty)}")
        for code, tally in self.unlisted.items():
            count = f"{tally.parcels:,} {self.noun}" if tally.parcels else f"{tally.hectares:.2f} ha"
            lines.append(f"code '{code}' is not in the class table: {count}{_area(tally) if tally.parcels else ''}")
        if self.disputed:
            lines.append(self._disputed())
        if self.overlap:
            reach = "in reach of labels" if self.points else "in polygons"
            lines.append(f"{self.overlap:.2f} ha lie {reach} of different classes")
        return lines

    def _disputed(self) -> str:
        parts = []
        for names, features in list(self.disputed.items())[:NAMED]:
            shown = ", ".join(map(str, features[:NAMED]))
            more = ", ..." if len(features) > NAMED else ""
            parts.append(f"{printable(names)} (features {shown}{more})")
        if len(self.disputed) > NAMED:
            parts.append(f"and {len(self.disputed) - NAMED} other pairs")
        total = sum(map(len, self.disputed.values()))
        reason = "lie in a pixel with labels of other classes, which stays unlabeled"
        return f"{total:,} points {reason}: {'; '.join(parts)}"

    def __str__(self) -> str:
        return "; ".join(self.sentences()) or f"{self.parcels} parcels, {self.points} points"


def _area(tally: Tally) -> str:
    return f", {tally.hectares:.2f} ha" if tally.hectares else ""
