// @ts-check
/** The panel beside chips: splits with their numbers, and classes with their labeled pixels. */
import { chips, chipsChanged, selected, shownChips, shownSplits, splitColor, tellChips } from "./chip_state.js";
import { byId, h, swatch } from "./dom.js";

const MOST_NAMES = 5000; // chips in the list; more can be chosen on the map only

/**
 * @param {boolean} ofRun whether the page belongs to a run, to which a link leads back
 * @param {(number: number) => void} open called with the number of a chosen chip
 */
export function buildChipPanel(ofRun, open) {
  byId("title").textContent = chips.title;
  document.title = `${chips.title} – AgriFM`;
  const count = chips.chips.length;
  byId("subtitle").replaceChildren(`${count.toLocaleString("en")} ${count === 1 ? "chip" : "chips"}`);
  if (ofRun) byId("subtitle").append(" · ", h("a", { href: "./" }, "the run"));
  const groups = byId("groups");
  groups.append(splitGroup(), classGroup(), chipGroup(open));
  const problems = chips.chips.filter((chip) => chip.problem !== undefined);
  if (problems.length) {
    const texts = problems.slice(0, 5).map((chip) => h("p", { class: "note" }, String(chip.problem)));
    groups.append(h("section", { class: "group" }, h("h2", {}, `${problems.length} cannot be read`), ...texts));
  }
}

function splitGroup() {
  const table = h("table", { class: "legend" });
  for (const split of chips.splits) {
    const count = chips.chips.filter((chip) => chip.split === split).length;
    const row = h("tr");
    const toggle = (/** @type {any} */ event) => {
      if (event.target.checked) shownSplits.add(split);
      else shownSplits.delete(split);
      row.classList.toggle("off", !event.target.checked);
      tellChips();
    };
    const box = h("input", { type: "checkbox", checked: true, change: toggle });
    row.append(h("td", {}, h("label", {}, box, swatch(splitColor(split)), h("span", {}, split))), h("td", {}, count.toLocaleString("en")));
    table.append(row);
  }
  return h("section", { class: "group" }, h("div", { class: "head" }, h("h2", {}, "Splits")), table);
}

function classGroup() {
  const head = h("tr", {}, h("th", { scope: "col" }, "labeled pixels"), ...chips.splits.map((split) => h("th", { scope: "col" }, split)));
  const table = h("table", { class: "legend" }, head);
  for (const entry of chips.classes) {
    const sums = chips.splits.map((split) => {
      const ofSplit = chips.chips.filter((chip) => chip.split === split);
      return ofSplit.reduce((sum, chip) => sum + (chip.pixels[entry.name] ?? 0), 0);
    });
    const name = h("span", { class: "entry" }, swatch(entry.color), h("span", {}, entry.name));
    table.append(h("tr", {}, h("td", {}, name), ...sums.map((sum) => h("td", { class: sum ? null : "none" }, compact(sum)))));
  }
  return h("section", { class: "group" }, h("div", { class: "head" }, h("h2", {}, "Classes")), table);
}

/** All chips by name, for those who do not point. @param {(number: number) => void} open */
function chipGroup(open) {
  const none = h("option", { value: "" }, "Choose a chip");
  const options = [...shownChips()].slice(0, MOST_NAMES).map((number) => {
    const { name, split } = chips.chips[number];
    return h("option", { value: number }, `${name} (${split})`);
  });
  const choose = (/** @type {any} */ event) => event.target.value !== "" && open(Number(event.target.value));
  const list = h("select", { id: "chip", "aria-label": "Chip", change: choose }, none, ...options);
  chipsChanged.push(() => (list.value = selected.number < 0 ? "" : String(selected.number)));
  return h("section", { class: "group" }, list);
}

/** @param {number} value */
function compact(value) {
  return value.toLocaleString("en", { notation: value >= 1e5 ? "compact" : "standard", maximumFractionDigits: 1 });
}
