// @ts-check
/** The image around the shown point on any date, and the series of its pixel. */
import { ask } from "./api.js";
import { byId, h, s, segments } from "./dom.js";
import { current, pointChanged, position, sample } from "./interpret_state.js";
import { seriesSections } from "./series_charts.js";
import { day } from "./text.js";

/**
 * @typedef {import("./types.js").Images} Images
 * @typedef {import("./types.js").Series} Series
 * @typedef {{outline: [number, number][], meters: number, series: Series[]}} Detail
 */

const NEAR = 3; // times that the near view is enlarged; as in the style sheet

const look = {
  sensor: 0,
  /** @type {number[]} date of each sensor; -1 before the first point */
  steps: [],
  composite: 0,
  near: false,
  /** @type {Detail | null} null while it is read, and outside of the images */
  detail: null,
};

export function buildImages() {
  if (sample.images !== null) look.steps = sample.images.sensors.map(() => -1);
  byId("looking").classList.toggle("alone", sample.images === null);
  byId("series").hidden = sample.images === null;
  byId("picture").replaceChildren(h("div", { id: "head", class: "point-head" }), ...(sample.images === null ? [] : imageParts(sample.images)));
  pointChanged.push(showImages);
}

/** @param {Images} images @returns {Node[]} */
function imageParts(images) {
  const chooseSensor = (/** @type {string} */ value) => {
    look.sensor = Number(value);
    showChoices();
    show();
  };
  const chooseSize = (/** @type {string} */ value) => {
    look.near = value === "near";
    show();
  };
  /** @type {[string, string][]} */
  const sensors = images.sensors.map((sensor, i) => [String(i), sensor.name]);
  const slide = (/** @type {any} */ event) => setStep(Number(event.target.value));
  return [
    h("figure", { id: "chip" }),
    h("div", { class: "choices" },
      h("div", { class: "segments", role: "radiogroup", "aria-label": "Sensor" }, ...segments("sensor", sensors, "0", chooseSensor)),
      h("div", { id: "composites", class: "segments", role: "radiogroup", "aria-label": "Colors" }),
      h("div", { id: "sizes", class: "segments", role: "radiogroup", "aria-label": "Width of the image" }, ...segments("size", [["far", "wide"], ["near", "near"]], "far", chooseSize))),
    h("div", { class: "dates" },
      h("button", { id: "earlier", type: "button", "aria-label": "Earlier date", click: () => move(-1) }, "‹"),
      h("input", { id: "when", type: "range", min: 0, max: 0, value: 0, step: 1, "aria-label": "Date", input: slide }),
      h("button", { id: "later", type: "button", "aria-label": "Later date", click: () => move(1) }, "›"),
      h("output", { id: "date-text", for: "when" })),
  ];
}

/**
 * Do what a key stands for.
 * @param {string} key
 * @returns {boolean} whether it stands for anything here
 */
export function imageKey(key) {
  if (sample.images === null) return false;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (step !== undefined && !(document.activeElement instanceof HTMLInputElement)) move(step);
  else if (key === "z" || key === "Z") document.querySelector("#sizes input:not(:checked)")?.dispatchEvent(new MouseEvent("click"));
  else return false;
  return true;
}

/** Show the image and the series of the current point. */
async function showImages() {
  const point = current();
  const number = position();
  const place = h("code", { title: "Latitude, longitude" }, `${point.lat.toFixed(7)}, ${point.lon.toFixed(7)}`);
  byId("head").replaceChildren(h("h2", {}, `Point ${point.id}`), h("p", {}, `${number + 1} of ${sample.points.length}`), h("p", {}, "latitude, longitude: ", place));
  if (sample.images === null) return;
  look.detail = null;
  byId("chip").replaceChildren();
  byId("series").replaceChildren(h("p", { class: "busy" }, "Reading the series of this pixel…"));
  const detail = await ask(`point/${number}.json`);
  if (position() !== number || detail === undefined) return;
  look.detail = detail;
  if (detail === null) {
    byId("series").replaceChildren(h("p", { class: "busy" }, "This point lies outside of the images."));
    return;
  }
  look.steps = look.steps.map((step, sensor) => clearStep(detail.series[sensor].clear, step));
  showChoices();
  show();
}

/** The clear date that lies closest to a date; before the first point, the middle one of all clear dates. @param {boolean[]} clear @param {number} step */
function clearStep(clear, step) {
  const candidates = [...clear.keys()].filter((one) => clear[one]);
  if (candidates.length === 0) return Math.max(0, step);
  if (step < 0) return candidates[Math.floor(candidates.length / 2)];
  return candidates.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best));
}

/** Offer the composites that the sensor has. */
function showChoices() {
  const images = /** @type {Images} */ (sample.images);
  const names = images.sensors[look.sensor].composites;
  if (!names.includes(images.composites[look.composite])) look.composite = Math.max(0, images.composites.indexOf(names[0]));
  const choose = (/** @type {string} */ value) => {
    look.composite = Number(value);
    show();
  };
  /** @type {[string, string][]} */
  const options = names.map((name) => [String(images.composites.indexOf(name)), name]);
  byId("composites").replaceChildren(...segments("composite", options, String(look.composite), choose));
}

/** @param {number} by number of dates */
function move(by) {
  setStep(look.steps[look.sensor] + by);
}

/** @param {number} step */
function setStep(step) {
  const days = /** @type {Images} */ (sample.images).sensors[look.sensor].days;
  look.steps[look.sensor] = Math.max(0, Math.min(days.length - 1, step));
  show();
}

/** Show the chosen date. */
function show() {
  const detail = look.detail;
  if (detail === null) return;
  const images = /** @type {Images} */ (sample.images);
  const days = images.sensors[look.sensor].days;
  const step = look.steps[look.sensor];
  const state = dateState(detail.series[look.sensor], step);
  const slider = byId("when");
  slider.max = days.length - 1;
  slider.value = step;
  slider.setAttribute("aria-valuetext", `${day(days[step])}, ${state}`);
  byId("date-text").replaceChildren(day(days[step]), h("small", {}, state));
  byId("earlier").disabled = step === 0;
  byId("later").disabled = step === days.length - 1;
  const meters = look.near ? Math.round(detail.meters / NEAR) : detail.meters;
  const source = `point/${position()}/${look.sensor}/${step}/${look.composite}.png`;
  showChip(detail, source, `${images.composites[look.composite]} on ${day(days[step])}, ${meters} m wide; the pixel of the point is outlined in the middle`);
  const go = (/** @type {number} */ sensor, /** @type {number} */ date) => goTo(sensor, date);
  byId("series").replaceChildren(...seriesSections(detail.series, look.sensor, days[step], go));
}

/** @param {Detail} detail @param {string} source @param {string} description */
function showChip(detail, source, description) {
  const chip = byId("chip");
  chip.classList.toggle("near", look.near);
  const image = chip.querySelector("img");
  if (image !== null) {
    image.src = source; // the former date stays visible until this one has arrived
    image.alt = description;
    return;
  }
  const points = detail.outline.map(([x, y]) => `${x},${y}`).join(" ");
  const outline = s("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": true }, s("polygon", { class: "edge", points }), s("polygon", { class: "core", points }));
  chip.replaceChildren(h("div", { class: "layer" }, h("img", { src: source, alt: description }), outline));
}

/** @param {Series} series @param {number} step */
function dateState(series, step) {
  if (series.clear[step]) return "clear here";
  return series.bands.every((band) => band.values[step] === null) ? "no data here" : "not clear here";
}

/** @param {number} sensor @param {number} step */
function goTo(sensor, step) {
  const choice = document.querySelector(`input[name="sensor"][value="${sensor}"]`);
  if (choice instanceof HTMLInputElement && !choice.checked) choice.click();
  setStep(step);
}
