// @ts-check
/** What is shown and what the reader has chosen. */

/**
 * @typedef {import("./types.js").MapClass} MapClass
 * @typedef {import("./types.js").Bounds} Bounds
 * @typedef {import("./types.js").View} View
 * @typedef {import("./types.js").Entry} Entry
 */

/** @type {View} */
export let view;

export const state = {
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
export let legend = [];

/** @type {Map<string, number>} clear share by "sensor/step" */
export const clear = new Map();

/** @param {MapClass} entry */
export function keyOf(entry) {
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

/** @param {import("./types.js").View} found what the server shows */
export function setView(found) {
  view = found;
  legend = legendEntries();
}

/** @returns {Bounds} of everything that is shown */
export function everything() {
  const parts = [...view.maps, ...(view.images ? [view.images] : [])].map((part) => part.bounds);
  return [
    Math.min(...parts.map((part) => part[0])),
    Math.min(...parts.map((part) => part[1])),
    Math.max(...parts.map((part) => part[2])),
    Math.max(...parts.map((part) => part[3])),
  ];
}

/** @type {(() => void)[]} called after another sensor was chosen */
export const sensorChanged = [];

/** @type {(() => void)[]} called after another date was chosen */
export const dateChanged = [];
