// @ts-check
/** Tables of a run. */
import { h } from "./dom.js";

/**
 * @typedef {{name: string, IoU: number | null, Fscore: number | null, Precision: number | null, Recall: number | null,
 *   pixels: number | null}} ClassRow
 * @typedef {{name: string, summary: Record<string, number | null>, classes: ClassRow[], confusion: number[][] | null}} ScoreFile
 */

const DARK = 0.55; // share from which white text is read more easily

/** @param {number | null} value @param {number} [digits] */
export function number(value, digits = 3) {
  return value === null ? "–" : value.toFixed(digits);
}

/**
 * @param {string[]} head
 * @param {{cells: string[], strong: boolean}[]} rows
 * @param {string} title for readers of the screen
 */
export function dataTable(head, rows, title) {
  const table = h("table", { class: "data", "aria-label": title }, h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))));
  const body = h("tbody");
  for (const { cells, strong } of rows) {
    const [first, ...others] = cells;
    body.append(h("tr", { class: strong ? "strong" : null }, h("th", { scope: "row" }, first), ...others.map((text) => h("td", {}, text))));
  }
  table.append(body);
  return h("div", { class: "scroll" }, table);
}

/** The confusion matrix, shaded by the share of the true class. @param {ScoreFile} scores @returns {Node[]} */
export function confusionTable(scores) {
  const names = scores.classes.map((one) => one.name);
  const head = h("tr", {}, h("th", { scope: "col" }, "truth ↓  prediction →"), ...names.map((name) => h("th", { scope: "col" }, name)));
  const table = h("table", { class: "data confusion", "aria-label": `Confusion matrix on ${scores.name}` }, h("thead", {}, head));
  const body = h("tbody");
  (scores.confusion ?? []).forEach((counts, row) => {
    const total = Math.max(1, counts.reduce((sum, count) => sum + count, 0));
    const cells = counts.map((count) => shaded(count, count / total));
    body.append(h("tr", {}, h("th", { scope: "row" }, names[row] ?? `class ${row}`), ...cells));
  });
  table.append(body);
  const note = h("p", { class: "note" }, "Pixels; darker cells are a larger share of their row, the pixels of the true class.");
  return [h("div", { class: "scroll" }, table), note];
}

/** @param {number} count @param {number} share */
function shaded(count, share) {
  const cell = h("td", { title: `${(100 * share).toFixed(1)} % of the true class` }, count ? count.toLocaleString("en") : "·");
  cell.style.backgroundColor = `rgb(47 107 69 / ${share})`;
  if (share > DARK) cell.style.color = "#fff";
  return cell;
}
