// @ts-check
/** Charts of the series of a pixel. */
import { byId, h, s } from "./dom.js";
import { state, view } from "./state.js";
import { MONTHS, day } from "./text.js";
import { goTo } from "./timeline.js";

/**
 * @typedef {import("./types.js").Images} Images
 * @typedef {import("./types.js").Series} Series
 */

const SENSOR_COLORS = ["#2f6b45", "#c4622d", "#5a5fb0", "#8c6d1f"];

const CHART = { width: 304, height: 128, left: 28, right: 6, top: 8, bottom: 18 };

/** @type {Series[] | null} */
export let series = null;

/** @param {Series[] | null} found series of the selected pixel */
export function setSeries(found) {
  series = found;
  showSeries();
}

/** Draw the series of the selected pixel. */
export function showSeries() {
  if (series === null || byId("series") === null) return;
  const shown = series;
  const parts = [];
  if (shown.some((one) => one.ndvi !== null)) {
    const lines = shown.map((one, i) => ({ ...one, index: i, color: SENSOR_COLORS[i % SENSOR_COLORS.length] }));
    const keys = lines.map((line) => [line.sensor, line.color]);
    parts.push(h("section", {}, h("h2", {}, "NDVI; filled dots are clear"), ndviChart(lines), keyList(keys)));
  }
  const one = shown[state.sensor];
  const colors = one.bands.map((band) => bandColor(band.wavelength));
  const keys = one.bands.map((band, i) => [band.name, colors[i]]);
  const title = `Reflectance of ${one.sensor} on clear dates`;
  parts.push(h("section", {}, h("h2", {}, title), bandChart(one, colors), keyList(keys)));
  byId("series").replaceChildren(...parts);
}

/** @param {string[][]} keys name and color */
function keyList(keys) {
  const items = keys.map(([name, color]) =>
    h("span", {}, s("svg", { "aria-hidden": true }, s("rect", { y: 2, width: 12, height: 3, rx: 1.5, fill: color })), name));
  return h("div", { class: "keys" }, ...items);
}

/**
 * An empty chart over the days of all sensors.
 * @param {number} low @param {number} high @param {number} step of the grid
 */
function frame(low, high, step) {
  const { width, height, left: start, right: end, top, bottom } = CHART;
  const times = /** @type {Series[]} */ (series).flatMap((one) => one.days).map((text) => Date.parse(text));
  const first = Math.min(...times);
  const last = Math.max(...times, first + 86400e3);
  const x = (/** @type {string} */ text) => start + ((Date.parse(text) - first) / (last - first)) * (width - start - end);
  const y = (/** @type {number} */ value) => {
    const share = (Math.max(low, Math.min(high, value)) - low) / (high - low);
    return height - bottom - share * (height - top - bottom);
  };
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (let value = low; value <= high + 1e-9; value += step) {
    svg.append(s("line", { class: "grid", x1: start, x2: width - end, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: start - 5, y: y(value) + 3, "text-anchor": "end" }, String(Math.round(value * 100) / 100)));
  }
  const months = (last - first) / (30 * 86400e3);
  const every = Math.max(1, Math.ceil(months / 7));
  const date = new Date(first);
  date.setUTCDate(1);
  for (date.setUTCMonth(date.getUTCMonth() + 1); date.getTime() <= last; date.setUTCMonth(date.getUTCMonth() + every)) {
    const at = x(date.toISOString().slice(0, 10));
    svg.append(s("line", { class: "grid", x1: at, x2: at, y1: height - bottom, y2: height - bottom + 3 }));
    if (at < width - 16) svg.append(s("text", { x: at, y: height - 4, "text-anchor": "middle" }, MONTHS[date.getUTCMonth()]));
  }
  const now = x(/** @type {Images} */ (view.images).sensors[state.sensor].days[state.steps[state.sensor]]);
  svg.append(s("line", { class: "now", x1: now, x2: now, y1: top, y2: height - bottom }));
  return { svg, x, y };
}

/** @param {(Series & {index: number, color: string})[]} lines */
function ndviChart(lines) {
  const lowest = Math.min(...lines.flatMap((line) => (line.ndvi ?? []).filter((value, i) => value !== null && line.clear[i])).map(Number));
  const low = lowest < 0 ? Math.max(-1, Math.floor(lowest * 4) / 4) : 0;
  const { svg, x, y } = frame(low, 1, 0.25);
  svg.setAttribute("aria-label", "NDVI of all sensors over time");
  for (const line of lines) {
    const values = line.ndvi;
    if (values === null) continue;
    const points = line.days.map((text, i) => ({ text, i, value: values[i] }));
    const clearPoints = points.filter((point) => point.value !== null && line.clear[point.i]);
    const path = clearPoints.map((point) => `${x(point.text)},${y(Number(point.value))}`).join(" ");
    svg.append(s("polyline", { points: path, fill: "none", stroke: line.color, "stroke-width": 1.5, "stroke-opacity": 0.7 }));
    for (const { text, i, value } of points) {
      if (value === null) continue;
      const isClear = line.clear[i];
      const look = isClear ? { r: 3.2, fill: line.color } : { r: 2.4, fill: "#fff", stroke: line.color, "stroke-opacity": 0.45 };
      const title = `${line.sensor}, ${day(text)}: ${value.toFixed(2)}${isClear ? "" : ", not clear"}`;
      const go = () => goTo(line.index, i);
      svg.append(s("circle", { class: "dot", cx: x(text), cy: y(value), ...look, click: go }, s("title", {}, title)));
    }
  }
  return svg;
}

/** @param {Series} one @param {string[]} colors */
function bandChart(one, colors) {
  const clearValues = one.bands.flatMap((band) => band.values.filter((value, i) => value !== null && one.clear[i])).map(Number);
  const high = clearValues.length ? Math.max(0.2, Math.ceil(Math.max(...clearValues) * 10) / 10) : 0.4;
  const { svg, x, y } = frame(0, high, high > 0.5 ? 0.2 : 0.1);
  svg.setAttribute("aria-label", `Reflectance of the bands of ${one.sensor} over time`);
  one.bands.forEach((band, number) => {
    const points = one.days.map((text, i) => ({ text, i, value: band.values[i] }));
    const clearPoints = points.filter((point) => point.value !== null && one.clear[point.i]);
    const path = clearPoints.map((point) => `${x(point.text)},${y(Number(point.value))}`).join(" ");
    svg.append(s("polyline", { points: path, fill: "none", stroke: colors[number], "stroke-width": 1.3 }));
    for (const { text, i, value } of clearPoints) {
      const title = s("title", {}, `${band.name}, ${day(text)}: ${Number(value).toFixed(3)}`);
      const go = () => goTo(state.sensor, i);
      svg.append(s("circle", { class: "dot", cx: x(text), cy: y(Number(value)), r: 2.2, fill: colors[number], click: go }, title));
    }
  });
  return svg;
}

/** A color for a wavelength in micrometers: as seen where it is visible, then from purple to brown. @param {number} micrometers */
function bandColor(micrometers) {
  /** @type {[number, string][]} */
  const colors = [[0.51, "#3c6fd1"], [0.6, "#3f9b52"], [0.68, "#d1402f"], [0.72, "#e07b91"], [0.76, "#c063a8"], [0.8, "#9a55b8"],
    [0.85, "#6b46b5"], [0.9, "#46369b"], [1.3, "#8a8f98"], [1.8, "#b07a2f"]];
  return colors.find(([end]) => micrometers < end)?.[1] ?? "#6d4716";
}
