// @ts-check
/** One side of the page: a map of MapLibre. */
import * as maplibre from "../maplibre-gl.mjs";
import { tileError } from "./api.js";
import { byId } from "./dom.js";

/**
 * @typedef {import("./types.js").Bounds} Bounds
 */

maplibre.setWorkerUrl(new URL("maplibre-gl-worker.mjs", location.href).href);

const PADDING = 40; // pixels around what is shown

/** Pixels of the page that panels cover, so that what is shown lies beside them. */
export function padding() {
  const panel = byId("panel").getBoundingClientRect();
  const bottom = byId("timeline")?.hidden ?? true ? PADDING : 110;
  return { left: panel.right + PADDING, right: PADDING + 40, top: PADDING, bottom };
}

/** One side of the page: a map with images, classes and parcels, in this order from below. */
export class Pane {
  /**
   * @param {string} container
   * @param {Bounds} bounds
   * @param {() => void} changed called when drawing begins or ends
   */
  constructor(container, bounds, changed) {
    this.changed = changed;
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
    return above ?? ["parcels-fill", "labels-fill"].find((id) => this.map.getLayer(id));
  }

  /** Wait until everything is drawn. */
  wait() {
    this.begun = true;
    this.busy = true;
    this.map.triggerRepaint();
    this.changed();
  }

  /** Everything is drawn: remove layers that newer ones have covered. */
  settle() {
    if (!this.begun) return;
    this.busy = false;
    this.changed();
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
    const below = this.map.getLayer("labels-fill") ? "labels-fill" : undefined;
    this.map.addLayer({ id: "parcels-fill", type: "fill", source: "parcels", paint: none }, below);
    /** @type {(far: number, near: number) => any} an expression of MapLibre, whose types lists do not have */
    const growing = (far, near) => ["interpolate", ["linear"], ["zoom"], 12, far, 17, near];
    const casing = { "line-color": "#fff", "line-width": growing(1.6, 4), "line-opacity": 0.6 };
    this.map.addLayer({ id: "parcels-casing", type: "line", source: "parcels", paint: casing }, below);
    const line = { "line-color": "#1d2125", "line-width": growing(0.5, 1.8) };
    this.map.addLayer({ id: "parcels-line", type: "line", source: "parcels", paint: line }, below);
  }

  /** @param {boolean} visible */
  showParcels(visible) {
    if (!this.map.getLayer("parcels-line")) return;
    for (const id of ["parcels-fill", "parcels-casing", "parcels-line"]) {
      this.map.setLayoutProperty(id, "visibility", visible ? "visible" : "none");
    }
  }
}
