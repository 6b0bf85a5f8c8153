// @ts-check
/** Charts of the series of a pixel. */
import { SENSOR_COLORS, bandChart, keyList, ndviChart } from "./chart.js";
import { byId, h } from "./dom.js";
import { state, view } from "./state.js";
import { goTo } from "./timeline.js";

/**
 * @typedef {import("./types.js").Images} Images
 * @typedef {import("./types.js").Series} Series
 */

/** @type {Series[] | null} */
let series = null;

/** @param {Series[] | null} found series of the selected pixel */
export function setSeries(found) {
  series = found;
  showSeries();
}

/** Draw the series of the selected pixel. */
export function showSeries() {
  if (series === null || byId("series") === null) return;
  const shown = series;
  const now = /** @type {Images} */ (view.images).sensors[state.sensor].days[state.steps[state.sensor]];
  const parts = [];
  const lines = shown.flatMap((one, i) => (one.ndvi === null ? [] : [ndviLine(one, one.ndvi, i)]));
  if (lines.length) {
    const keys = shown.map((one, i) => [one.sensor, SENSOR_COLORS[i % SENSOR_COLORS.length]]);
    const chart = ndviChart(lines, "NDVI of all sensors over time", now);
    parts.push(h("section", {}, h("h2", {}, "NDVI; filled dots are clear"), chart, keyList(keys)));
  }
  const one = shown[state.sensor];
  const bands = one.bands.map((band) => {
    const color = bandColor(band.wavelength);
    const go = (/** @type {number} */ step) => goTo(state.sensor, step);
    return { name: band.name, color, days: one.days, values: band.values, clear: one.clear, go };
  });
  const days = shown.flatMap((each) => each.days); // as in the chart above
  const chart = bandChart(bands, days, `Reflectance of the bands of ${one.sensor} over time`, now);
  const title = h("h2", {}, `Reflectance of ${one.sensor} on clear dates`);
  parts.push(h("section", {}, title, chart, keyList(bands.map((band) => [band.name, band.color]))));
  byId("series").replaceChildren(...parts);
}

/** @param {Series} one @param {(number | null)[]} values @param {number} sensor */
function ndviLine(one, values, sensor) {
  const go = (/** @type {number} */ step) => goTo(sensor, step);
  const color = SENSOR_COLORS[sensor % SENSOR_COLORS.length];
  return { name: one.sensor, color, days: one.days, values, clear: one.clear, go };
}

/** A color for a wavelength in micrometers: as seen where it is visible, then from purple to brown. @param {number} micrometers */
function bandColor(micrometers) {
  /** @type {[number, string][]} */
  const colors = [[0.51, "#3c6fd1"], [0.6, "#3f9b52"], [0.68, "#d1402f"], [0.72, "#e07b91"], [0.76, "#c063a8"], [0.8, "#9a55b8"],
    [0.85, "#6b46b5"], [0.9, "#46369b"], [1.3, "#8a8f98"], [1.8, "#b07a2f"]];
  return colors.find(([end]) => micrometers < end)?.[1] ?? "#6d4716";
}
