// @ts-check
/** Charts of values over dates. */
import { h, s } from "./dom.js";
import { MONTHS, day } from "./text.js";

/**
 * @typedef {{name: string, color: string, days: string[], values: (number | null)[], clear?: boolean[],
 *   go?: (step: number) => void}} Line values by day; without `clear` all count; `go` is called with the step of a clicked dot
 */

const CHART = { width: 304, height: 128, left: 28, right: 6, top: 8, bottom: 18 };
export const SENSOR_COLORS = ["#2f6b45", "#c4622d", "#5a5fb0", "#8c6d1f"];
export const NO_DATE = "frame "; // before the number of a frame without a date
const DAY = 86400e3; // milliseconds

/** @param {string[][]} keys name and color */
export function keyList(keys) {
  const items = keys.map(([name, color]) =>
    h("span", {}, s("svg", { "aria-hidden": true }, s("rect", { y: 2, width: 12, height: 3, rx: 1.5, fill: color })), name));
  return h("div", { class: "keys" }, ...items);
}

/** Time of a day; frames without a date follow each other by one day. @param {string} text */
function timeOf(text) {
  return text.startsWith(NO_DATE) ? Number(text.slice(NO_DATE.length)) * DAY : Date.parse(text);
}

/** @param {string} text */
function dayText(text) {
  return text.startsWith(NO_DATE) ? text : day(text);
}

/**
 * An empty chart over days.
 * @param {string[]} days
 * @param {number} low
 * @param {number} high
 * @param {number} step of the grid
 * @param {string} [now] day that is marked
 */
function frame(days, low, high, step, now) {
  const { width, height, left: start, right: end, top, bottom } = CHART;
  const times = days.map(timeOf);
  const first = Math.min(...times);
  const last = Math.max(...times, first + DAY);
  const x = (/** @type {string} */ text) => start + ((timeOf(text) - first) / (last - first)) * (width - start - end);
  const y = (/** @type {number} */ value) => {
    const share = (Math.max(low, Math.min(high, value)) - low) / (high - low);
    return height - bottom - share * (height - top - bottom);
  };
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (let value = low; value <= high + 1e-9; value += step) {
    svg.append(s("line", { class: "grid", x1: start, x2: width - end, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: start - 5, y: y(value) + 3, "text-anchor": "end" }, String(Math.round(value * 100) / 100)));
  }
  if (days.every((text) => !text.startsWith(NO_DATE))) addMonths(svg, first, last, x);
  if (now !== undefined) svg.append(s("line", { class: "now", x1: x(now), x2: x(now), y1: top, y2: height - bottom }));
  return { svg, x, y };
}

/** @param {SVGElement} svg @param {number} first @param {number} last @param {(text: string) => number} x */
function addMonths(svg, first, last, x) {
  const { width, height, bottom } = CHART;
  const months = (last - first) / (30 * DAY);
  const every = Math.max(1, Math.ceil(months / 7));
  const date = new Date(first);
  date.setUTCDate(1);
  for (date.setUTCMonth(date.getUTCMonth() + 1); date.getTime() <= last; date.setUTCMonth(date.getUTCMonth() + every)) {
    const at = x(date.toISOString().slice(0, 10));
    svg.append(s("line", { class: "grid", x1: at, x2: at, y1: height - bottom, y2: height - bottom + 3 }));
    if (at < width - 16) svg.append(s("text", { x: at, y: height - 4, "text-anchor": "middle" }, MONTHS[date.getUTCMonth()]));
  }
}

/**
 * The NDVI of several sensors or classes.
 * @param {Line[]} lines
 * @param {string} title for readers of the screen
 * @param {string} [now] day that is marked
 */
export function ndviChart(lines, title, now) {
  const lowest = Math.min(...lines.flatMap((line) => line.values.filter((value, i) => value !== null && isClear(line, i))).map(Number));
  const low = lowest < 0 ? Math.max(-1, Math.floor(lowest * 4) / 4) : 0;
  const { svg, x, y } = frame(lines.flatMap((line) => line.days), low, 1, 0.25, now);
  svg.setAttribute("aria-label", title);
  for (const line of lines) addLine(svg, line, x, y, { width: 1.5, radius: 3.2, digits: 2 });
  return svg;
}

/**
 * The reflectance of several bands.
 * @param {Line[]} lines
 * @param {string[]} days over which the chart extends
 * @param {string} title for readers of the screen
 * @param {string} [now] day that is marked
 */
export function bandChart(lines, days, title, now) {
  const values = lines.flatMap((line) => line.values.filter((value, i) => value !== null && isClear(line, i))).map(Number);
  const high = values.length ? Math.max(0.2, Math.ceil(Math.max(...values) * 10) / 10) : 0.4;
  const { svg, x, y } = frame(days, 0, high, high > 0.5 ? 0.2 : 0.1, now);
  svg.setAttribute("aria-label", title);
  for (const line of lines) addLine(svg, line, x, y, { width: 1.3, radius: 2.2, digits: 3, onlyClear: true });
  return svg;
}

/** @param {Line} line @param {number} step */
function isClear(line, step) {
  return line.clear === undefined || line.clear[step];
}

/**
 * @param {SVGElement} svg
 * @param {Line} line
 * @param {(text: string) => number} x
 * @param {(value: number) => number} y
 * @param {{width: number, radius: number, digits: number, onlyClear?: boolean}} look
 */
function addLine(svg, line, x, y, look) {
  const points = line.days.map((text, step) => ({ text, step, value: line.values[step] })).filter((point) => point.value !== null);
  const clear = points.filter((point) => isClear(line, point.step));
  const path = clear.map((point) => `${x(point.text)},${y(Number(point.value))}`).join(" ");
  svg.append(s("polyline", { points: path, fill: "none", stroke: line.color, "stroke-width": look.width, "stroke-opacity": 0.75 }));
  for (const { text, step, value } of look.onlyClear ? clear : points) {
    const dot = isClear(line, step) ? { r: look.radius, fill: line.color } :
      { r: 2.4, fill: "#fff", stroke: line.color, "stroke-opacity": 0.45 };
    const title = `${line.name}, ${dayText(text)}: ${Number(value).toFixed(look.digits)}${isClear(line, step) ? "" : ", not clear"}`;
    const click = line.go === undefined ? null : () => line.go?.(step);
    const kind = line.go === undefined ? "mark" : "dot";
    svg.append(s("circle", { class: kind, cx: x(text), cy: y(Number(value)), ...dot, click }, s("title", {}, title)));
  }
}
