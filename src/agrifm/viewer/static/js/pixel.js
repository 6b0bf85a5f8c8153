// @ts-check
/** The card of a pixel. */
import * as maplibre from "../maplibre-gl.mjs";
import { ask } from "./api.js";
import { byId, h, s, swatch } from "./dom.js";
import { labels } from "./label_state.js";
import { left, right } from "./layers.js";
import { setSeries } from "./series.js";
import { state, view } from "./state.js";
import { placeText } from "./text.js";
import { showVotes, stopVotes, votesPlace } from "./votes.js";

/**
 * @typedef {import("./types.js").ClassMap} ClassMap
 * @typedef {import("./types.js").LayerValue} LayerValue
 * @typedef {import("./types.js").Pixel} Pixel
 */

/** @type {maplibre.Marker[]} */
let markers = [];

let selection = 0; // number of the latest click; answers to earlier ones are dropped

/** @param {any} event click of a map */
function select(event) {
  if (labels.tool !== "look") return;
  selectPlace(event.lngLat.lng, event.lngLat.lat, parcelAt(event));
}

/**
 * Show the card of a place.
 * @param {number} lng
 * @param {number} lat
 * @param {Node | null} crop what is known of the parcel there
 */
export async function selectPlace(lng, lat, crop = null) {
  const number = ++selection;
  stopVotes();
  const query = `?lon=${lng}&lat=${lat}`;
  const maps = view.maps.map((shown) => shown.number).join(",");
  const found = view.maps.length ? await ask(`pixel.json${query}&maps=${maps}`) : [];
  if (number !== selection || found === undefined) return;
  const inside = found.some((/** @type {Pixel | null} */ pixel) => pixel !== null) || view.images !== null || crop !== null;
  if (!inside) {
    closePixel();
    return;
  }
  mark(lng, lat);
  setSeries(null);
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
  await askForSeries(query, number);
  if (number === selection) await showVotes(query);
}

/** @param {string} query the place @param {number} number of the click */
async function askForSeries(query, number) {
  if (view.images === null) return;
  byId("series").replaceChildren(h("p", { class: "busy" }, "Reading the series of this pixel…"));
  const answer = await ask(`series.json${query}`);
  if (number !== selection) return;
  if (!answer) byId("series").replaceChildren(h("p", { class: "busy" }, "No images here."));
  setSeries(answer ?? null);
}

export function closePixel() {
  selection++;
  stopVotes();
  byId("pixel").hidden = true;
  setSeries(null);
  for (const marker of markers.splice(0)) marker.remove();
}

/** @param {number} lng @param {number} lat */
export function mark(lng, lat) {
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
  if (pixel.class !== null) section.append(...votesPlace(view.maps[index]));
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

/** @param {{lng: number, lat: number}} place */
function showPlace(place) {
  byId("place").textContent = placeText(place.lng, place.lat);
}

/**
 * Show what lies under clicks on a side of the page.
 * @param {import("./pane.js").Pane} pane
 */
export function listenToPane(pane) {
  pane.map.on("click", (/** @type {any} */ event) => select(event));
  pane.map.on("mousemove", (/** @type {any} */ event) => showPlace(event.lngLat));
  pane.map.on("mouseout", () => (byId("place").textContent = ""));
}
