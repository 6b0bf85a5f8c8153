// @ts-check
/** Charts of the series of a pixel: NDVI of all sensors, and the bands of one. */
import { SENSOR_COLORS, bandChart, keyList, ndviChart } from "./chart.js";
import { h } from "./dom.js";

/**
 * @typedef {import("./types.js").Series} Series
 */

/**
 * @param {Series[]} series of all sensors
 * @param {number} chosen sensor whose bands are shown
 * @param {string} now day that is marked
 * @param {(sensor: number, step: number) => void} go called with the sensor and step of a clicked dot
 * @returns {Node[]}
 */
export function seriesSections(series, chosen, now, go) {
  const parts = [];
  const lines = series.flatMap((one, i) => (one.ndvi === null ? [] : [ndviLine(one, one.ndvi, i, go)]));
  if (lines.length) {
    const keys = series.map((one, i) => [one.sensor, SENSOR_COLORS[i % SENSOR_COLORS.length]]);
    const chart = ndviChart(lines, "NDVI of all sensors over time", now);
    parts.push(h("section", {}, h("h2", {}, "NDVI; filled dots are clear"), chart, keyList(keys)));
  }
  const one = series[chosen];
  const bands = one.bands.map((band) => {
    const color = bandColor(band.wavelength);
    const goBand = (/** @type {number} */ step) => go(chosen, step);
    return { name: band.name, color, days: one.days, values: band.values, clear: one.clear, go: goBand };
  });
  const days = series.flatMap((each) => each.days); // as in the chart above
  const chart = bandChart(bands, days, `Reflectance of the bands of ${one.sensor} over time`, now);
  const title = h("h2", {}, `Reflectance of ${one.sensor} on clear dates`);
  parts.push(h("section", {}, title, chart, keyList(bands.map((band) => [band.name, band.color]))));
  return parts;
}

/** @param {Series} one @param {(number | null)[]} values @param {number} sensor @param {(sensor: number, step: number) => void} go */
function ndviLine(one, values, sensor, go) {
  const goDay = (/** @type {number} */ step) => go(sensor, step);
  const color = SENSOR_COLORS[sensor % SENSOR_COLORS.length];
  return { name: one.sensor, color, days: one.days, values, clear: one.clear, go: goDay };
}

/** A color for a wavelength in micrometers: as seen where it is visible, then from purple to brown. @param {number} micrometers */
function bandColor(micrometers) {
  /** @type {[number, string][]} */
  const colors = [[0.51, "#3c6fd1"], [0.6, "#3f9b52"], [0.68, "#d1402f"], [0.72, "#e07b91"], [0.76, "#c063a8"], [0.8, "#9a55b8"],
    [0.85, "#6b46b5"], [0.9, "#46369b"], [1.3, "#8a8f98"], [1.8, "#b07a2f"]];
  return colors.find(([end]) => micrometers < end)?.[1] ?? "#6d4716";
}
