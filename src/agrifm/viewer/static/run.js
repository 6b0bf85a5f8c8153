// @ts-check
/** The page of 'agrifm view' for a run: curves, pixel classifiers, scores and reliability. */
import { ask } from "./js/api.js";
import { byId, h } from "./js/dom.js";
import { curves, reliability } from "./js/run_charts.js";
import { confusionTable, dataTable, number } from "./js/run_tables.js";

/**
 * @typedef {import("./js/run_tables.js").ScoreFile} ScoreFile
 * @typedef {{title: string, folder: string, facts: Record<string, string>, best: string, epoch: number,
 *   history: Record<string, (number | null)[]>, scores: ScoreFile[], chips: string | null, note: string,
 *   members: {name: string, accuracy: number | null, mFscore: number | null, seconds: number | null, chosen: boolean}[],
 *   calibrations: import("./js/run_charts.js").Calibrated[]}} Run
 */

async function start() {
  /** @type {Run | undefined} */
  const run = await ask("run.json");
  if (run === undefined) return;
  document.title = `${run.title} – AgriFM`;
  byId("title").textContent = run.title;
  byId("subtitle").replaceChildren(run.folder);
  if (run.chips !== null) byId("subtitle").append(" · ", h("a", { href: "chips.html" }, run.chips));
  const sections = byId("sections");
  sections.append(section("Curves", ...curveParts(run)), section("Pixel classifiers", ...memberParts(run)));
  for (const scores of run.scores) sections.append(section(`Scores on ${scores.name}`, ...scoreParts(scores)));
  if (run.scores.length === 0) sections.append(section("Scores", missing("No evaluation lies in this folder. Make one with", "agrifm evaluate RUN/best.safetensors")));
  sections.append(section("Reliability", ...reliabilityParts(run)), section("The model", factList(run)));
  byId("run").setAttribute("aria-busy", "false");
}

/** @param {string} title @param {...Node} parts */
function section(title, ...parts) {
  return h("section", { class: "part" }, h("h2", {}, title), ...parts);
}

/** @param {string} text @param {string} command that makes what is missing */
function missing(text, command) {
  return h("p", { class: "note" }, `${text} `, h("code", {}, command), ".");
}

/** @param {Run} run */
function curveParts(run) {
  const { epoch, loss, ...scores } = run.history;
  if (epoch === undefined || epoch.length === 0) return [h("p", { class: "note" }, "No network was trained.")];
  const epochs = epoch.map((value) => Number(value) + 1);
  const parts = [];
  if (loss) parts.push(curves("Loss of training by epoch", epochs, [["loss", loss]], run.epoch + 1));
  const lines = Object.entries(scores);
  if (lines.length) parts.push(curves("Scores of validation by epoch", epochs, lines, run.epoch + 1, run.best));
  return [h("div", { class: "side-by-side" }, ...parts), h("p", { class: "note" }, `The dashed line marks the epoch that was kept, ${run.epoch + 1}.`)];
}

/** @param {Run} run */
function memberParts(run) {
  if (run.members.length === 0) return [h("p", { class: "note" }, "No pixel classifiers were compared in this run.")];
  const rows = run.members.map((one) => ({
    cells: [one.name, number(one.accuracy), number(one.mFscore), number(one.seconds, 1), one.chosen ? "chosen" : ""],
    strong: one.chosen,
  }));
  return [dataTable(["classifier", "accuracy", "mean F-score", "seconds", ""], rows, "Pixel classifiers with their scores in cross-validation")];
}

/** @param {ScoreFile} scores @returns {Node[]} */
function scoreParts(scores) {
  const summary = h("dl", { class: "summary" });
  for (const [name, value] of Object.entries(scores.summary)) summary.append(h("div", {}, h("dt", {}, name), h("dd", {}, number(value))));
  const rows = scores.classes.map((one) => ({
    cells: [one.name, number(one.IoU), number(one.Fscore), number(one.Precision), number(one.Recall), one.pixels?.toLocaleString("en") ?? "–"],
    strong: false,
  }));
  const parts = [summary];
  if (rows.length) parts.push(dataTable(["class", "IoU", "F-score", "precision", "recall", "pixels"], rows, `Scores of each class on ${scores.name}`));
  if (scores.confusion !== null) parts.push(...confusionTable(scores));
  return parts;
}

/** @param {Run} run @returns {Node[]} */
function reliabilityParts(run) {
  if (run.calibrations.length === 0) return [missing("The probabilities were not calibrated. Calibrate them with", "agrifm calibrate RUN/best.safetensors")];
  return [h("div", { class: "side-by-side" }, ...run.calibrations.map(reliability))];
}

/** @param {Run} run */
function factList(run) {
  const list = h("dl", { class: "facts" });
  for (const [name, value] of Object.entries(run.facts)) list.append(h("dt", {}, name), h("dd", {}, value));
  if (run.note) list.append(h("dt", {}, "chips"), h("dd", {}, run.note));
  return list;
}

start();
