// @ts-check
/** Curves and reliability diagrams of a run, as SVG. */
import { keyList } from "./chart.js";
import { h, s } from "./dom.js";

/**
 * @typedef {{bins: [number, number, number][], ECE: number, Brier: number, NLL: number}} Reliability bins of share, confidence and accuracy
 * @typedef {{name: string, before: Reliability, after: Reliability, pixels: number}} Calibrated
 */

const BOX = { width: 460, height: 240, left: 40, right: 10, top: 10, bottom: 26 };
const COLORS = ["#2f6b45", "#c4622d", "#5a5fb0", "#8c6d1f", "#b3395b", "#2b8a9e", "#777e85", "#7a4fa3"];
const BEFORE = "#c4622d";
const AFTER = "#2f6b45";

/**
 * Lines over epochs.
 * @param {string} title
 * @param {number[]} epochs
 * @param {[string, (number | null)[]][]} lines
 * @param {number} kept epoch that is marked
 * @param {string} [main] name of the line that is drawn thicker
 */
export function curves(title, epochs, lines, kept, main) {
  const values = lines.flatMap(([, numbers]) => numbers.filter((value) => value !== null)).map(Number);
  const high = main === undefined ? Math.max(...values, 1e-6) * 1.05 : 1;
  const low = Math.min(0, ...values);
  const { svg, x, y } = axes([epochs[0], Math.max(epochs[epochs.length - 1], epochs[0] + 1)], [low, high], title);
  for (const text of epochTicks(epochs)) svg.append(s("text", { x: x(text), y: BOX.height - 8, "text-anchor": "middle" }, String(text)));
  svg.append(s("line", { class: "now", x1: x(kept), x2: x(kept), y1: BOX.top, y2: BOX.height - BOX.bottom }));
  lines.forEach(([name, numbers], i) => {
    const points = epochs.flatMap((epoch, step) => (numbers[step] === null ? [] : [{ epoch, value: Number(numbers[step]) }]));
    const path = points.map((point) => `${x(point.epoch)},${y(point.value)}`).join(" ");
    const look = { fill: "none", stroke: COLORS[i % COLORS.length], "stroke-width": name === main ? 3 : 1.5 };
    svg.append(s("polyline", { points: path, ...look }));
    for (const { epoch, value } of points) {
      const dot = { cx: x(epoch), cy: y(value), r: 2.4, fill: COLORS[i % COLORS.length] };
      svg.append(s("circle", dot, s("title", {}, `${name}, epoch ${epoch}: ${value.toFixed(4)}`)));
    }
  });
  return h("figure", { class: "plot" }, h("figcaption", {}, title), svg, keyList(lines.map(([name], i) => [name, COLORS[i % COLORS.length]])));
}

/** A few epochs for the axis. @param {number[]} epochs */
function epochTicks(epochs) {
  const step = Math.max(1, Math.ceil(epochs.length / 10));
  return epochs.filter((_, i) => i % step === 0);
}

/** Accuracy against confidence, before and after calibration. @param {Calibrated} values */
export function reliability(values) {
  const title = `Reliability of ${values.name}`;
  const { svg, x, y } = axes([0, 1], [0, 1], title);
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) svg.append(s("text", { x: x(tick), y: BOX.height - 8, "text-anchor": "middle" }, String(tick)));
  svg.append(s("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "#8d959d", "stroke-dasharray": "4 3" }));
  for (const [one, color] of /** @type {[Reliability, string][]} */ ([[values.before, BEFORE], [values.after, AFTER]])) {
    const path = one.bins.map(([, confidence, accuracy]) => `${x(confidence)},${y(accuracy)}`).join(" ");
    svg.append(s("polyline", { points: path, fill: "none", stroke: color, "stroke-width": 1.5 }));
    for (const [share, confidence, accuracy] of one.bins) {
      const text = `confidence ${confidence.toFixed(2)}, accuracy ${accuracy.toFixed(2)}, ${(100 * share).toFixed(1)} % of the pixels`;
      const dot = { cx: x(confidence), cy: y(accuracy), r: 2 + 7 * Math.sqrt(share), fill: color, "fill-opacity": 0.75 };
      svg.append(s("circle", dot, s("title", {}, text)));
    }
  }
  const keys = [[`before: ECE ${values.before.ECE.toFixed(3)}, Brier ${values.before.Brier.toFixed(3)}`, BEFORE],
    [`after: ECE ${values.after.ECE.toFixed(3)}, Brier ${values.after.Brier.toFixed(3)}`, AFTER]];
  const note = h("p", { class: "note" }, `Accuracy (upwards) by confidence; ${values.pixels.toLocaleString("en")} pixels, larger dots hold more.`);
  return h("figure", { class: "plot" }, h("figcaption", {}, title), svg, keyList(keys), note);
}

/**
 * @param {[number, number]} across lowest and highest value
 * @param {[number, number]} up lowest and highest value
 * @param {string} title for readers of the screen
 */
function axes(across, up, title) {
  const { width, height, left, right, top, bottom } = BOX;
  const x = (/** @type {number} */ value) => left + ((value - across[0]) / (across[1] - across[0])) * (width - left - right);
  const y = (/** @type {number} */ value) => height - bottom - ((value - up[0]) / (up[1] - up[0])) * (height - top - bottom);
  const svg = s("svg", { class: "chart large", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (let i = 0; i <= 4; i++) {
    const value = up[0] + ((up[1] - up[0]) * i) / 4;
    svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(2)));
  }
  return { svg, x, y };
}
