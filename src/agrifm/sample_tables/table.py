"""Samples with their series, labels, groups and places, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas

from agrifm.errors import InputError, counted
from agrifm.sample_tables.bands import BandColumns, to_stored
from agrifm.sample_tables.columns import Places, Roles, TableOptions, find_roles, places_of
from agrifm.sample_tables.layout import Observations, read_observations
from agrifm.sample_tables.reading import listed, read_frame
from agrifm.sensors import Sensor
from agrifm.vectors.cells import row_name, texts

NO_DATA = (65535.0, -9999.0, -28672.0, -32768.0, -3000.0)  # what products write where they have no data
LARGEST = 1e30  # larger numbers are no data


@dataclass(frozen=True)
class SampleTable:
    """Labeled series of single pixels.

    Args:
        ids: Name of each sample ``(n)``.
        labels: Code of its class ``(n)``.
        groups: Its group ``(n)``; None without a column of groups.
        places: Where the samples lie; None if that is not known.
        sensor: Sensor of the series.
        sample: Number of the sample of each observation ``(m)``, in increasing order.
        days: Day of each observation since 1970-01-01 ``(m)``.
        values: Stored numbers of the sensor ``(m, c)`` float32; no observation lacks a band.
        notes: Sentences about what was found and what was left out.
    """

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    places: Places | None
    sensor: Sensor
    sample: np.ndarray
    days: np.ndarray
    values: np.ndarray
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: np.ndarray) -> SampleTable:
        """Return some samples, by a mask ``(n)``."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.sample]
        places = self.places
        if places is not None:
            lonlat = None if places.lonlat is None else places.lonlat[chosen]
            places = Places(places.plane[chosen], lonlat)
        return replace(
            self,
            ids=self.ids[chosen],
            labels=self.labels[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            places=places,
            sample=number[self.sample[kept]],
            days=self.days[kept],
            values=self.values[kept],
        )

    @property
    def spans(self) -> np.ndarray:
        """First and last day of each sample ``(n, 2)``."""
        spans = np.zeros((len(self), 2), np.int64)
        spans[:, 0] = np.iinfo(np.int64).max
        np.minimum.at(spans[:, 0], self.sample, self.days)
        np.maximum.at(spans[:, 1], self.sample, self.days)
        return spans


def read_table(path: Path, options: TableOptions = TableOptions()) -> SampleTable:  # noqa: B008 (frozen)
    """Read labeled series of single pixels from a table of any layout.

    Args:
        path: CSV, Parquet or vector file, with one row for each sample and date, or one for each sample.
        options: What the names of the columns do not tell.

    Raises:
        InputError: If columns, dates or numbers cannot be used, labels contradict each other, or nothing is left.
    """
    frame = read_frame(path)
    roles = find_roles(frame, path, options)
    observed = read_observations(frame, roles, path, options)
    values, bands, notes = _stored_numbers(observed, path, options)
    table = _assemble(frame, roles, observed, path, options, values, bands.sensor)
    is_seen = np.zeros(len(table), bool)
    is_seen[table.sample] = True
    if not is_seen.any():
        raise _no_values(path)
    is_labeled = table.labels != ""
    notes = [*table.notes, *notes, *_left_out(table, observed, is_labeled, is_seen)]
    if not (is_seen & is_labeled).any():
        raise InputError(
            f"{path}: column '{roles.label}'",
            found="no label on any sample with values",
            expected="the class of each sample",
            repair="fill the column in, or name another one with --label-column.",
        )
    return replace(table[is_seen & is_labeled], notes=tuple(notes))


def _no_values(path: Path) -> InputError:
    return InputError(
        path,
        found="no sample with a date on which every band has a value: cells are empty or mark missing data",
        expected="values of the bands",
        repair="check --nodata, and leave out bands that are hardly ever measured with --bands.",
    )


def _stored_numbers(
    observed: Observations, path: Path, options: TableOptions
) -> tuple[np.ndarray, BandColumns, list[str]]:
    """Return values in the stored numbers of the sensor, the bands that have any, and notes."""
    values, about_missing = _without_missing(observed.values, options.nodata)
    bands = observed.bands
    empty = np.isnan(values).sum(0) == len(values)
    if empty.all():
        raise _no_values(path)
    notes = [observed.layout]
    if empty.any():
        names = [bands.columns[i] for i in np.flatnonzero(empty)]
        bands = bands.only(~empty)
        values = values[:, ~empty]
        notes.append(f"bands without any value are left out: {listed(names)}")
    stored, units = to_stored(values, bands, path, options.scale, options.offset)
    notes += [f"sensor: {bands.sensor.name} ({', '.join(bands.sensor.band_ids)})", units]
    if about_missing:
        notes.append(about_missing)
    return stored, bands, notes


def _assemble(
    frame: pandas.DataFrame,
    roles: Roles,
    observed: Observations,
    path: Path,
    options: TableOptions,
    values: np.ndarray,
    sensor: Sensor,
) -> SampleTable:
    """Return all samples with the observations that have every band."""
    rows = frame.iloc[observed.first_row]
    ids = texts(rows[roles.id]) if roles.id is not None else np.arange(1, len(rows) + 1).astype(str)
    # In long tables every row may repeat what belongs to the sample, or only one of them states it.
    labels = _one_for_each(frame, roles.label, observed.sample_of_row, ids, path)
    groups = None
    if roles.group is not None:
        groups = _one_for_each(frame, roles.group, observed.sample_of_row, ids, path)
        # Samples without a group are groups of their own.
        groups = np.where(groups == "", np.char.add("sample ", ids), groups)
    places, about_places = places_of(frame, observed.first_row, roles, path, options.crs)
    is_valid = np.isfinite(values).all(1)
    if sensor.nodata == 0:
        is_valid &= (values != 0).any(1)
    order = np.flatnonzero(is_valid)
    order = order[np.argsort(observed.sample[order], kind="stable")]
    return SampleTable(
        ids=ids,
        labels=labels,
        groups=groups,
        places=places,
        sensor=sensor,
        sample=observed.sample[order],
        days=observed.days[order],
        values=values[order].astype(np.float32),
        notes=(about_places,) if about_places else (),
    )


def _one_for_each(frame: pandas.DataFrame, column: str, sample: np.ndarray, ids: np.ndarray, path: Path) -> np.ndarray:
    """The value ``(n)`` of a column for each sample; empty where no row states one.

    Raises:
        InputError: If rows of one sample state different values.
    """
    text = texts(frame[column])
    values = np.full(len(ids), "", text.dtype)
    stated = np.flatnonzero(text != "")
    # The first statement counts, so it is written last.
    values[sample[stated[::-1]]] = text[stated[::-1]]
    wrong = stated[values[sample[stated]] != text[stated]]
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{path}: column '{column}', {row_name(row)}",
            found=f"'{text[row]}' for sample {ids[sample[row]]}, which has '{values[sample[row]]}' above",
            expected="one value for each sample",
            repair="correct it, or give every place and season a name of its own.",
        )
    return values


def _without_missing(values: np.ndarray, nodata: tuple[float, ...]) -> tuple[np.ndarray, str]:
    """Return the values with NaN where they mark missing data, and a sentence about usual marks that were found."""
    is_mark = np.isin(values, nodata) | (np.abs(values) > LARGEST)
    found = [mark for mark in NO_DATA if mark not in nodata and (values == mark).any()]
    is_mark |= np.isin(values, found)
    note = f"missing data: {', '.join(f'{mark:g}' for mark in found)}" if found else ""
    return np.where(is_mark, np.nan, values), note


def _left_out(table: SampleTable, observed: Observations, is_labeled: np.ndarray, is_seen: np.ndarray) -> list[str]:
    """Sentences about columns, samples and dates that are not used."""
    notes = []
    if observed.unused:
        notes.append(f"not used: {listed(observed.unused)}")
    if not is_labeled.all():
        notes.append(f"left out: {counted((~is_labeled).sum(), 'sample')} without a label")
    unseen = ~is_seen & is_labeled
    if unseen.any():
        notes.append(f"left out: {counted(unseen.sum(), 'sample')} without any value: {listed(table.ids[unseen])}")
    share = 1 - len(table.sample) / len(observed.sample)
    if share > 0:
        notes.append(f"{share:.1%} of the dates of samples have no value in some band; they count as not seen")
    return notes
