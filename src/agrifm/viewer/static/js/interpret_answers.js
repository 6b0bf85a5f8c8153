// @ts-check
/** The panel of answers: progress, the classes to choose from, and the way through the points. */
import { send } from "./api.js";
import { byId, group, h, swatch } from "./dom.js";
import { buildEstimate, closeEstimate } from "./interpret_estimate.js";
import { answerChanged, answered, current, firstOpen, pointChanged, position, sample, showPoint, tellAnswers } from "./interpret_state.js";

const KEYS = 9; // classes that have a key

let waiting = 0; // answers that are being saved
let failed = false; // whether the latest answer could not be saved
let saving = Promise.resolve(); // answers are saved one after the other

/** Build the panel, and keep it up to date. */
export function buildAnswers() {
  const buttons = sample.classes.map((entry, i) => {
    const key = i < KEYS ? String(i + 1) : null;
    const attributes = { type: "button", class: "answer-class", "aria-pressed": "false", "aria-keyshortcuts": key };
    const name = h("span", { class: "label-name" }, entry.name);
    return h("button", { ...attributes, click: () => answer(entry.name) }, swatch(entry.color), name, ...(key === null ? [] : [h("kbd", {}, key)]));
  });
  const clear = h("button", { id: "clear", type: "button", "aria-keyshortcuts": "u", click: () => answer("") }, "Clear the answer ", h("kbd", {}, "U"));
  const open = h("button", { id: "first-open", type: "button", class: "wide", "aria-keyshortcuts": "f", click: showFirstOpen }, "First unanswered point ", h("kbd", {}, "F"));
  const progress = [h("p", { id: "progress", role: "status" }), h("progress", { id: "bar", max: sample.points.length, value: 0, "aria-label": "Answered points" }), open];
  const classes = [h("div", { id: "classes", role: "group", "aria-label": "Classes" }, ...buttons), h("div", { class: "row buttons" }, clear),
    h("p", { id: "other", class: "note", hidden: true }), h("p", { id: "saved", class: "note", role: "status" })];
  const notes = sample.notes.map((text) => h("p", { class: "note" }, text));
  byId("groups").replaceChildren(group("Progress", null, () => {}, ...progress, ...notes), group("Class of this pixel", null, () => {}, ...classes), buildEstimate());
  byId("previous").addEventListener("click", () => showPoint(position() - 1));
  byId("next").addEventListener("click", () => showPoint(position() + 1));
  window.addEventListener("beforeunload", (event) => {
    if (waiting > 0) event.preventDefault();
  });
  pointChanged.push(update);
  answerChanged.push(update);
}

/**
 * Do what a key stands for.
 * @param {string} key
 * @returns {boolean} whether it stands for anything here
 */
export function answerKey(key) {
  const entry = /^[1-9]$/.test(key) ? sample.classes[Number(key) - 1] : undefined;
  if (entry !== undefined) answer(entry.name);
  else if (key === "n" || key === "N") showPoint(position() + 1);
  else if (key === "p" || key === "P") showPoint(position() - 1);
  else if (key === "u" || key === "U") answer("");
  else if (key === "f" || key === "F") showFirstOpen();
  else return false;
  return true;
}

function showFirstOpen() {
  if (firstOpen() >= 0) showPoint(firstOpen());
}

/** Give an answer to the shown point and save it. @param {string} name of the class; empty to clear it */
function answer(name) {
  const point = current();
  if (point.answer === name) return;
  point.answer = name;
  waiting++;
  closeEstimate();
  tellAnswers();
  saving = saving.then(() => save(point, name));
}

/** @param {import("./interpret_state.js").Point} point @param {string} name */
async function save(point, name) {
  const reply = await send("answer.json", { id: point.id, answer: name, before: point.saved });
  waiting--;
  failed = reply === undefined;
  if (failed) point.answer = point.saved;
  else point.saved = name;
  tellAnswers();
}

function update() {
  const point = current();
  const count = answered();
  const total = sample.points.length;
  byId("progress").textContent = `${count.toLocaleString("en")} of ${total.toLocaleString("en")} answered`;
  byId("bar").value = count;
  byId("first-open").disabled = count === total;
  byId("previous").disabled = position() === 0;
  byId("next").disabled = position() === total - 1;
  byId("clear").disabled = point.answer === "";
  const chosen = sample.classes.findIndex((entry) => entry.name.toLowerCase() === point.answer.toLowerCase());
  [...byId("classes").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
  const isOther = point.answer !== "" && chosen < 0;
  byId("other").hidden = !isOther;
  byId("other").textContent = isOther ? `The file holds “${point.answer}”. Choosing a class replaces it.` : "";
  const saved = failed ? "The latest answer was not saved." : `Every answer is saved in ${sample.title} at once.`;
  byId("saved").textContent = waiting > 0 ? "Saving…" : saved;
  byId("saved").classList.toggle("unsaved", failed);
  const isComplete = count === total && waiting === 0 && !failed;
  byId("estimate-group").hidden = !isComplete;
}
