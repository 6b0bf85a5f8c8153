// @ts-check
/** The points of a sample, their answers, and the point that is shown. */

/**
 * @typedef {{id: number, lon: number, lat: number, answer: string, saved: string}} Point `saved` is the answer in the file
 * @typedef {{title: string, classes: {name: string, color: string}[], points: Point[],
 *   images: import("./types.js").Images | null, notes: string[], estimates: boolean}} Sample
 */

/** @type {Sample} */
export let sample;

let shown = 0; // position of the shown point

/** @type {(() => Promise<void> | void)[]} called after another point was chosen */
export const pointChanged = [];

/** @type {(() => void)[]} called after an answer was given, saved or refused */
export const answerChanged = [];

/** @param {Sample} found what the server shows */
export function setSample(found) {
  sample = found;
  for (const point of sample.points) point.saved = point.answer;
}

/** Position of the shown point. */
export function position() {
  return shown;
}

/** The shown point. */
export function current() {
  return sample.points[shown];
}

/** Number of points with an answer. */
export function answered() {
  return sample.points.filter((point) => point.answer !== "").length;
}

/** Position of the first point without an answer; -1 if there is none. */
export function firstOpen() {
  return sample.points.findIndex((point) => point.answer === "");
}

/** @param {number} number position of the point to show */
export async function showPoint(number) {
  shown = Math.max(0, Math.min(sample.points.length - 1, number));
  await Promise.all(pointChanged.map((tell) => tell()));
}

export function tellAnswers() {
  answerChanged.forEach((tell) => tell());
}
