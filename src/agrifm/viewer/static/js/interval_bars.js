// @ts-check
/** Horizontal bars with confidence intervals, as SVG. */
import { h, s } from "./dom.js";

/**
 * @typedef {{name: string, value: number | null, low: number | null, high: number | null, mark: number | null}} Bar
 *   a value that does not exist is null; `mark` is drawn as a diamond
 */

const BOX = { width: 330, left: 104, right: 14, top: 6, bottom: 24, row: 26 };
const BAR = 14; // height
const CAP = 4; // half the height of the ends of an interval
const LONGEST = 16; // characters of a name

/**
 * @param {string} title
 * @param {Bar[]} bars
 * @param {number | null} most value at the right end; null takes the largest one
 */
export function intervalBars(title, bars, most) {
  const values = bars.flatMap((bar) => [bar.value, bar.high, bar.mark]).filter((value) => value !== null).map(Number);
  const ticks = ticksUpTo(most ?? Math.max(...values, 1e-6));
  const end = most ?? Math.max(...values, ticks[ticks.length - 1]);
  const height = BOX.top + BOX.bottom + bars.length * BOX.row;
  const x = (/** @type {number} */ value) => BOX.left + (value / end) * (BOX.width - BOX.left - BOX.right);
  const svg = s("svg", { class: "chart large bars", viewBox: `0 0 ${BOX.width} ${height}`, role: "img", "aria-label": title });
  for (const tick of ticks) {
    svg.append(s("line", { class: "grid", x1: x(tick), x2: x(tick), y1: BOX.top, y2: height - BOX.bottom }));
    svg.append(s("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  bars.forEach((bar, i) => svg.append(row(bar, BOX.top + (i + 0.5) * BOX.row, x)));
  svg.append(s("line", { class: "base", x1: BOX.left, x2: BOX.left, y1: BOX.top, y2: height - BOX.bottom }));
  return h("figure", { class: "plot" }, h("figcaption", {}, title), svg);
}

/** @param {Bar} bar @param {number} middle @param {(value: number) => number} x */
function row(bar, middle, x) {
  const name = bar.name.length > LONGEST ? `${bar.name.slice(0, LONGEST - 1)}…` : bar.name;
  const parts = s("g", {}, s("title", {}, description(bar)), s("text", { x: BOX.left - 8, y: middle + 4, "text-anchor": "end" }, name));
  if (bar.value === null || bar.low === null || bar.high === null) {
    parts.append(s("text", { x: BOX.left + 6, y: middle + 4 }, "no estimate"));
    return parts;
  }
  parts.append(s("rect", { class: "bar", x: BOX.left, y: middle - BAR / 2, width: Math.max(0, x(bar.value) - BOX.left), height: BAR }));
  parts.append(s("line", { class: "whisker", x1: x(bar.low), x2: x(bar.high), y1: middle, y2: middle }));
  for (const limit of [bar.low, bar.high]) {
    parts.append(s("line", { class: "whisker", x1: x(limit), x2: x(limit), y1: middle - CAP, y2: middle + CAP }));
  }
  if (bar.mark !== null) {
    const at = x(bar.mark);
    parts.append(s("polygon", { class: "mapped", points: `${at - 5},${middle} ${at},${middle - 5} ${at + 5},${middle} ${at},${middle + 5}` }));
  }
  return parts;
}

/** @param {Bar} bar */
function description(bar) {
  if (bar.value === null) return `${bar.name}: no estimate`;
  const [value, low, high] = [bar.value, bar.low, bar.high].map((one) => Number(one).toFixed(1));
  const mark = bar.mark === null ? "" : `; on the map ${bar.mark.toFixed(1)}`;
  return `${bar.name}: ${value}, interval from ${low} to ${high}${mark}`;
}

/** A few round numbers from 0. @param {number} end */
function ticksUpTo(end) {
  const power = 10 ** Math.floor(Math.log10(end / 4));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => end / one <= 5) ?? 10 * power;
  const ticks = [];
  for (let i = 0; i * step <= end * (1 + 1e-9); i++) ticks.push(i * step);
  return ticks;
}
