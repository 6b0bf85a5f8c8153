// @ts-check
/** Charts of the series of the selected pixel of a map. */
import { byId } from "./dom.js";
import { seriesSections } from "./series_charts.js";
import { state, view } from "./state.js";
import { goTo } from "./timeline.js";

/**
 * @typedef {import("./types.js").Images} Images
 * @typedef {import("./types.js").Series} Series
 */

/** @type {Series[] | null} */
let series = null;

/** @param {Series[] | null} found series of the selected pixel */
export function setSeries(found) {
  series = found;
  showSeries();
}

/** Draw the series of the selected pixel. */
export function showSeries() {
  if (series === null || byId("series") === null) return;
  const now = /** @type {Images} */ (view.images).sensors[state.sensor].days[state.steps[state.sensor]];
  byId("series").replaceChildren(...seriesSections(series, state.sensor, now, goTo));
}
