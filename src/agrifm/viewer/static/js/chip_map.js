// @ts-check
/** Chips on the ground: footprints in the colors of their splits. */
import * as maplibre from "../maplibre-gl.mjs";
import { chips, chipsChanged, selected, shownChips, splitColor } from "./chip_state.js";
import { Pane, padding } from "./pane.js";

const SMALL = 24; // pixels of a chip on the screen below which its picture is not drawn
const CARD = 420; // pixels at the right where the card of a chip opens
const MOST_PICTURES = 60; // pictures at a time

/**
 * @param {(number: number) => void} open called with the number of a clicked chip
 */
export async function showMap(open) {
  const pane = new Pane("left", bounds(), () => {});
  const map = pane.map;
  map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new maplibre.ScaleControl({ maxWidth: 110 }), "bottom-left");
  await pane.ready;
  map.fitBounds(bounds(), { padding: { ...padding(), right: CARD }, animate: false });
  map.addSource("chips", { type: "geojson", data: footprints() });
  map.addLayer({ id: "chips-fill", type: "fill", source: "chips", paint: { "fill-color": ["get", "color"], "fill-opacity": 0.28 } });
  const width = ["case", ["get", "selected"], 4, 1.6];
  map.addLayer({ id: "chips-line", type: "line", source: "chips", paint: { "line-color": ["get", "color"], "line-width": width } });
  chipsChanged.push(() => map.getSource("chips").setData(footprints()));
  const pictures = () => showPictures(map);
  map.on("moveend", pictures);
  chipsChanged.push(pictures);
  pictures();
  map.on("click", "chips-fill", (/** @type {any} */ event) => open(event.features[0].properties.number));
  map.on("mouseenter", "chips-fill", () => (map.getCanvas().style.cursor = "pointer"));
  map.on("mouseleave", "chips-fill", () => (map.getCanvas().style.cursor = ""));
  map.getCanvas().setAttribute("aria-label", "Map of the chips; arrow keys move it, plus and minus zoom");
  await new Promise((resolve) => map.once("idle", resolve));
}

/** Draw the pictures of chips that are large enough to be seen, below their outlines. @param {any} map */
function showPictures(map) {
  const view = map.getBounds();
  const isChosen = new Set(shownChips());
  let count = 0;
  for (const [number, chip] of chips.chips.entries()) {
    const id = `picture-${number}`;
    const corners = chip.footprint;
    const isShown = corners !== null && isChosen.has(number) && count < MOST_PICTURES && isLarge(map, corners) &&
      corners.some((corner) => view.contains(corner));
    if (isShown) count++;
    if (isShown && !map.getSource(id)) {
      const url = new URL(`chip/${number}/thumbnail.png`, location.href).href;
      map.addSource(id, { type: "image", url, coordinates: corners.slice(0, 4) });
      const paint = { "raster-resampling": "nearest", "raster-fade-duration": 0 };
      map.addLayer({ id, type: "raster", source: id, paint }, "chips-fill");
    }
    if (!isShown && map.getSource(id)) {
      map.removeLayer(id);
      map.removeSource(id);
    }
  }
}

/** @param {any} map @param {[number, number][]} corners */
function isLarge(map, corners) {
  const [one, , other] = corners.map((corner) => map.project(corner));
  return Math.max(Math.abs(one.x - other.x), Math.abs(one.y - other.y)) >= SMALL;
}

function footprints() {
  const features = [];
  for (const number of shownChips()) {
    const { footprint, split } = chips.chips[number];
    if (footprint === null) continue;
    const properties = { number, color: splitColor(split), selected: number === selected.number };
    features.push({ type: "Feature", properties, geometry: { type: "Polygon", coordinates: [footprint] } });
  }
  return { type: "FeatureCollection", features };
}

/** @returns {import("./types.js").Bounds} */
function bounds() {
  const places = chips.chips.flatMap((chip) => chip.footprint ?? []);
  const [first] = places;
  return places.reduce(
    ([west, south, east, north], [x, y]) => [Math.min(west, x), Math.min(south, y), Math.max(east, x), Math.max(north, y)],
    /** @type {import("./types.js").Bounds} */ ([...first, ...first]),
  );
}
