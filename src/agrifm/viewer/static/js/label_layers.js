// @ts-check
/** Labels on the map: how they look, and how they are drawn, chosen and moved with the pointer. */
import { addLabel, deleteSelected, finishPolygon, labels, labelsChanged, moveLabel, tellLabels } from "./label_state.js";

/**
 * @typedef {import("./pane.js").Pane} Pane
 * @typedef {import("./label_state.js").Label} Label
 * @typedef {import("./label_state.js").Geometry} Geometry
 * @typedef {import("./label_state.js").Place} Place
 */

const HITS = ["labels-point", "labels-fill"]; // layers in which a click finds a label
const NEAR = 10; // pixels around the first corner in which a click closes a polygon
const REACH = 4; // pixels around a click in which a label is found

/** Show and draw labels on a side of the page. @param {Pane} pane */
export async function addLabelLayers(pane) {
  await pane.ready;
  const map = pane.map;
  map.addSource("labels", { type: "geojson", data: collection([]) });
  map.addSource("draft", { type: "geojson", data: collection([]) });
  const color = ["get", "color"];
  const isArea = ["in", ["geometry-type"], ["literal", ["Polygon", "MultiPolygon"]]];
  const isPoint = ["in", ["geometry-type"], ["literal", ["Point", "MultiPoint"]]];
  const width = ["case", ["get", "selected"], 3.5, 2];
  const add = (/** @type {string} */ id, /** @type {string} */ type, /** @type {any} */ paint, /** @type {any} */ filter) =>
    map.addLayer({ id: `labels-${id}`, type, source: "labels", paint, filter });
  add("fill", "fill", { "fill-color": color, "fill-opacity": ["case", ["get", "selected"], 0.55, 0.3] }, isArea);
  // A dark and a white line around the color, because labels often have the color of the map below.
  add("edge", "line", { "line-color": "#1d2125", "line-width": ["case", ["get", "selected"], 9, 6.5] }, isArea);
  add("casing", "line", { "line-color": "#fff", "line-width": 5 }, isArea);
  add("line", "line", { "line-color": color, "line-width": width }, isArea);
  const ring = { "circle-stroke-color": "#fff", "circle-stroke-width": 2.5 };
  add("dot", "circle", { "circle-radius": ["case", ["get", "selected"], 13, 10.5], "circle-color": "#1d2125" }, isPoint);
  add("point", "circle", { "circle-radius": 7, "circle-color": color, ...ring }, isPoint);
  const draft = { source: "draft" };
  map.addLayer({ id: "draft-line", type: "line", ...draft, paint: { "line-color": "#1d2125", "line-width": 2, "line-dasharray": [2, 1.5] } });
  const corner = { "circle-radius": 5, "circle-color": "#fff", "circle-stroke-color": "#1d2125", "circle-stroke-width": 2 };
  map.addLayer({ id: "draft-point", type: "circle", ...draft, paint: corner, filter: ["==", ["geometry-type"], "Point"] });
  const show = () => showLabels(pane);
  labelsChanged.push(show);
  show();
  listen(pane);
}

/**
 * @param {Pane} pane
 * @param {Label | null} moving label that is drawn elsewhere while it is moved
 * @param {Geometry | null} place where it is drawn
 */
function showLabels(pane, moving = null, place = null) {
  const colors = new Map(labels.classes.map((entry) => [entry.name, entry.color]));
  const features = labels.features.map((label, number) => {
    const isSelected = label === labels.selected || label === moving;
    const properties = { number, color: colors.get(label.class) ?? "#888", selected: isSelected };
    return { type: "Feature", properties, geometry: place !== null && label === moving ? place : label.geometry };
  });
  pane.map.getSource("labels").setData(collection(features));
  const corners = labels.draft.map((place) => ({ type: "Feature", properties: {}, geometry: { type: "Point", coordinates: place } }));
  const line = { type: "Feature", properties: {}, geometry: { type: "LineString", coordinates: labels.draft } };
  pane.map.getSource("draft").setData(collection(labels.draft.length > 1 ? [line, ...corners] : corners));
  pane.map.getCanvas().style.cursor = labels.tool === "point" || labels.tool === "polygon" ? "crosshair" : "";
}

/** @param {any[]} features */
function collection(features) {
  return { type: "FeatureCollection", features };
}

/** @param {Pane} pane */
function listen(pane) {
  const map = pane.map;
  map.on("click", (/** @type {any} */ event) => {
    if (labels.tool === "point") addLabel({ type: "Point", coordinates: placeOf(event) });
    if (labels.tool === "polygon") addCorner(pane, event);
    if (labels.tool === "edit") {
      labels.selected = labelAt(pane, event);
      tellLabels();
    }
  });
  map.on("dblclick", (/** @type {any} */ event) => {
    if (labels.tool === "look") return;
    event.preventDefault();
    if (labels.tool === "polygon" && labels.draft.length > 2) finishPolygon();
  });
  map.on("mousedown", (/** @type {any} */ event) => {
    const label = labels.tool === "edit" ? labelAt(pane, event) : null;
    if (label === null || event.originalEvent.button !== 0) return;
    event.preventDefault(); // the map stays
    drag(pane, label, event);
  });
  map.on("contextmenu", (/** @type {any} */ event) => {
    if (labels.tool !== "edit") return;
    event.preventDefault();
    labels.selected = labelAt(pane, event);
    deleteSelected();
  });
}

/** @param {any} event @returns {Place} */
function placeOf(event) {
  return [event.lngLat.lng, event.lngLat.lat];
}

/** @param {Pane} pane @param {any} event */
function addCorner(pane, event) {
  const place = placeOf(event);
  const first = labels.draft[0];
  if (first !== undefined && labels.draft.length > 2) {
    const start = pane.map.project(first);
    if (Math.hypot(start.x - event.point.x, start.y - event.point.y) < NEAR) {
      finishPolygon();
      return;
    }
  }
  const last = labels.draft.at(-1);
  if (last && last[0] === place[0] && last[1] === place[1]) return; // the second click of a double click
  labels.draft = [...labels.draft, place];
  tellLabels();
}

/** @param {Pane} pane @param {any} event @returns {Label | null} */
function labelAt(pane, event) {
  const { x, y } = event.point;
  const box = [[x - REACH, y - REACH], [x + REACH, y + REACH]];
  const [found] = pane.map.queryRenderedFeatures(box, { layers: HITS });
  return found ? (labels.features[found.properties.number] ?? null) : null;
}

/** Move a label with the pointer until its button is released. @param {Pane} pane @param {Label} label @param {any} start */
function drag(pane, label, start) {
  const [x, y] = placeOf(start);
  /** @type {Geometry | null} */
  let moved = null;
  const follow = (/** @type {any} */ event) => {
    const [toX, toY] = placeOf(event);
    if (!moved && Math.hypot(event.point.x - start.point.x, event.point.y - start.point.y) < 3) return;
    moved = { ...label.geometry, coordinates: shifted(label.geometry.coordinates, toX - x, toY - y) };
    showLabels(pane, label, moved);
  };
  pane.map.on("mousemove", follow);
  const end = () => {
    pane.map.off("mousemove", follow);
    if (moved !== null) moveLabel(label, moved);
  };
  window.addEventListener("pointerup", end, { once: true });
}

/** @param {any} coordinates nested lists of places @param {number} east @param {number} north @returns {any} */
function shifted(coordinates, east, north) {
  if (typeof coordinates[0] === "number") return [coordinates[0] + east, coordinates[1] + north];
  return coordinates.map((/** @type {any} */ part) => shifted(part, east, north));
}
