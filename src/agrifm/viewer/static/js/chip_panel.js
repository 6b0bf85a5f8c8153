// @ts-check
/** The panel beside chips: splits with their numbers, and classes with their labeled pixels. */
import { chips, shownSplits, splitColor, tellChips } from "./chip_state.js";
import { byId, h, swatch } from "./dom.js";

/** @param {boolean} ofRun whether the page belongs to a run, to which a link leads back */
export function buildChipPanel(ofRun) {
  byId("title").textContent = chips.title;
  document.title = `${chips.title} – AgriFM`;
  const count = chips.chips.length;
  byId("subtitle").replaceChildren(`${count.toLocaleString("en")} ${count === 1 ? "chip" : "chips"}`);
  if (ofRun) byId("subtitle").append(" · ", h("a", { href: "./" }, "the run"));
  const groups = byId("groups");
  groups.append(splitGroup(), classGroup());
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

/** @param {number} value */
function compact(value) {
  return value.toLocaleString("en", { notation: value >= 1e5 ? "compact" : "standard", maximumFractionDigits: 1 });
}
