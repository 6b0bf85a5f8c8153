// @ts-check
/** Training from the saved labels: it is started, watched and cancelled here, and its map is shown. */
import { ask, send } from "./api.js";
import { byId, h } from "./dom.js";
import { isUnsaved, labels, labelsChanged } from "./label_state.js";
import { reloadHere } from "./reload.js";
import { view } from "./state.js";

/**
 * @typedef {{state: "none" | "running" | "cancelled" | "failed" | "done", folder: string, steps: string[], step: number,
 *   seconds: number, line: string, error: string, commands: string[], map: number | null}} Job
 */

const INTERVAL = 1000; // milliseconds between questions

/** @type {Job} */
let job = { state: "none", folder: "", steps: [], step: 0, seconds: 0, line: "", error: "", commands: [], map: null };
let asked = false; // to start or to cancel, and not answered yet

/** @returns {HTMLElement} the part of the panel */
export function trainingBox() {
  const buttons = h("div", { class: "row buttons" },
    h("button", { type: "button", id: "train", click: start }, "Train"),
    h("button", { type: "button", id: "cancel-training", click: cancel }, "Cancel"),
    h("button", { type: "button", id: "show-map", class: "main", click: reloadHere }, "Show the new map"));
  const commands = h("details", { id: "training-commands" }, h("summary", {}, "Commands"), h("pre"));
  labelsChanged.push(show);
  return h("div", { id: "training" }, buttons, h("progress", { id: "training-progress", "aria-label": "Steps of the training" }),
    h("p", { class: "note", id: "training-status", role: "status" }), h("p", { class: "note", id: "training-line" }), commands);
}

/** Read whether a training runs, which may have been started before the page was reloaded. */
export async function readTraining() {
  const found = await ask("training.json");
  if (found !== undefined) settle(found);
}

async function start() {
  await request("training.json", { version: labels.version });
}

async function cancel() {
  await request("training/cancel.json", {});
}

/** @param {string} path @param {any} value */
async function request(path, value) {
  asked = true;
  show();
  const found = await send(path, value);
  asked = false;
  if (found === undefined) show();
  else settle(found);
}

let timer = 0;

/** @param {any} found state of the training */
function settle(found) {
  job = { ...job, ...found };
  clearTimeout(timer);
  if (job.state === "running") timer = window.setTimeout(readTraining, INTERVAL);
  // A map is shown at once, unless this would lose what was drawn meanwhile.
  if (isNew() && !isUnsaved() && labels.draft.length === 0) reloadHere();
  show();
}

/** Whether there is a map that the page does not show yet. */
function isNew() {
  return job.map !== null && job.map > (view.maps[0]?.number ?? -1);
}

/** @returns {string} */
function status() {
  if (job.state === "running") return `Step ${job.step + 1} of ${job.steps.length}: ${job.steps[job.step].toLowerCase()}.`;
  if (job.state === "failed") return job.error;
  if (job.state === "cancelled") return "Cancelled; the map that is shown stays.";
  if (isNew()) return isUnsaved() ? "The new map is ready. Save the labels to show it." : "The new map is ready.";
  if (isUnsaved()) return "Training starts from saved labels.";
  return job.state === "done" ? `Trained within ${job.seconds} s. Files: ${job.folder}` : "";
}

function show() {
  const runs = job.state === "running";
  byId("train").disabled = runs || asked || isUnsaved() || labels.features.length === 0;
  byId("cancel-training").hidden = !runs;
  byId("cancel-training").disabled = asked;
  byId("show-map").hidden = !isNew();
  byId("show-map").disabled = isUnsaved() || labels.draft.length > 0;
  byId("training-progress").hidden = !runs;
  byId("training-progress").max = job.steps.length;
  byId("training-progress").value = job.step + 0.5;
  // Readers of the screen announce the status whenever it is set.
  const text = status();
  if (byId("training-status").textContent !== text) byId("training-status").textContent = text;
  byId("training-status").classList.toggle("unsaved", job.state === "failed");
  byId("training-line").textContent = runs ? `${job.seconds} s. ${job.line}` : "";
  byId("training-commands").hidden = job.commands.length === 0;
  byId("training-commands").querySelector("pre").textContent = job.commands.join("\n\n");
}
