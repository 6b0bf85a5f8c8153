// @ts-check
/** Both sides of the page are kept up to date with the state. */
import * as maplibre from "../maplibre-gl.mjs";
import { tiles } from "./api.js";
import { byId } from "./dom.js";
import { Pane } from "./pane.js";
import { everything, keyOf, state, view } from "./state.js";

const DELAY = 120; // milliseconds for which the date slider rests before images are read

/** @type {Pane} */
export let left;

/** @type {Pane | null} */
export let right = null;

/** @type {((pane: Pane) => void)[]} called with each side once it exists */
export const paneOpened = [];

/**
 * Open a side of the page; the right one shows the same place as the left one.
 * @param {"left" | "right"} side
 */
export async function openSide(side) {
  const pane = new Pane(side, everything(), showBusy);
  if (side === "left") left = pane;
  else {
    right = pane;
    right.map.jumpTo({ center: left.map.getCenter(), zoom: left.map.getZoom() });
    follow(left, right);
  }
  pane.map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
  pane.map.addControl(new maplibre.ScaleControl({ maxWidth: 110 }), "bottom-left");
  for (const tell of paneOpened) tell(pane);
  await pane.ready;
  if (view.parcels) pane.addParcels();
}

/** Tell whether tiles are still missing, which readers of the screen announce. */
function showBusy() {
  const busy = left.busy || (right !== null && state.compare !== "off" && right.busy);
  byId("stage").setAttribute("aria-busy", String(busy));
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

/** Address of the tiles of a map, or empty if it is hidden or lacks the chosen layer. @param {number} index */
function mapTiles(index) {
  if (!state.map) return "";
  const shown = view.maps[index];
  if (state.layer === "classes") {
    const hidden = shown.classes.filter((entry) => state.hidden.has(keyOf(entry))).map((entry) => entry.value);
    if (hidden.length === shown.classes.length) return "";
    return tiles(`map/${shown.number}/0`) + (hidden.length ? `?hidden=${hidden.join(",")}` : "");
  }
  const number = shown.surfaces.findIndex((surface) => surface.name === state.layer);
  return number < 0 ? "" : tiles(`map/${shown.number}/${number + 1}`);
}

function imageTiles() {
  if (view.images === null) return "";
  const step = state.steps[state.sensor];
  return tiles(`image/${state.sensor}/${step}/${state.composite}`) + (state.veil ? "?veil=1" : "");
}

/** Bring both sides up to date with the state. */
export function redraw() {
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

export function redrawSoon() {
  left.busy = true;
  showBusy();
  clearTimeout(redrawTimer);
  redrawTimer = window.setTimeout(redraw, DELAY);
}
