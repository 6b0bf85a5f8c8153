// @ts-check
/** Dates of the images and their clear shares. */
import { ask } from "./api.js";
import { byId, h, s, segments } from "./dom.js";
import { redraw, redrawSoon } from "./layers.js";
import { clear, dateChanged, sensorChanged, state, view } from "./state.js";
import { day } from "./text.js";

/**
 * @typedef {import("./types.js").Images} Images
 */

export function buildTimeline() {
  const images = view.images;
  if (images === null) return;
  state.steps = images.sensors.map((sensor) => Math.floor(sensor.days.length / 2));
  byId("timeline").hidden = false;
  document.body.classList.add("with-timeline");
  const chooseSensor = (/** @type {string} */ value) => {
    state.sensor = Number(value);
    sensorChanged.forEach((tell) => tell());
    showTimeline();
    redraw();
  };
  /** @type {[string, string][]} */
  const options = images.sensors.map((sensor, i) => [String(i), sensor.name]);
  byId("sensors").replaceChildren(...segments("sensor", options, "0", chooseSensor));
  byId("date").addEventListener("input", (/** @type {any} */ event) => setStep(Number(event.target.value)));
  byId("earlier").addEventListener("click", () => setStep(state.steps[state.sensor] - 1));
  byId("later").addEventListener("click", () => setStep(state.steps[state.sensor] + 1));
  showTimeline();
}

let touched = false; // whether the user has chosen a date

/** @param {number} step */
export function setStep(step) {
  touched = true;
  const days = /** @type {Images} */ (view.images).sensors[state.sensor].days;
  state.steps[state.sensor] = Math.max(0, Math.min(days.length - 1, step));
  showTimeline();
  dateChanged.forEach((tell) => tell());
  redrawSoon();
}

export function showTimeline() {
  const images = /** @type {Images} */ (view.images);
  const days = images.sensors[state.sensor].days;
  const step = state.steps[state.sensor];
  const slider = byId("date");
  slider.max = days.length - 1;
  slider.value = step;
  const share = clear.get(`${state.sensor}/${step}`);
  const text = share === undefined ? "" : `${Math.round(100 * share)} % clear`;
  slider.setAttribute("aria-valuetext", `${day(days[step])} ${text}`);
  byId("shown").replaceChildren(day(days[step]), h("small", {}, text));
  byId("earlier").disabled = step === 0;
  byId("later").disabled = step === days.length - 1;
  const ends = byId("ends").children;
  ends[0].textContent = day(days[0]);
  ends[2].textContent = day(days[days.length - 1]);
  showBars(days, step);
}

/** @param {string[]} days @param {number} chosen */
function showBars(days, chosen) {
  const bars = byId("bars");
  const width = bars.clientWidth || 400;
  const height = 30;
  // The thumb of a slider moves within its track by half of its own width at both ends.
  const inset = 8;
  const gap = days.length > 1 ? (width - 2 * inset) / (days.length - 1) : 0;
  const wide = Math.max(2, Math.min(14, gap - 3 || 14));
  bars.replaceChildren();
  days.forEach((text, step) => {
    const share = clear.get(`${state.sensor}/${step}`);
    const tall = share === undefined ? 2 : 3 + share * (height - 3);
    const color = step === chosen ? "#2f6b45" : share === undefined ? "#dfe2e4" : "#b9c6be";
    const attributes = { x: inset + step * gap - wide / 2, y: height - tall, width: wide, height: tall, rx: 2, fill: color };
    const title = share === undefined ? day(text) : `${day(text)}: ${Math.round(100 * share)} % clear`;
    bars.append(s("rect", { ...attributes, click: () => setStep(step) }, s("title", {}, title)));
  });
}

/**
 * Ask for the clear share of a date, unless it is known.
 * @param {number} sensor @param {number} step
 * @returns {Promise<boolean>} whether the server answered
 */
async function readClearShare(sensor, step) {
  const key = `${sensor}/${step}`;
  if (clear.has(key)) return true;
  const found = await ask(`clear/${key}.json`);
  if (found === undefined) return false;
  clear.set(key, found.clear);
  showTimeline();
  return true;
}

/** Begin with the clearest of a few dates, so that the first image is no cloud. */
export async function chooseFirstDate() {
  const days = /** @type {Images} */ (view.images).sensors[0].days;
  const candidates = [1, 3, 5, 7, 9].map((tenth) => Math.floor((tenth / 10) * days.length));
  const share = (/** @type {number} */ step) => clear.get(`0/${step}`) ?? 0;
  for (const step of candidates) {
    if (touched || !(await readClearShare(0, step))) return;
  }
  if (!touched) state.steps[0] = candidates.reduce((best, step) => (share(step) > share(best) ? step : best));
  showTimeline();
}

/** Ask for the clear shares of all dates, one after the other, those of the chosen sensor first. */
export async function readClearShares() {
  const images = /** @type {Images} */ (view.images);
  for (;;) {
    const open = [state.sensor, ...images.sensors.keys()].flatMap((sensor) =>
      images.sensors[sensor].days.map((_, step) => ({ sensor, step })).filter(({ step }) => !clear.has(`${sensor}/${step}`)));
    if (open.length === 0 || !(await readClearShare(open[0].sensor, open[0].step))) return;
  }
}

/** @param {number} sensor @param {number} step */
export function goTo(sensor, step) {
  const choice = document.querySelector(`#sensors input[value="${sensor}"]`);
  if (choice instanceof HTMLInputElement && !choice.checked) choice.click();
  setStep(step);
}
