"""Counts of labels that were used, ignored or changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from agrifm.errors import counted, printable

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
        """What a label is: a parcel, a point, or either."""
        if not self.points:
            return "parcel"
        return "label" if self.parcels else "point"

    def sentences(self) -> list[str]:
        """Return a sentence for every reason for which labels were ignored or changed."""
        lines = self._of_features() + self._of_labels()
        if self.empty.parcels:
            lines.append(f"{counted(self.empty.parcels, self.noun)} without a class{_area(self.empty)}")
        for code, tally in self.unlisted.items():
            amount = f"{tally.hectares:.2f} ha"
            if tally.parcels:
                amount = f"{counted(tally.parcels, self.noun)}{_area(tally)}"
            lines.append(f"code '{code}' is not in the class table: {amount}")
        if self.disputed:
            lines.append(self._disputed())
        if self.overlap:
            reach = "in reach of labels" if self.points else "in polygons"
            lines.append(f"{self.overlap:.2f} ha lie {reach} of different classes")
        return lines

    def _of_features(self) -> list[str]:
        """Sentences about shapes and places, whatever the classes are."""
        invalid = "invalid coordinates, or outlines that cross themselves ambiguously"
        held = "held lines or points, which were left out"
        return _sentences(
            (self.outside, "feature lies outside the scene", "features lie outside the scene"),
            (self.no_place, "point has no coordinates", "points have no coordinates"),
            (self.repaired, "invalid polygon was repaired", "invalid polygons were repaired"),
            (self.damaged, f"feature has {invalid}", f"features have {invalid}"),
            (self.mixed, f"collection {held}", f"collections {held}"),
        )

    def _of_labels(self) -> list[str]:
        """Sentences about labels that vanish, or count together with others."""
        vanished = "vanished under the inner buffer"
        same_pixel = "in the pixel of another label of the same class"
        unseen = "where no image ever shows the ground"
        return _sentences(
            (self.vanished, f"parcel {vanished}", f"parcels {vanished}"),
            (
                self.too_small,
                "parcel contains no pixel center of its own",
                "parcels contain no pixel center of their own",
            ),
            (
                self.merged,
                "parcel overlaps others of the same class and counts as one with them",
                "parcels overlap others of the same class and count as one with them",
            ),
            (
                self.same_pixel,
                f"point lies {same_pixel} and counts as one with it",
                f"points lie {same_pixel} and count as one with it",
            ),
            (self.no_data, f"point lies {unseen}, and was left out", f"points lie {unseen}, and were left out"),
            (
                self.no_group,
                f"{self.noun} has no group, and counts as a group of its own",
                f"{self.noun}s have no group, and count as a group each",
            ),
        )

    def _disputed(self) -> str:
        parts = []
        for names, features in list(self.disputed.items())[:NAMED]:
            shown = ", ".join(map(str, features[:NAMED]))
            more = ", ..." if len(features) > NAMED else ""
            parts.append(f"{printable(names)} (features {shown}{more})")
        if len(self.disputed) > NAMED:
            parts.append(f"and {counted(len(self.disputed) - NAMED, 'other pair')}")
        total = sum(map(len, self.disputed.values()))
        lie = "in a pixel with labels of other classes, which stays unlabeled"
        return f"{counted(total, f'point lies {lie}', f'points lie {lie}')}: {'; '.join(parts)}"

    def __str__(self) -> str:
        return "; ".join(self.sentences()) or f"{counted(self.parcels, 'parcel')}, {counted(self.points, 'point')}"


def _sentences(*cases: tuple[int, str, str]) -> list[str]:
    """Sentences for counts that are not 0, from the words for one and those for several."""
    return [counted(count, singular, plural) for count, singular, plural in cases if count]


def _area(tally: Tally) -> str:
    return f", {tally.hectares:.2f} ha" if tally.hectares else ""
