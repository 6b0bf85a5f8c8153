// @ts-check
/** The group of labels in the panel, its keys, and the list of places where the map is least sure. */
import { ask } from "./api.js";
import { byId, group, h, segments, swatch } from "./dom.js";
import {
  addClass, addLabel, chooseClass, chooseTool, deleteSelected, finishPolygon, isUnsaved, labels, labelsChanged, saveLabels,
  tellLabels, undo,
} from "./label_state.js";
import { left } from "./layers.js";
import { selectPlace } from "./pixel.js";
import { view } from "./state.js";
import { trainingBox } from "./train_panel.js";

/** @typedef {{lon: number, lat: number, confidence: number}} Doubt */

/** @type {Doubt[]} */
let worklist = [];
let current = -1; // place of the list that is shown

/** @returns {HTMLElement} the group of labels */
export function labelGroup() {
  const tools = h("div", { class: "segments", role: "radiogroup", "aria-label": "Tool" });
  /** @type {[string, string][]} */
  const options = [["look", "Look"], ["point", "Point"], ["polygon", "Polygon"], ["edit", "Edit"]];
  tools.append(...segments("tool", options, labels.tool, (value) => chooseTool(/** @type {any} */ (value))));
  const name = h("input", { type: "text", id: "new-class", placeholder: "Another class", maxlength: 100, "aria-label": "Name of another class" });
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    addClass(name.value);
    name.value = "";
  };
  const form = h("form", { class: "row add", submit }, name, h("button", { type: "submit" }, "Add"));
  const buttons = h("div", { class: "row buttons" },
    h("button", { type: "button", id: "undo", title: "Ctrl+Z", click: undo }, "Undo"),
    h("button", { type: "button", id: "delete", click: deleteSelected }, "Delete"),
    h("button", { type: "button", id: "save-labels", class: "main", title: "Ctrl+S", click: saveLabels }, "Save"));
  const parts = [tools, h("p", { class: "note", id: "tool-help", "aria-live": "polite" }), h("div", { id: "label-classes" }), form,
    h("div", { id: "worklist" }), buttons, h("p", { class: "note", id: "label-status", role: "status" })];
  labelsChanged.push(showPanel);
  if (view.training) parts.push(trainingBox());
  return group("Labels", null, () => {}, ...parts);
}

/** Begin to label: keys, the list of places, and a warning before unsaved labels are left. */
export async function startLabeling() {
  document.addEventListener("keydown", pressed);
  window.addEventListener("beforeunload", (event) => {
    if (isUnsaved()) event.preventDefault();
  });
  showPanel();
  if (view.maps.length) worklist = (await ask("worklist.json")) ?? [];
  showWorklist();
}

const HELP = {
  look: "A click shows what the map holds. Keys 1 to 9 choose a class.",
  point: "A click, or Space for the middle of the map, adds a point of the chosen class.",
  polygon: "Clicks, or Space for the middle of the map, add corners; Enter or a click on the first corner closes the outline.",
  edit: "A click selects a label: drag it, choose another class, or delete it.",
};

function showPanel() {
  byId("tool-help").textContent = HELP[labels.tool];
  document.body.classList.toggle("drawing", labels.tool === "point" || labels.tool === "polygon");
  const chosenTool = document.querySelector(`input[name=tool][value=${labels.tool}]`);
  if (chosenTool instanceof HTMLInputElement) chosenTool.checked = true;
  showClasses();
  byId("undo").disabled = labels.earlier.length === 0 && labels.draft.length === 0;
  byId("delete").disabled = labels.selected === null;
  byId("save-labels").disabled = !isUnsaved() || labels.saving;
  const count = `${labels.features.length} ${labels.features.length === 1 ? "label" : "labels"}`;
  const status = labels.saving ? "Saving…" : isUnsaved() ? "Not saved yet." : `As in ${labels.title}.`;
  byId("label-status").textContent = `${count}. ${status}`;
  byId("label-status").classList.toggle("unsaved", isUnsaved());
  document.title = `${isUnsaved() ? "• " : ""}${view.title} – AgriFM`;
}

function showClasses() {
  const focused = document.activeElement instanceof HTMLInputElement && document.activeElement.name === "label-class";
  const rows = labels.classes.map((entry, number) => {
    const count = labels.features.filter((label) => label.class === entry.name).length;
    const attributes = { type: "radio", name: "label-class", value: number, checked: number === labels.chosen };
    const key = h("kbd", { "aria-hidden": true }, number < 9 ? String(number + 1) : "");
    return h("label", { class: "label-class" }, h("input", { ...attributes, change: () => chooseClass(number) }), key,
      swatch(entry.color), h("span", { class: "label-name" }, entry.name), h("span", { class: "number" }, String(count)));
  });
  const box = byId("label-classes");
  box.setAttribute("role", "radiogroup");
  box.setAttribute("aria-label", "Class of new labels");
  box.replaceChildren(...rows);
  if (focused) box.querySelector("input:checked")?.focus();
}

function showWorklist() {
  const box = byId("worklist");
  if (worklist.length === 0) {
    box.replaceChildren();
    return;
  }
  const place = worklist[current];
  const text = place === undefined ? `${worklist.length} places where the map is least sure` :
    `Place ${current + 1} of ${worklist.length}: ${place.confidence} % sure`;
  const button = (/** @type {string} */ name, /** @type {string} */ key, /** @type {() => void} */ click, disabled = false) =>
    h("button", { type: "button", title: `Key ${key}`, disabled, click }, name);
  box.replaceChildren(
    h("p", { class: "note", "aria-live": "polite" }, text),
    h("div", { class: "row buttons" }, button("Previous", "P", () => visit(current - 1), current <= 0),
      button("Next", "N", () => visit(current + 1), current === worklist.length - 1),
      button("Label here", "Enter", labelHere, place === undefined)),
  );
}

/** Show a place of the list. @param {number} number */
function visit(number) {
  const place = worklist[number];
  if (place === undefined) return;
  current = number;
  const { lon, lat } = place;
  // The place lies in the middle of what the panel and the card leave free.
  const offset = [(byId("panel").getBoundingClientRect().right - 360) / 2, 0];
  const zoom = Math.max(left.map.getZoom(), view.maps[0].zoom - 1);
  left.map.easeTo({ center: [lon, lat], zoom, offset, duration: 250 });
  selectPlace(lon, lat);
  showWorklist();
}

/** Give the place that is shown the chosen class, and go on to the next one. */
function labelHere() {
  const place = worklist[current];
  if (place === undefined) return;
  addLabel({ type: "Point", coordinates: [place.lon, place.lat] });
  if (labels.classes.length) visit(current + 1);
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  const target = event.target;
  const isText = target instanceof HTMLInputElement && target.type === "text";
  if (event.ctrlKey || event.metaKey) {
    const action = { z: undo, s: saveLabels }[event.key.toLowerCase()];
    if (action === undefined || (isText && action === undo)) return;
    event.preventDefault();
    action();
    return;
  }
  if (isText || event.altKey || target instanceof HTMLSelectElement) return;
  if (/^[1-9]$/.test(event.key)) chooseClass(Number(event.key) - 1);
  if (event.key === "Enter" && !(target instanceof HTMLButtonElement)) {
    if (labels.draft.length) finishPolygon();
    else labelHere();
  }
  if (event.key === " " && target instanceof HTMLCanvasElement) addAtCenter();
  const others = { n: () => visit(current + 1), p: () => visit(current - 1), Delete: deleteSelected, Escape: leave };
  if (event.key === "Backspace" && labels.draft.length) undo();
  /** @type {Record<string, (() => void) | undefined>} */ (others)[event.key]?.();
}

/** Add a point or a corner in the middle of the map, which arrow keys move. */
function addAtCenter() {
  const { lng, lat } = left.map.getCenter();
  if (labels.tool === "point") addLabel({ type: "Point", coordinates: [lng, lat] });
  if (labels.tool !== "polygon") return;
  labels.draft = [...labels.draft, [lng, lat]];
  tellLabels();
}

/** Leave a polygon or a selection. */
function leave() {
  labels.draft = [];
  labels.selected = null;
  tellLabels();
}
