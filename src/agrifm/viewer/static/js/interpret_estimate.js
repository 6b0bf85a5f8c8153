// @ts-check
/** The estimate, which can be asked for once every point is answered. */
import { ask } from "./api.js";
import { byId, group, h } from "./dom.js";
import { sample } from "./interpret_state.js";
import { intervalBars } from "./interval_bars.js";
import { dataTable } from "./run_tables.js";

/**
 * @typedef {{value: number | null, margin: number | null, low: number | null, high: number | null}} Value
 * @typedef {{name: string, hectares: Value, share: Value, user: Value, producer: Value}} ClassEstimate
 * @typedef {{units: number, overall: Value, classes: ClassEstimate[], units_mapped: number[], units_true: number[]}} Total
 * @typedef {{total: Total, mapped: number[], notes: string[]}} Estimate
 */

/** The group of the panel; it appears once every point is answered. */
export function buildEstimate() {
  const parts = sample.estimates ?
    [h("button", { id: "compute", type: "button", class: "main wide", click: showEstimate }, "Estimate"),
      h("p", { class: "note" }, "Answers that are changed after the estimate was seen are no longer independent of the map.")] :
    [h("p", { class: "note" }, `The sampling design, ${sample.title}.design.json, is not here. Whoever holds it computes the estimate with `,
      h("code", {}, `agrifm area estimate ${sample.title}`), ".")];
  const box = group("All points are answered", null, () => {}, ...parts);
  box.id = "estimate-group";
  box.hidden = true;
  return box;
}

/** Hide an estimate from which the answers differ by now. */
export function closeEstimate() {
  byId("estimate").hidden = true;
  byId("estimate").replaceChildren();
}

async function showEstimate() {
  /** @type {Estimate | undefined} */
  const found = await ask("estimate.json");
  if (found === undefined) return;
  const box = byId("estimate");
  box.replaceChildren(h("h2", {}, "Estimate"), summary(found.total), table(found), charts(found), ...found.notes.map((text) => h("p", { class: "note" }, text)));
  box.hidden = false;
  box.scrollIntoView();
  box.focus();
}

/** @param {Total} total */
function summary(total) {
  const facts = [["overall accuracy", `${margined(total.overall, 100, 1)} %`], ["points", total.units.toLocaleString("en")]];
  return h("dl", { class: "summary" }, ...facts.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
}

/** @param {Estimate} found */
function table({ total, mapped }) {
  const hectares = total.classes.reduce((sum, one) => sum + (one.hectares.value ?? 0), 0);
  const digits = hectares >= 1000 ? 0 : 1;
  const rows = total.classes.map((one, i) => ({
    cells: [one.name, rounded(mapped[i], digits), margined(one.hectares, 1, digits), margined(one.share, 100, 1), margined(one.user, 100, 1),
      margined(one.producer, 100, 1), String(total.units_mapped[i]), String(total.units_true[i])],
    strong: false,
  }));
  const head = ["class", "map, ha", "area, ha", "share, %", "user’s accuracy, %", "producer’s accuracy, %", "points mapped", "points true"];
  return dataTable(head, rows, "Areas and accuracies of each class with their intervals");
}

/** @param {Estimate} found */
function charts({ total, mapped }) {
  const areas = total.classes.map((one, i) => ({ name: one.name, ...one.hectares, mark: mapped[i] }));
  const users = total.classes.map((one) => ({ name: one.name, ...percent(one.user), mark: null }));
  const producers = total.classes.map((one) => ({ name: one.name, ...percent(one.producer), mark: null }));
  return h("div", { class: "side-by-side" },
    intervalBars("Area, ha (◆ counted on the map)", areas, null),
    intervalBars("User’s accuracy, %", users, 100),
    intervalBars("Producer’s accuracy, %", producers, 100));
}

/** @param {Value} one */
function percent(one) {
  const times = (/** @type {number | null} */ value) => (value === null ? null : 100 * value);
  return { value: times(one.value), low: times(one.low), high: times(one.high) };
}

/** @param {Value} one @param {number} factor @param {number} digits */
function margined(one, factor, digits) {
  if (one.value === null || one.margin === null) return "–";
  return `${rounded(factor * one.value, digits)} ± ${rounded(factor * one.margin, digits)}`;
}

/** @param {number} value @param {number} digits */
function rounded(value, digits) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
