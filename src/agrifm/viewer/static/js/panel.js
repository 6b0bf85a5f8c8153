// @ts-check
/** The panel at the left. */
import { byId, group, h, segments } from "./dom.js";
import { labelGroup } from "./label_panel.js";
import { redraw } from "./layers.js";
import { mapGroup } from "./legend.js";
import { sensorChanged, state, view } from "./state.js";
import { compare } from "./swipe.js";

/**
 * @typedef {import("./types.js").Images} Images
 */

export function buildPanel() {
  byId("title").textContent = view.title;
  if (view.images && view.maps.length === 0) {
    const dates = view.images.sensors.map((sensor) => `${sensor.days.length} of ${sensor.name}`);
    byId("subtitle").textContent = `Dates: ${dates.join(", ")}`;
  }
  document.title = `${view.title} – AgriFM`;
  const groups = byId("groups");
  if (view.labels) groups.append(labelGroup());
  if (view.maps.length) groups.append(mapGroup());
  if (view.images) groups.append(imageGroup(view.images));
  if (view.parcels) {
    const count = view.parcels.count;
    const note = `${count.toLocaleString("en")} ${count === 1 ? "outline" : "outlines"} of ${view.parcels.title}`;
    groups.append(
      group("Parcels", true, (on) => ((state.parcels = on), redraw()), h("p", { class: "note" }, note)),
    );
  }
  const sides = compareOptions();
  if (sides.length > 1) {
    const box = h("div", { class: "segments", role: "radiogroup", "aria-label": "Compare" });
    box.append(...segments("compare", sides, state.compare, (value) => compare(value)));
    groups.append(group("Compare", null, () => {}, box));
  }
  if (view.notes.length) {
    groups.append(h("section", { class: "group" }, ...view.notes.map((text) => h("p", { class: "note" }, text))));
  }
}

/** @returns {[string, string][]} */
function compareOptions() {
  /** @type {[string, string][]} */
  const options = [["off", "Off"]];
  if (view.maps.length && view.images) options.push(["images", "Images"]);
  if (view.maps.length > 1) options.push(["map", view.maps[1].title]);
  return options;
}

/** @param {Images} images */
function imageGroup(images) {
  const choices = h("div", { class: "segments", role: "radiogroup", "aria-label": "Colors of the images" });
  const fillChoices = () => {
    const possible = images.sensors[state.sensor].composites;
    /** @type {[string, string][]} */
    const options = possible.map((name) => [String(images.composites.indexOf(name)), name.replace(/^./, (c) => c.toUpperCase())]);
    if (!options.some(([value]) => value === String(state.composite))) state.composite = Number(options[0]?.[0] ?? 0);
    const choose = (/** @type {string} */ value) => ((state.composite = Number(value)), redraw());
    choices.replaceChildren(...segments("composite", options, String(state.composite), choose));
  };
  fillChoices();
  sensorChanged.push(fillChoices);
  const mark = (/** @type {any} */ event) => ((state.veil = event.target.checked), redraw());
  const veil = h("label", { class: "check" }, h("input", { type: "checkbox", id: "veil", change: mark }),
    h("span", {}, "Veil over clouds and gaps"));
  const colors = h("div", { class: "row" }, h("span", { class: "name" }, "Colors"), choices);
  const on = view.maps.length ? true : null;
  const note = images.note ? [h("p", { class: "note" }, images.note)] : [];
  return group("Images", on, (shown) => ((state.images = shown), redraw()), colors, veil, ...note);
}
