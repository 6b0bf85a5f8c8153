// @ts-check
/**
 * The page of 'agrifm view'. It reads view.json once, then draws tiles and asks for values at clicked places.
 * All text from files reaches the page as text nodes, never as markup.
 */
import * as maplibre from "./maplibre-gl.mjs";

maplibre.setWorkerUrl(new URL("maplibre-gl-worker.mjs", location.href).href);

/**
 * @typedef {{value: number, name: string, color: string}} MapClass
 * @typedef {{name: string, product: string, high: number, unit: string}} Surface
 * @typedef {[number, number, number, number]} Bounds west, south, east, north
 * @typedef {{title: string, bounds: Bounds, zoom: number, classes: MapClass[], surfaces: Surface[]}} ClassMap
 * @typedef {{name: string, days: string[], composites: string[]}} Sensor
 * @typedef {{title: string, bounds: Bounds, zoom: number, note: string, composites: string[], sensors: Sensor[]}} Images
 * @typedef {{title: string, count: number, bounds: Bounds, crop: string | null}} Parcels
 * @typedef {{title: string, maps: ClassMap[], images: Images | null, parcels: Parcels | null, notes: string[],
 *   scale: string[]}} View
 * @typedef {{name: string, wavelength: number, values: (number | null)[]}} BandSeries
 * @typedef {{sensor: string, days: string[], clear: boolean[], ndvi: (number | null)[] | null, bands: BandSeries[]}} Series
 * @typedef {{name: string, product: string, value: number | null, unit: string}} LayerValue
 * @typedef {{row: number, column: number, class: string | null, color: string | null, layers: LayerValue[]}} Pixel
 * @typedef {{key: string, name: string, color: string, values: (number | null)[]}} Entry of the legend: values by map
 */

const SENSOR_COLORS = ["#2f6b45", "#c4622d", "#5a5fb0", "#8c6d1f"];
const DELAY = 120; // milliseconds for which the date slider rests before images are read
const PADDING = 40; // pixels around what is shown
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** @type {View} */
let view;
const state = {
  map: true,
  opacity: 1,
  layer: "classes",
  /** @type {Set<string>} keys of hidden classes */
  hidden: new Set(),
  images: true,
  sensor: 0,
  /** @type {number[]} chosen date of each sensor */
  steps: [],
  composite: 0,
  veil: false,
  parcels: true,
  /** @type {"off" | "images" | "map"} */
  compare: "off",
  split: 50,
};
/** @type {Entry[]} */
let legend = [];
/** @type {Map<string, number>} clear share by "sensor/step" */
const clear = new Map();
/** @type {Series[] | null} */
let series = null;
/** @type {maplibre.Marker[]} */
let markers = [];
let selection = 0; // number of the latest click; answers to earlier ones are dropped

// ---------------------------------------------------------------------------------------------------------- elements

/**
 * @param {string} id
 * @returns {any}
 */
function byId(id) {
  return document.getElementById(id);
}

/**
 * Create an element; strings among the children become text.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] attributes; functions become listeners
 * @param {...(Node | string)} children
 * @returns {any}
 */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

/**
 * Create an element of SVG.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Record<string, any>} attributes
 * @param {(Node | string)[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
}

/** @param {string} color */
function swatch(color) {
  const rectangle = s("rect", { width: "100%", height: "100%", fill: color, rx: 3 });
  return h("span", { class: "swatch" }, s("svg", { class: "swatch-color", "aria-hidden": true }, rectangle));
}

let toastTimer = 0;
/** @param {string} text one sentence */
function complain(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => (toast.hidden = true), 9000);
}

/**
 * Ask the server; errors are shown as the sentence that it sends.
 * @param {string} path
 * @returns {Promise<any>} the answer, or undefined after an error
 */
async function ask(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    complain("The viewer has ended; start 'agrifm view' again.");
    return undefined;
  }
  const content = await answer.json();
  if (!answer.ok) {
    complain(content.error);
    return undefined;
  }
  return content;
}

// ------------------------------------------------------------------------------------------------------------- panes

/** One side of the page: a map with images, classes and parcels, in this order from below. */
class Pane {
  /**
   * @param {string} container
   * @param {Bounds} bounds
   */
  constructor(container, bounds) {
    this.map = new maplibre.Map({
      container,
      style: {
        version: 8,
        sources: {},
        layers: [{ id: "ground", type: "background", paint: { "background-color": "#f1f0ec" } }],
      },
      bounds,
      fitBoundsOptions: { padding: padding() },
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      maxPitch: 0,
      maxZoom: 22,
      fadeDuration: 0,
    });
    this.map.touchZoomRotate.disableRotation();
    this.map.keyboard.disableRotation();
    this.ready = new Promise((resolve) => this.map.once("load", resolve));
    /** @type {Record<string, {url: string, ids: string[]}>} what is drawn in each slot */
    this.slots = { images: { url: "", ids: [] }, classes: { url: "", ids: [] } };
    this.count = 0;
    this.map.on("error", (/** @type {any} */ event) => tileError(event.error));
    this.busy = true;
    this.begun = false; // whether there is anything to draw yet
    this.map.on("idle", () => this.settle());
    this.map.on("click", (/** @type {any} */ event) => select(event));
    this.map.on("mousemove", (/** @type {any} */ event) => showPlace(event.lngLat));
    this.map.on("mouseout", () => (byId("place").textContent = ""));
    this.map.getCanvas().setAttribute("aria-label", "Map; arrow keys move it, plus and minus zoom");
  }

  /**
   * Draw tiles in a slot. New tiles cover the earlier ones until they are complete, so that nothing flickers.
   * @param {"images" | "classes"} slot
   * @param {string} url address of the tiles; empty for none
   * @param {{bounds: Bounds, zoom: number} | null} extent
   * @param {number} opacity
   */
  draw(slot, url, extent, opacity) {
    const drawn = this.slots[slot];
    if (drawn.url !== url) {
      drawn.url = url;
      if (url === "" || extent === null) {
        drawn.ids.splice(0).forEach((id) => this.remove(id));
        return;
      }
      // At most one earlier layer stays below the new one.
      drawn.ids.splice(0, drawn.ids.length - 1).forEach((id) => this.remove(id));
      const id = `${slot}-${this.count++}`;
      const { bounds, zoom } = extent;
      this.map.addSource(id, { type: "raster", tiles: [url], tileSize: 256, bounds, maxzoom: zoom });
      this.map.addLayer(
        {
          id,
          type: "raster",
          source: id,
          paint: { "raster-resampling": "nearest", "raster-fade-duration": 0, "raster-opacity": opacity },
        },
        this.above(slot),
      );
      drawn.ids.push(id);
    }
    for (const id of drawn.ids) this.map.setPaintProperty(id, "raster-opacity", opacity);
  }

  /**
   * The layer below which a slot is drawn.
   * @param {string} slot
   */
  above(slot) {
    const above = slot === "images" ? this.slots.classes.ids[0] : undefined;
    return above ?? (this.map.getLayer("parcels-fill") ? "parcels-fill" : undefined);
  }

  /** Wait until everything is drawn. */
  wait() {
    this.begun = true;
    this.busy = true;
    this.map.triggerRepaint();
    showBusy();
  }

  /** Everything is drawn: remove layers that newer ones have covered. */
  settle() {
    if (!this.begun) return;
    this.busy = false;
    showBusy();
    for (const drawn of Object.values(this.slots)) {
      drawn.ids.splice(0, drawn.ids.length - 1).forEach((id) => this.remove(id));
    }
  }

  /** @param {string} id */
  remove(id) {
    this.map.removeLayer(id);
    this.map.removeSource(id);
  }

  addParcels() {
    this.map.addSource("parcels", { type: "geojson", data: new URL("parcels.json", location.href).href });
    const none = { "fill-color": "#000", "fill-opacity": 0 };
    this.map.addLayer({ id: "parcels-fill", type: "fill", source: "parcels", paint: none });
    /** @type {(far: number, near: number) => any} an expression of MapLibre, whose types lists do not have */
    const growing = (far, near) => ["interpolate", ["linear"], ["zoom"], 12, far, 17, near];
    const casing = { "line-color": "#fff", "line-width": growing(1.6, 4), "line-opacity": 0.6 };
    this.map.addLayer({ id: "parcels-casing", type: "line", source: "parcels", paint: casing });
    const line = { "line-color": "#1d2125", "line-width": growing(0.5, 1.8) };
    this.map.addLayer({ id: "parcels-line", type: "line", source: "parcels", paint: line });
  }

  /** @param {boolean} visible */
  showParcels(visible) {
    if (!this.map.getLayer("parcels-line")) return;
    for (const id of ["parcels-fill", "parcels-casing", "parcels-line"]) {
      this.map.setLayoutProperty(id, "visibility", visible ? "visible" : "none");
    }
  }
}

/** @type {Pane} */
let left;
/** @type {Pane | null} */
let right = null;

/** Tell whether tiles are still missing, which readers of the screen announce. */
function showBusy() {
  const busy = left.busy || (right !== null && state.compare !== "off" && right.busy);
  byId("stage").setAttribute("aria-busy", String(busy));
}

/** Pixels of the page that panels cover, so that what is shown lies beside them. */
function padding() {
  const panel = byId("panel").getBoundingClientRect();
  const bottom = byId("timeline").hidden ? PADDING : 110;
  return { left: panel.right + PADDING, right: PADDING + 40, top: PADDING, bottom };
}

/** @param {any} error of MapLibre, perhaps with the answer of the server */
async function tileError(error) {
  if (error?.name === "AbortError") return;
  if (error?.body instanceof Blob) {
    try {
      complain(JSON.parse(await error.body.text()).error);
      return;
    } catch {
      // not an answer of this server
    }
  }
  complain(error?.status === 0 || error instanceof TypeError ? "The viewer has ended; start 'agrifm view' again." :
    String(error?.message ?? error));
}

/** @param {Pane} one @param {Pane} other */
function follow(one, other) {
  let following = false;
  const move = (/** @type {Pane} */ from, /** @type {Pane} */ to) => () => {
    if (following) return;
    following = true;
    to.map.jumpTo({ center: from.map.getCenter(), zoom: from.map.getZoom() });
    following = false;
  };
  one.map.on("move", move(one, other));
  other.map.on("move", move(other, one));
}

/** @param {string} path */
function tiles(path) {
  return new URL(path, location.href).href + "/{z}/{x}/{y}.png";
}

/** Address of the tiles of a map, or empty if it is hidden or lacks the chosen layer. @param {number} index */
function mapTiles(index) {
  if (!state.map) return "";
  const shown = view.maps[index];
  if (state.layer === "classes") {
    const hidden = shown.classes.filter((entry) => state.hidden.has(keyOf(entry))).map((entry) => entry.value);
    if (hidden.length === shown.classes.length) return "";
    return tiles(`map/${index}/0`) + (hidden.length ? `?hidden=${hidden.join(",")}` : "");
  }
  const number = shown.surfaces.findIndex((surface) => surface.name === state.layer);
  return number < 0 ? "" : tiles(`map/${index}/${number + 1}`);
}

function imageTiles() {
  if (view.images === null) return "";
  const step = state.steps[state.sensor];
  return tiles(`image/${state.sensor}/${step}/${state.composite}`) + (state.veil ? "?veil=1" : "");
}

/** Bring both sides up to date with the state. */
function redraw() {
  const images = view.images;
  const below = state.images || (view.maps.length === 0 && state.compare === "off") ? imageTiles() : "";
  left.draw("images", below, images, 1);
  if (view.maps.length) left.draw("classes", mapTiles(0), view.maps[0], state.opacity);
  left.showParcels(state.parcels);
  left.wait();
  if (right === null || state.compare === "off") return;
  const other = state.compare === "map";
  right.draw("images", other ? below : imageTiles(), images, 1);
  right.draw("classes", other ? mapTiles(1) : "", other ? view.maps[1] : null, state.opacity);
  right.showParcels(state.parcels);
  right.wait();
}

let redrawTimer = 0;
function redrawSoon() {
  left.busy = true;
  showBusy();
  clearTimeout(redrawTimer);
  redrawTimer = window.setTimeout(redraw, DELAY);
}

// ------------------------------------------------------------------------------------------------------------- panel

/** @param {MapClass} entry */
function keyOf(entry) {
  return `${entry.color} ${entry.name}`;
}

/** Classes of all maps; those with equal name and color are one entry. */
function legendEntries() {
  /** @type {Map<string, Entry>} */
  const entries = new Map();
  view.maps.forEach((shown, index) => {
    for (const entry of shown.classes) {
      const key = keyOf(entry);
      const values = view.maps.map(() => null);
      const known = entries.get(key) ?? { key, name: entry.name, color: entry.color, values };
      known.values[index] = entry.value;
      entries.set(key, known);
    }
  });
  return [...entries.values()];
}

/**
 * @param {string} title
 * @param {boolean | null} on state of its switch, or null for none
 * @param {(on: boolean) => void} change
 * @param {...Node} children
 */
function group(title, on, change, ...children) {
  const head = h("div", { class: "head" }, h("h2", { title }, title));
  if (on !== null) {
    const toggle = (/** @type {any} */ event) => change(event.target.checked);
    const attributes = { type: "checkbox", class: "switch", role: "switch", checked: on, "aria-label": `Show ${title}` };
    head.append(h("input", { ...attributes, change: toggle }));
  }
  return h("section", { class: "group" }, head, ...children);
}

/**
 * A choice of few options, side by side.
 * @param {string} name
 * @param {[string, string][]} options value and text
 * @param {string} chosen
 * @param {(value: string) => void} change
 */
function segments(name, options, chosen, change) {
  return options.map(([value, text]) => {
    const attributes = { type: "radio", name, value, checked: value === chosen };
    return h("label", { title: text }, h("input", { ...attributes, change: () => change(value) }), h("span", {}, text));
  });
}

function buildPanel() {
  byId("title").textContent = view.title;
  if (view.images && view.maps.length === 0) {
    const dates = view.images.sensors.map((sensor) => `${sensor.days.length} of ${sensor.name}`);
    byId("subtitle").textContent = `Dates: ${dates.join(", ")}`;
  }
  document.title = `${view.title} – AgriFM`;
  const groups = byId("groups");
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

function mapGroup() {
  const opacity = h("output", { class: "number", id: "opacity-shown" }, "100 %");
  const slide = (/** @type {any} */ event) => {
    state.opacity = Number(event.target.value) / 100;
    opacity.textContent = `${event.target.value} %`;
    redraw();
  };
  const slider = h("input", { id: "opacity", type: "range", min: 0, max: 100, value: 100, input: slide });
  const rows = [h("div", { class: "row" }, h("label", { for: "opacity" }, "Opacity"), slider, opacity)];
  const choices = layerChoices();
  if (choices.length > 1) {
    const options = choices.map((name) => h("option", { value: name }, name === "classes" ? "Classes" : name));
    const choose = (/** @type {any} */ event) => {
      state.layer = event.target.value;
      showLegend();
      redraw();
    };
    const list = h("select", { id: "layer", change: choose }, ...options);
    rows.unshift(h("div", { class: "row" }, h("label", { for: "layer" }, "Layer"), list));
  }
  const title = view.maps.length > 1 ? "Maps" : "Map";
  const section = group(title, true, (on) => ((state.map = on), redraw()), ...rows, h("div", { id: "legend" }));
  queueMicrotask(showLegend);
  return section;
}

/** Names of the layers of all maps; of class sets only their size is one. */
function layerChoices() {
  const names = new Set(["classes"]);
  for (const shown of view.maps) {
    let sets = 0;
    for (const surface of shown.surfaces) {
      if (surface.product === "sets" && sets++) continue;
      names.add(surface.name);
    }
  }
  return [...names];
}

/** @type {(Record<string, number> | null)[]} hectares by value, of each map */
let areas = [];

function showLegend() {
  const box = byId("legend");
  box.replaceChildren(state.layer === "classes" ? classLegend() : scaleLegend());
}

function classLegend() {
  const several = view.maps.length > 1;
  const all = (/** @type {boolean} */ on) => () => {
    state.hidden = new Set(on ? [] : legend.map((entry) => entry.key));
    showLegend();
    redraw();
  };
  const buttons = h("span", {},
    h("button", { type: "button", class: "quiet", click: all(true) }, "All"),
    h("button", { type: "button", class: "quiet", click: all(false) }, "None"));
  const columns = view.maps.map((shown) => h("th", { scope: "col", title: shown.title }, several ? short(shown.title) : "ha"));
  const table = h("table", { class: "legend" }, h("tr", {}, h("th", { scope: "col" }, buttons), ...columns));
  for (const entry of legend) table.append(legendRow(entry));
  const text = `${several ? "Hectares of each map. " : ""}Counted pixels, not an estimate of areas.`;
  return h("div", {}, table, h("p", { class: "note" }, text));
}

/** @param {Entry} entry */
function legendRow(entry) {
  const row = h("tr", { class: state.hidden.has(entry.key) ? "off" : null });
  const toggle = (/** @type {any} */ event) => {
    if (event.target.checked) state.hidden.delete(entry.key);
    else state.hidden.add(entry.key);
    row.classList.toggle("off", !event.target.checked);
    redraw();
  };
  const box = h("input", { type: "checkbox", checked: !state.hidden.has(entry.key), change: toggle });
  row.append(h("td", {}, h("label", {}, box, swatch(entry.color), h("span", {}, entry.name))));
  entry.values.forEach((value, index) => {
    const area = value === null ? null : areas[index]?.[value];
    row.append(h("td", {}, value === null ? "–" : area === undefined || area === null ? "…" : hectares(area)));
  });
  return row;
}

/** @param {number} value */
function hectares(value) {
  const digits = value < 100 ? 1 : 0;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {string} title */
function short(title) {
  const name = title.replace(/\.tiff?$/i, "");
  return name.length > 9 ? `${name.slice(0, 8)}…` : name;
}

function scaleLegend() {
  const surfaces = view.maps.flatMap((shown) => shown.surfaces.filter((surface) => surface.name === state.layer));
  const unit = surfaces[0].unit ? ` ${surfaces[0].unit}` : "";
  // Each map has a scale of its own where numbers are counted.
  const highs = [...new Set(surfaces.map((surface) => surface.high))];
  const stops = view.scale.map((color, i) => s("stop", { offset: i / (view.scale.length - 1), "stop-color": color }));
  const bar = s("svg", { role: "img", "aria-label": `${state.layer} from low to high` },
    s("defs", {}, s("linearGradient", { id: "gradient" }, ...stops)),
    s("rect", { width: "100%", height: "100%", fill: "url(#gradient)" }));
  const ends = h("div", {}, h("span", {}, `0${unit}`), h("span", {}, `${highs.join(" and ")}${unit}`));
  return h("div", { class: "scale" }, bar, ends);
}

async function readAreas() {
  for (let i = 0; i < view.maps.length; i++) {
    const found = await ask(`areas/${i}.json`);
    areas[i] = found ?? null;
    if (found && i === 0 && view.maps.length === 1) {
      const total = Object.values(found).reduce((sum, area) => sum + area, 0);
      byId("subtitle").textContent = `${view.maps[0].classes.length} classes on ${hectares(total)} ha`;
    }
    if (state.layer === "classes") showLegend();
  }
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

// ---------------------------------------------------------------------------------------------------------- timeline

/** @type {(() => void)[]} */
const sensorChanged = [];

function buildTimeline() {
  const images = view.images;
  if (images === null) return;
  state.steps = images.sensors.map((sensor) => Math.floor(sensor.days.length / 2));
  byId("timeline").hidden = false;
  document.body.classList.add("with-timeline");
  const chooseSensor = (/** @type {string} */ value) => {
    state.sensor = Number(value);
    sensorChanged.forEach((tell) => tell());
    showTimeline();
    showSeries();
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
function setStep(step) {
  touched = true;
  const days = /** @type {Images} */ (view.images).sensors[state.sensor].days;
  state.steps[state.sensor] = Math.max(0, Math.min(days.length - 1, step));
  showTimeline();
  showSeries();
  redrawSoon();
}

function showTimeline() {
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
async function chooseFirstDate() {
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
async function readClearShares() {
  const images = /** @type {Images} */ (view.images);
  for (;;) {
    const open = [state.sensor, ...images.sensors.keys()].flatMap((sensor) =>
      images.sensors[sensor].days.map((_, step) => ({ sensor, step })).filter(({ step }) => !clear.has(`${sensor}/${step}`)));
    if (open.length === 0 || !(await readClearShare(open[0].sensor, open[0].step))) return;
  }
}

/** @param {string} iso */
function day(iso) {
  const [year, month, date] = iso.split("-").map(Number);
  return `${date} ${MONTHS[month - 1]} ${year}`;
}

// ------------------------------------------------------------------------------------------------------------- pixel

/** @param {any} event click of a map */
async function select(event) {
  const { lng, lat } = event.lngLat;
  const number = ++selection;
  const crop = parcelAt(event);
  const query = `?lon=${lng}&lat=${lat}`;
  const found = view.maps.length ? await ask(`pixel.json${query}`) : [];
  if (number !== selection || found === undefined) return;
  const inside = found.some((/** @type {Pixel | null} */ pixel) => pixel !== null) || view.images !== null || crop !== null;
  if (!inside) {
    closePixel();
    return;
  }
  mark(lng, lat);
  series = null;
  const box = byId("pixel");
  box.hidden = false;
  box.replaceChildren(
    h("button", { type: "button", class: "close", "aria-label": "Close", click: closePixel }, "×"),
    h("p", { class: "where" }, placeText(lng, lat)),
    ...found.flatMap((/** @type {Pixel | null} */ pixel, /** @type {number} */ i) => pixelSection(pixel, i)),
    ...(crop === null ? [] : [crop]),
    h("div", { id: "series" }),
  );
  box.scrollTop = 0;
  if (view.images === null) return;
  byId("series").replaceChildren(h("p", { class: "busy" }, "Reading the series of this pixel…"));
  const answer = await ask(`series.json${query}`);
  if (number !== selection) return;
  series = answer ?? null;
  if (series === null) byId("series").replaceChildren(h("p", { class: "busy" }, "No images here."));
  else showSeries();
}

function closePixel() {
  selection++;
  byId("pixel").hidden = true;
  series = null;
  for (const marker of markers.splice(0)) marker.remove();
}

/** @param {number} lng @param {number} lat */
function mark(lng, lat) {
  for (const marker of markers.splice(0)) marker.remove();
  for (const pane of right === null ? [left] : [left, right]) {
    const marker = new maplibre.Marker({ element: h("div", { class: "spot" }) }).setLngLat([lng, lat]);
    markers.push(marker.addTo(pane.map));
  }
}

/**
 * @param {Pixel | null} pixel
 * @param {number} index
 * @returns {Node[]}
 */
function pixelSection(pixel, index) {
  const heading = view.maps.length > 1 ? view.maps[index].title : "Class";
  if (pixel === null) return [h("section", {}, h("h2", {}, heading), h("p", { class: "note" }, "Outside of this map."))];
  const confidence = pixel.layers.find((layer) => layer.product === "confidence");
  const line = h("div", { class: "class" });
  if (pixel.class === null || pixel.color === null) line.append("No data");
  else line.append(swatch(pixel.color), pixel.class);
  if (confidence && confidence.value !== null) {
    line.append(h("span", { class: "number", title: "Confidence" }, `${confidence.value} %`));
  }
  const section = h("section", {}, h("h2", {}, heading), line);
  const shares = pixel.layers.filter((layer) => layer.product === "probabilities" && layer.value !== null);
  if (shares.length) section.append(shareTable(shares, view.maps[index]));
  const facts = h("div", { class: "facts" });
  for (const [name, value] of pixelFacts(pixel)) facts.append(h("span", {}, name), h("span", {}, value));
  if (facts.children.length) section.append(facts);
  return [section];
}

/** @param {Pixel} pixel @returns {[string, string][]} */
function pixelFacts(pixel) {
  /** @type {[string, string][]} */
  const facts = [];
  const dates = pixel.layers.filter((layer) => layer.product === "observations");
  if (dates.length) {
    const counts = dates.map((layer) => `${layer.value} of ${layer.name.replace("Clear dates of ", "")}`);
    facts.push(["Clear dates", counts.join(", ")]);
  }
  const sets = pixel.layers.filter((layer) => layer.product === "sets");
  if (sets.length) {
    const names = sets.slice(1).filter((layer) => layer.value === 1).map((layer) => layer.name);
    facts.push(["Possible classes", names.join(", ") || "none"]);
  }
  const others = ["confidence", "probabilities", "observations", "sets"];
  for (const layer of pixel.layers.filter((one) => !others.includes(one.product))) {
    facts.push([layer.name, layer.value === null ? "no data" : `${layer.value} ${layer.unit}`.trim()]);
  }
  return facts;
}

/** The most probable classes. @param {LayerValue[]} shares @param {ClassMap} shown */
function shareTable(shares, shown) {
  const sorted = [...shares].sort((a, b) => Number(b.value) - Number(a.value)).slice(0, view.maps.length > 1 ? 3 : 6);
  const table = h("table", { class: "shares", "aria-label": "Class probabilities" });
  for (const share of sorted) {
    const name = share.name.replace("Probability of ", "");
    const color = shown.classes.find((entry) => entry.name === name)?.color ?? "#888";
    const bar = s("svg", { "aria-hidden": true }, s("rect", { width: "100%", height: 8, rx: 3, fill: "#eef0f1" }),
      s("rect", { width: `${share.value}%`, height: 8, rx: 3, fill: color }));
    table.append(h("tr", {}, h("td", {}, name), h("td", {}, bar), h("td", {}, `${share.value} %`)));
  }
  return table;
}

/** @param {any} event @returns {Node | null} */
function parcelAt(event) {
  if (view.parcels === null || !state.parcels || !event.target.getLayer("parcels-fill")) return null;
  const [feature] = event.target.queryRenderedFeatures(event.point, { layers: ["parcels-fill"] });
  if (!feature) return null;
  const crop = view.parcels.crop;
  const section = h("section", {}, h("h2", {}, "Parcel"));
  if (crop !== null) section.append(h("div", { class: "class" }, String(feature.properties[crop])));
  const facts = h("div", { class: "facts" });
  for (const [name, value] of Object.entries(feature.properties).slice(0, 12)) {
    if (name !== crop) facts.append(h("span", {}, name), h("span", {}, String(value)));
  }
  section.append(facts);
  return section;
}

/** @param {number} lng @param {number} lat */
function placeText(lng, lat) {
  const north = `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(lng).toFixed(5)}° ${lng < 0 ? "W" : "E"}`;
}

/** @param {{lng: number, lat: number}} place */
function showPlace(place) {
  byId("place").textContent = placeText(place.lng, place.lat);
}

// ------------------------------------------------------------------------------------------------------------ charts

const CHART = { width: 304, height: 128, left: 28, right: 6, top: 8, bottom: 18 };

/** Draw the series of the selected pixel. */
function showSeries() {
  if (series === null || byId("series") === null) return;
  const shown = series;
  const parts = [];
  if (shown.some((one) => one.ndvi !== null)) {
    const lines = shown.map((one, i) => ({ ...one, index: i, color: SENSOR_COLORS[i % SENSOR_COLORS.length] }));
    const keys = lines.map((line) => [line.sensor, line.color]);
    parts.push(h("section", {}, h("h2", {}, "NDVI; filled dots are clear"), ndviChart(lines), keyList(keys)));
  }
  const one = shown[state.sensor];
  const colors = one.bands.map((band) => bandColor(band.wavelength));
  const keys = one.bands.map((band, i) => [band.name, colors[i]]);
  const title = `Reflectance of ${one.sensor} on clear dates`;
  parts.push(h("section", {}, h("h2", {}, title), bandChart(one, colors), keyList(keys)));
  byId("series").replaceChildren(...parts);
}

/** @param {string[][]} keys name and color */
function keyList(keys) {
  const items = keys.map(([name, color]) =>
    h("span", {}, s("svg", { "aria-hidden": true }, s("rect", { y: 2, width: 12, height: 3, rx: 1.5, fill: color })), name));
  return h("div", { class: "keys" }, ...items);
}

/**
 * An empty chart over the days of all sensors.
 * @param {number} low @param {number} high @param {number} step of the grid
 */
function frame(low, high, step) {
  const { width, height, left: start, right: end, top, bottom } = CHART;
  const times = /** @type {Series[]} */ (series).flatMap((one) => one.days).map((text) => Date.parse(text));
  const first = Math.min(...times);
  const last = Math.max(...times, first + 86400e3);
  const x = (/** @type {string} */ text) => start + ((Date.parse(text) - first) / (last - first)) * (width - start - end);
  const y = (/** @type {number} */ value) => {
    const share = (Math.max(low, Math.min(high, value)) - low) / (high - low);
    return height - bottom - share * (height - top - bottom);
  };
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (let value = low; value <= high + 1e-9; value += step) {
    svg.append(s("line", { class: "grid", x1: start, x2: width - end, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: start - 5, y: y(value) + 3, "text-anchor": "end" }, String(Math.round(value * 100) / 100)));
  }
  const months = (last - first) / (30 * 86400e3);
  const every = Math.max(1, Math.ceil(months / 7));
  const date = new Date(first);
  date.setUTCDate(1);
  for (date.setUTCMonth(date.getUTCMonth() + 1); date.getTime() <= last; date.setUTCMonth(date.getUTCMonth() + every)) {
    const at = x(date.toISOString().slice(0, 10));
    svg.append(s("line", { class: "grid", x1: at, x2: at, y1: height - bottom, y2: height - bottom + 3 }));
    if (at < width - 16) svg.append(s("text", { x: at, y: height - 4, "text-anchor": "middle" }, MONTHS[date.getUTCMonth()]));
  }
  const now = x(/** @type {Images} */ (view.images).sensors[state.sensor].days[state.steps[state.sensor]]);
  svg.append(s("line", { class: "now", x1: now, x2: now, y1: top, y2: height - bottom }));
  return { svg, x, y };
}

/** @param {(Series & {index: number, color: string})[]} lines */
function ndviChart(lines) {
  const lowest = Math.min(...lines.flatMap((line) => (line.ndvi ?? []).filter((value, i) => value !== null && line.clear[i])).map(Number));
  const low = lowest < 0 ? Math.max(-1, Math.floor(lowest * 4) / 4) : 0;
  const { svg, x, y } = frame(low, 1, 0.25);
  svg.setAttribute("aria-label", "NDVI of all sensors over time");
  for (const line of lines) {
    const values = line.ndvi;
    if (values === null) continue;
    const points = line.days.map((text, i) => ({ text, i, value: values[i] }));
    const clearPoints = points.filter((point) => point.value !== null && line.clear[point.i]);
    const path = clearPoints.map((point) => `${x(point.text)},${y(Number(point.value))}`).join(" ");
    svg.append(s("polyline", { points: path, fill: "none", stroke: line.color, "stroke-width": 1.5, "stroke-opacity": 0.7 }));
    for (const { text, i, value } of points) {
      if (value === null) continue;
      const isClear = line.clear[i];
      const look = isClear ? { r: 3.2, fill: line.color } : { r: 2.4, fill: "#fff", stroke: line.color, "stroke-opacity": 0.45 };
      const title = `${line.sensor}, ${day(text)}: ${value.toFixed(2)}${isClear ? "" : ", not clear"}`;
      const go = () => goTo(line.index, i);
      svg.append(s("circle", { class: "dot", cx: x(text), cy: y(value), ...look, click: go }, s("title", {}, title)));
    }
  }
  return svg;
}

/** @param {Series} one @param {string[]} colors */
function bandChart(one, colors) {
  const clearValues = one.bands.flatMap((band) => band.values.filter((value, i) => value !== null && one.clear[i])).map(Number);
  const high = clearValues.length ? Math.max(0.2, Math.ceil(Math.max(...clearValues) * 10) / 10) : 0.4;
  const { svg, x, y } = frame(0, high, high > 0.5 ? 0.2 : 0.1);
  svg.setAttribute("aria-label", `Reflectance of the bands of ${one.sensor} over time`);
  one.bands.forEach((band, number) => {
    const points = one.days.map((text, i) => ({ text, i, value: band.values[i] }));
    const clearPoints = points.filter((point) => point.value !== null && one.clear[point.i]);
    const path = clearPoints.map((point) => `${x(point.text)},${y(Number(point.value))}`).join(" ");
    svg.append(s("polyline", { points: path, fill: "none", stroke: colors[number], "stroke-width": 1.3 }));
    for (const { text, i, value } of clearPoints) {
      const title = s("title", {}, `${band.name}, ${day(text)}: ${Number(value).toFixed(3)}`);
      const go = () => goTo(state.sensor, i);
      svg.append(s("circle", { class: "dot", cx: x(text), cy: y(Number(value)), r: 2.2, fill: colors[number], click: go }, title));
    }
  });
  return svg;
}

/** A color for a wavelength in micrometers: as seen where it is visible, then from purple to brown. @param {number} micrometers */
function bandColor(micrometers) {
  /** @type {[number, string][]} */
  const colors = [[0.51, "#3c6fd1"], [0.6, "#3f9b52"], [0.68, "#d1402f"], [0.72, "#e07b91"], [0.76, "#c063a8"], [0.8, "#9a55b8"],
    [0.85, "#6b46b5"], [0.9, "#46369b"], [1.3, "#8a8f98"], [1.8, "#b07a2f"]];
  return colors.find(([end]) => micrometers < end)?.[1] ?? "#6d4716";
}

/** @param {number} sensor @param {number} step */
function goTo(sensor, step) {
  const choice = document.querySelector(`#sensors input[value="${sensor}"]`);
  if (choice instanceof HTMLInputElement && !choice.checked) choice.click();
  setStep(step);
}

// ----------------------------------------------------------------------------------------------------------- compare

/** @param {string} value */
async function compare(value) {
  state.compare = /** @type {"off" | "images" | "map"} */ (value);
  const on = state.compare !== "off";
  for (const id of ["right", "divider", "left-name", "right-name"]) byId(id).hidden = !on;
  if (!on) return;
  if (right === null) {
    right = new Pane("right", everything());
    right.map.jumpTo({ center: left.map.getCenter(), zoom: left.map.getZoom() });
    follow(left, right);
    addControls(right);
    await right.ready;
    if (view.parcels) right.addParcels();
  }
  right.map.resize();
  byId("left-name").textContent = view.maps[0].title;
  byId("right-name").textContent = state.compare === "map" ? view.maps[1].title : "Images";
  // The border begins in the middle of what panels leave free.
  const free = byId("panel").getBoundingClientRect().right;
  setSplit((100 * (free + (innerWidth - free) / 2)) / innerWidth);
  redraw();
}

/** @param {number} percent of the width of the page */
function setSplit(percent) {
  state.split = Math.max(0, Math.min(100, percent));
  byId("stage").style.setProperty("--split", `${state.split}%`);
  byId("divider").setAttribute("aria-valuenow", String(Math.round(state.split)));
}

function listenToDivider() {
  const divider = byId("divider");
  divider.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    divider.setPointerCapture(event.pointerId);
    event.preventDefault();
    divider.focus();
  });
  divider.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
    if (divider.hasPointerCapture(event.pointerId)) setSplit((100 * event.clientX) / innerWidth);
  });
  divider.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
    if (step === undefined) return;
    setSplit(state.split + step);
    event.preventDefault();
    event.stopPropagation();
  });
}

// ------------------------------------------------------------------------------------------------------------ export

/** Save what is visible beside the panel as PNG, with title, legend and scale bar. */
async function save() {
  const scale = devicePixelRatio;
  const start = Math.round(byId("panel").getBoundingClientRect().right + 14);
  const picture = document.createElement("canvas");
  picture.width = Math.round(innerWidth * scale);
  picture.height = Math.round(innerHeight * scale);
  const context = /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d"));
  const map = { x: start * scale, width: (innerWidth - start) * scale, height: innerHeight * scale };
  context.fillStyle = "#fff";
  context.fillRect(0, 0, picture.width, picture.height);
  drawPane(context, left, map.x, map.width);
  if (right !== null && state.compare !== "off") {
    const border = Math.max(map.x, (state.split / 100) * picture.width);
    drawPane(context, right, border, picture.width - border);
    context.fillStyle = "#fff";
    context.fillRect(border - scale, 0, 2 * scale, picture.height);
  }
  context.scale(scale, scale);
  drawLegend(context, start - 28);
  drawScaleBar(context, start + 16, innerHeight - 20);
  const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: `${view.title.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Pane} pane
 * @param {number} x left edge in pixels of the picture
 * @param {number} width
 */
function drawPane(context, pane, x, width) {
  pane.map.redraw(); // the canvas holds its picture only until the browser shows it
  const canvas = pane.map.getCanvas();
  const ratio = canvas.width / context.canvas.width;
  context.drawImage(canvas, x * ratio, 0, width * ratio, canvas.height, x, 0, width, context.canvas.height);
}

/** @param {CanvasRenderingContext2D} context @param {number} width */
function drawLegend(context, width) {
  const text = (/** @type {string} */ words, /** @type {number} */ x, /** @type {number} */ y, font = "13px system-ui, sans-serif") => {
    context.font = font;
    context.fillStyle = "#1d2125";
    context.fillText(words, x, y, width - x + 14);
  };
  let y = 36;
  text(view.title, 20, y, "600 17px system-ui, sans-serif");
  if (view.images) {
    const sensor = view.images.sensors[state.sensor];
    y += 22;
    text(`Images: ${sensor.name}, ${day(sensor.days[state.steps[state.sensor]])}`, 20, y);
  }
  y += 14;
  if (!state.map || !view.maps.length) return;
  if (state.layer !== "classes") {
    text(state.layer, 20, y + 18);
    const gradient = context.createLinearGradient(20, 0, width, 0);
    view.scale.forEach((color, i) => gradient.addColorStop(i / (view.scale.length - 1), color));
    context.fillStyle = gradient;
    context.fillRect(20, y + 28, width - 20, 12);
    return;
  }
  for (const entry of legend) {
    if (state.hidden.has(entry.key)) continue;
    y += 24;
    if (y > innerHeight - 20) return;
    context.fillStyle = entry.color;
    context.fillRect(20, y - 12, 16, 16);
    text(entry.name, 46, y + 1);
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
function drawScaleBar(context, x, y) {
  const center = left.map.getCenter();
  const meters = (40075016.686 * Math.cos((center.lat * Math.PI) / 180)) / (512 * 2 ** left.map.getZoom());
  const most = meters * 120;
  const digit = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((factor) => factor * digit).find((candidate) => candidate <= most) ?? digit;
  context.fillStyle = "#ffffffd9";
  context.fillRect(x - 6, y - 18, length / meters + 12, 26);
  context.fillStyle = "#1d2125";
  context.fillRect(x, y, length / meters, 3);
  context.font = "12px system-ui, sans-serif";
  context.fillText(length >= 1000 ? `${length / 1000} km` : `${length} m`, x, y - 5);
}

// ------------------------------------------------------------------------------------------------------------- start

/** @returns {Bounds} of everything that is shown */
function everything() {
  const parts = [...view.maps, ...(view.images ? [view.images] : [])].map((part) => part.bounds);
  return [
    Math.min(...parts.map((part) => part[0])),
    Math.min(...parts.map((part) => part[1])),
    Math.max(...parts.map((part) => part[2])),
    Math.max(...parts.map((part) => part[3])),
  ];
}

/** @param {Pane} pane */
function addControls(pane) {
  pane.map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
  pane.map.addControl(new maplibre.ScaleControl({ maxWidth: 110 }), "bottom-left");
}

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closePixel();
    const focused = document.activeElement;
    const isFree = focused === document.body || focused === byId("panel");
    if (!isFree || view.images === null) return;
    if (event.key === "ArrowLeft") setStep(state.steps[state.sensor] - 1);
    if (event.key === "ArrowRight") setStep(state.steps[state.sensor] + 1);
  });
}

async function start() {
  const found = await ask("view.json");
  if (found === undefined) return;
  view = found;
  legend = legendEntries();
  areas = view.maps.map(() => null);
  buildTimeline();
  buildPanel();
  left = new Pane("left", everything());
  addControls(left);
  byId("zoom").addEventListener("click", () => left.map.fitBounds(everything(), { padding: padding(), duration: 300 }));
  byId("save").addEventListener("click", save);
  window.addEventListener("resize", () => view.images && showTimeline());
  listenToDivider();
  listenToKeys();
  await left.ready;
  if (view.parcels) left.addParcels();
  if (view.images) await chooseFirstDate();
  redraw();
  await readAreas();
  if (view.images) await readClearShares();
}

start();
