// @ts-check
/** Labels that are drawn: what is there, what was changed, and how it is undone and saved. */
import { ask, send } from "./api.js";
import { complain } from "./dom.js";

/**
 * @typedef {[number, number]} Place longitude and latitude
 * @typedef {{type: "Point", coordinates: Place} | {type: "Polygon", coordinates: Place[][]} |
 *   {type: "MultiPoint" | "MultiPolygon" | "LineString" | "MultiLineString", coordinates: any}} Geometry
 * @typedef {{id: number | null, class: string, geometry: Geometry, moved: boolean}} Label labels are never changed, only replaced
 * @typedef {{name: string, color: string}} LabelClass
 * @typedef {"look" | "point" | "polygon" | "edit"} Tool
 */

const MOST_UNDONE = 200; // steps

export const labels = {
  title: "",
  version: 0,
  /** @type {LabelClass[]} */
  classes: [],
  /** @type {string[]} colors for further classes */
  palette: [],
  /** @type {Label[]} */
  features: [],
  /** @type {Label[]} as they were read or saved last */
  saved: [],
  /** @type {Label[][]} */
  earlier: [],
  chosen: 0,
  /** @type {Tool} */
  tool: "look",
  /** @type {Label | null} */
  selected: null,
  /** @type {Place[]} vertices of a polygon that is being drawn */
  draft: [],
  saving: false,
};

/** @type {(() => void)[]} called after any change */
export const labelsChanged = [];

export function tellLabels() {
  labelsChanged.forEach((tell) => tell());
}

/** Whether there are changes that the file does not have. */
export function isUnsaved() {
  return labels.features !== labels.saved;
}

/** @returns {Promise<boolean>} whether the labels were read */
export async function readLabels() {
  const found = await ask("labels.json");
  if (found === undefined) return false;
  const { title, version, classes, palette } = found;
  Object.assign(labels, { title, version, classes, palette });
  labels.features = found.features.map((/** @type {any} */ feature) => ({ ...feature, moved: false }));
  labels.saved = labels.features;
  tellLabels();
  return true;
}

/** Replace all labels; the change can be undone. @param {Label[]} features */
function change(features) {
  labels.earlier.push(labels.features);
  if (labels.earlier.length > MOST_UNDONE) labels.earlier.shift();
  labels.features = features;
  tellLabels();
}

/** Add a label of the chosen class. @param {Geometry} geometry */
export function addLabel(geometry) {
  const chosen = labels.classes[labels.chosen];
  if (chosen === undefined) {
    complain("Add a class first.");
    return;
  }
  change([...labels.features, { id: null, class: chosen.name, geometry, moved: true }]);
}

/** @param {Label} label @param {Geometry} geometry */
export function moveLabel(label, geometry) {
  const moved = { ...label, geometry, moved: true };
  labels.selected = moved;
  change(labels.features.map((one) => (one === label ? moved : one)));
}

export function deleteSelected() {
  const selected = labels.selected;
  if (selected === null) return;
  labels.selected = null;
  change(labels.features.filter((one) => one !== selected));
}

/** Choose a class; a selected label gets it. @param {number} number */
export function chooseClass(number) {
  if (labels.classes[number] === undefined) return;
  labels.chosen = number;
  const selected = labels.selected;
  const name = labels.classes[number].name;
  if (selected !== null && selected.class !== name) {
    const other = { ...selected, class: name };
    labels.selected = other;
    change(labels.features.map((one) => (one === selected ? other : one)));
    return;
  }
  tellLabels();
}

/** @param {string} name */
export function addClass(name) {
  const words = name.trim().replace(/\s+/g, " ");
  if (words === "") return;
  const known = labels.classes.findIndex((one) => one.name === words);
  if (known < 0) {
    const color = labels.palette[labels.classes.length % labels.palette.length];
    labels.classes = [...labels.classes, { name: words, color }];
  }
  chooseClass(known < 0 ? labels.classes.length - 1 : known);
}

/** @param {Tool} tool */
export function chooseTool(tool) {
  labels.tool = tool;
  labels.draft = [];
  if (tool !== "edit") labels.selected = null;
  tellLabels();
}

/** Take the latest vertex back, or the latest change. */
export function undo() {
  if (labels.draft.length) labels.draft = labels.draft.slice(0, -1);
  else labels.features = labels.earlier.pop() ?? labels.features;
  if (labels.selected !== null && !labels.features.includes(labels.selected)) labels.selected = null;
  tellLabels();
}

/** Add the vertices that were drawn as a polygon. */
export function finishPolygon() {
  const vertices = labels.draft.filter((place, i) => i === 0 || !isSame(place, labels.draft[i - 1]));
  if (vertices.length < 3) {
    complain("A polygon needs three corners.");
    return;
  }
  if (crossesItself(vertices)) {
    complain("This outline crosses itself; take corners back with Undo and draw it around the field.");
    return;
  }
  labels.draft = [];
  addLabel({ type: "Polygon", coordinates: [[...vertices, vertices[0]]] });
}

/** @param {Place} one @param {Place} other */
function isSame(one, other) {
  return one[0] === other[0] && one[1] === other[1];
}

/** Whether two sides of a polygon that are no neighbors cross. @param {Place[]} vertices */
export function crossesItself(vertices) {
  const count = vertices.length;
  for (let i = 0; i < count; i++) {
    for (let j = i + 2; j < count; j++) {
      if (i === 0 && j === count - 1) continue; // the last side ends where the first one begins
      if (cross(vertices[i], vertices[i + 1], vertices[j], vertices[(j + 1) % count])) return true;
    }
  }
  return false;
}

/** Whether the lines ab and cd cross. @param {Place} a @param {Place} b @param {Place} c @param {Place} d */
function cross(a, b, c, d) {
  return turn(a, b, c) !== turn(a, b, d) && turn(c, d, a) !== turn(c, d, b);
}

/** Whether a, b, c turn to the left. @param {Place} a @param {Place} b @param {Place} c */
function turn(a, b, c) {
  return (b[0] - a[0]) * (c[1] - a[1]) > (b[1] - a[1]) * (c[0] - a[0]);
}

/** Write all labels to the file. */
export async function saveLabels() {
  if (labels.saving) return;
  labels.saving = true;
  tellLabels();
  const sent = labels.features;
  const features = sent.map((one) => ({ id: one.id, class: one.class, geometry: one.moved ? one.geometry : null }));
  const answer = await send("labels.json", { version: labels.version, features });
  labels.saving = false;
  if (answer !== undefined) settle(sent, answer.version);
  tellLabels();
}

/** The file has these labels now; they are numbered anew. @param {Label[]} sent @param {number} version */
function settle(sent, version) {
  /** @type {Map<Label, Label>} */
  const stored = new Map(sent.map((one, number) => [one, { ...one, id: number, moved: false }]));
  const drawnSince = labels.features !== sent;
  labels.version = version;
  labels.saved = [...stored.values()];
  // Labels that were drawn while the file was written stay unsaved; earlier steps have numbers that no longer exist.
  labels.features = drawnSince ? labels.features.map((one) => stored.get(one) ?? { ...one, id: null, moved: true }) : labels.saved;
  labels.selected = labels.selected === null ? null : (stored.get(labels.selected) ?? null);
  labels.earlier = [];
}
