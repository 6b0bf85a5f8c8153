// @ts-check
/** The card of a chip: its picture, its label, and series of its classes and of a clicked pixel. */
import { ask } from "./api.js";
import { NO_DATE, SENSOR_COLORS, keyList, ndviChart } from "./chart.js";
import { chips, selected, splitColor, tellChips } from "./chip_state.js";
import { byId, h, segments, swatch } from "./dom.js";
import { day } from "./text.js";

/**
 * @typedef {{name: string, days: string[] | null, clear: number[], series: {class: number, ndvi: (number | null)[]}[]}} ChipSensor
 * @typedef {{name: string, split: string, label: {height: number, width: number} | null, sensors: ChipSensor[]}} Detail
 * @typedef {{class: number | null, series: {sensor: string, days: string[] | null, clear: boolean[], ndvi: (number | null)[]}[]}} Pixel
 */

const shown = {
  /** @type {Detail | null} */
  detail: null,
  sensor: 0,
  /** @type {number[]} date of each sensor */
  steps: [],
  label: true,
  /** @type {Pixel | null} */
  pixel: null,
  /** @type {{x: number, y: number} | null} place of the clicked pixel within the chip */
  place: null,
};

/** Arrow keys change the date while the card is open. */
export function watchChips() {
  document.addEventListener("keydown", (event) => {
    if (shown.detail === null || document.activeElement instanceof HTMLInputElement) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step !== undefined && document.activeElement?.tagName !== "CANVAS") setStep(shown.steps[shown.sensor] + step);
  });
}

/** @param {number} number of the chip */
export async function openChip(number) {
  selected.number = number;
  tellChips();
  const detail = await ask(`chip/${number}.json`);
  if (detail === undefined || selected.number !== number) return;
  Object.assign(shown, { detail, sensor: 0, pixel: null, place: null });
  shown.steps = detail.sensors.map((/** @type {ChipSensor} */ sensor) => sensor.clear.indexOf(Math.max(...sensor.clear)));
  draw();
  byId("pixel").scrollTop = 0;
}

export function closeChip() {
  shown.detail = null;
  selected.number = -1;
  byId("pixel").hidden = true;
  tellChips();
}

/** @param {number} step */
function setStep(step) {
  const sensor = shown.detail?.sensors[shown.sensor];
  if (sensor === undefined) return;
  shown.steps[shown.sensor] = Math.max(0, Math.min(sensor.clear.length - 1, step));
  draw();
}

/** @param {ChipSensor} sensor @param {number} step */
function dayOf(sensor, step) {
  return sensor.days === null ? `${NO_DATE}${step + 1}` : sensor.days[step];
}

/** @param {string[] | null} days @param {number} count */
function daysOf(days, count) {
  return days ?? [...Array(count).keys()].map((step) => `${NO_DATE}${step + 1}`);
}

function draw() {
  const detail = shown.detail;
  if (detail === null) return;
  const sensor = detail.sensors[shown.sensor];
  const step = shown.steps[shown.sensor];
  const focused = document.activeElement?.id;
  const box = byId("pixel");
  box.hidden = false;
  const text = dayOf(sensor, step);
  const title = `${text.startsWith(NO_DATE) ? text : day(text)}, ${Math.round(100 * sensor.clear[step])} % clear`;
  const slide = (/** @type {any} */ event) => setStep(Number(event.target.value));
  const slider = { type: "range", id: "chip-date", min: 0, max: sensor.clear.length - 1, value: step, "aria-label": "Date", "aria-valuetext": title };
  box.replaceChildren(
    h("button", { type: "button", class: "close", "aria-label": "Close", click: closeChip }, "×"),
    h("p", { class: "where" }, swatch(splitColor(detail.split)), ` ${detail.split}`),
    h("h2", { class: "chip-name" }, detail.name),
    sensorChoice(detail), pictures(detail, step),
    h("div", { class: "row" }, h("input", { ...slider, input: slide }), h("span", { class: "chip-day" }, title)),
    classSeries(detail, text), pixelSeries(text),
  );
  if (focused) document.getElementById(focused)?.focus();
}

/** @param {Detail} detail */
function sensorChoice(detail) {
  if (detail.sensors.length < 2) return h("span");
  const box = h("div", { class: "segments", role: "radiogroup", "aria-label": "Sensor" });
  const choose = (/** @type {string} */ value) => {
    shown.sensor = Number(value);
    draw();
  };
  /** @type {[string, string][]} */
  const options = detail.sensors.map((sensor, i) => [String(i), sensor.name]);
  box.append(...segments("sensor", options, String(shown.sensor), choose));
  return box;
}

/** The picture and the label, side by side. @param {Detail} detail @param {number} step */
function pictures(detail, step) {
  const number = selected.number;
  const click = (/** @type {MouseEvent} */ event) => {
    const frame = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
    choosePixel((event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
  };
  const make = (/** @type {string} */ source, /** @type {string} */ name) => {
    const figure = h("figure", { class: "chip-picture", click }, h("img", { src: source, alt: name }));
    if (shown.place !== null) {
      const spot = h("span", { class: "chip-spot" });
      spot.style.left = `${100 * shown.place.x}%`;
      spot.style.top = `${100 * shown.place.y}%`;
      figure.append(spot);
    }
    return figure;
  };
  const parts = [make(`chip/${number}/${shown.sensor}/${step}.png`, "The chip in true color")];
  if (detail.label !== null) parts.push(make(`chip/${number}/label.png`, "Its label in the colors of the classes"));
  return h("div", { class: "chip-pictures" }, ...parts);
}

/** @param {number} x share of the width @param {number} y share of the height */
async function choosePixel(x, y) {
  const number = selected.number;
  shown.place = { x: Math.max(0, Math.min(0.9999, x)), y: Math.max(0, Math.min(0.9999, y)) };
  const found = await ask(`chip/${number}/series.json?x=${shown.place.x}&y=${shown.place.y}`);
  if (found === undefined || selected.number !== number) return;
  shown.pixel = found;
  draw();
}

/** Mean NDVI of each class of the chip. @param {Detail} detail @param {string} now */
function classSeries(detail, now) {
  const sensor = detail.sensors[shown.sensor];
  if (sensor.series.length === 0) return h("p", { class: "note" }, detail.label === null ? "This chip has no label of classes." : "No pixel is labeled.");
  const lines = sensor.series.map((one) => {
    const entry = chips.classes[one.class];
    const days = daysOf(sensor.days, one.ndvi.length);
    return { name: entry.name, color: entry.color, days, values: one.ndvi, go: setStep };
  });
  const heading = h("h2", {}, `Mean NDVI of each class, clear pixels of ${sensor.name}`);
  return h("section", {}, heading, ndviChart(lines, "Mean NDVI of each class over time", now), keyList(lines.map((line) => [line.name, line.color])));
}

/** @param {string} now */
function pixelSeries(now) {
  const pixel = shown.pixel;
  if (pixel === null) return h("p", { class: "note" }, "Click on the picture or the label for the series of a pixel.");
  const entry = pixel.class === null ? null : chips.classes[pixel.class];
  const lines = pixel.series.map((one, i) => ({ name: one.sensor, color: SENSOR_COLORS[i % SENSOR_COLORS.length], days: daysOf(one.days, one.ndvi.length), values: one.ndvi, clear: one.clear }));
  const name = h("span", { class: "class" }, ...(entry === null ? ["No label"] : [swatch(entry.color), entry.name]));
  const chart = lines.length ? [ndviChart(lines, "NDVI of the pixel over time", now), keyList(lines.map((line) => [line.name, line.color]))] : [];
  return h("section", {}, h("h2", {}, "NDVI of the chosen pixel; filled dots are clear"), name, ...chart);
}
