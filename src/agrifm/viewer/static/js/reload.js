// @ts-check
/** Reload the page for a new map, and return to the same place and date. */
import { left } from "./layers.js";
import { state, view } from "./state.js";
import { compare } from "./swipe.js";
import { goTo } from "./timeline.js";

const KEY = "agrifm-return";

/** Reload the page, which then shows the same place. */
export function reloadHere() {
  const { lng, lat } = left.map.getCenter();
  const place = { center: [lng, lat], zoom: left.map.getZoom(), sensor: state.sensor, step: state.steps[state.sensor] };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(place));
  } catch {
    // frames may lack a memory; the page then begins with everything in view
  }
  location.reload();
}

/** After such a reload, show the former place and date, and compare the new map with the former one. */
export async function returnHere() {
  let text = null;
  try {
    text = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
  } catch {
    return;
  }
  if (text === null) return;
  const { center, zoom, sensor, step } = JSON.parse(text);
  left.map.jumpTo({ center, zoom });
  if (view.images) goTo(sensor, step);
  if (view.maps.length < 2) return;
  const choice = document.querySelector("input[name=compare][value=map]");
  if (choice instanceof HTMLInputElement) choice.checked = true;
  await compare("map");
}
