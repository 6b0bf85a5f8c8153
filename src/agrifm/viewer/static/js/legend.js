// @ts-check
/** The group of the maps: layers, opacity, classes and their areas. */
import { ask } from "./api.js";
import { byId, group, h, s, swatch } from "./dom.js";
import { redraw } from "./layers.js";
import { legend, state, view } from "./state.js";
import { hectares, short } from "./text.js";

/**
 * @typedef {import("./types.js").Entry} Entry
 */

export function mapGroup() {
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

export async function readAreas() {
  areas = view.maps.map(() => null);
  for (let i = 0; i < view.maps.length; i++) {
    const found = await ask(`areas/${view.maps[i].number}.json`);
    areas[i] = found ?? null;
    if (found && i === 0 && view.maps.length === 1) {
      const total = Object.values(found).reduce((sum, area) => sum + area, 0);
      byId("subtitle").textContent = `${view.maps[0].classes.length} classes on ${hectares(total)} ha`;
    }
    if (state.layer === "classes") showLegend();
  }
}
