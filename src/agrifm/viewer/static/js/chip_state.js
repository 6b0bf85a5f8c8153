// @ts-check
/** Chips that are shown, and what the reader has chosen. */

/**
 * @typedef {{name: string, split: string, footprint: [number, number][] | null, pixels: Record<string, number>,
 *   problem?: string}} Chip
 * @typedef {{title: string, classes: {name: string, color: string}[], splits: string[], chips: Chip[]}} ChipSet
 */

export const SPLIT_COLORS = { train: "#5c6770", val: "#1f6fb5", test: "#d9730d" }; // as in split.png

/** @type {ChipSet} */
export let chips;
/** @type {Set<string>} splits that are shown */
export const shownSplits = new Set();
export const selected = { number: -1 };
/** @type {(() => void)[]} called after other splits or another chip were chosen */
export const chipsChanged = [];

/** @param {ChipSet} found */
export function setChips(found) {
  chips = found;
  found.splits.forEach((split) => shownSplits.add(split));
}

export function tellChips() {
  chipsChanged.forEach((tell) => tell());
}

/** Numbers of the chips whose split is shown. @returns {number[]} */
export function shownChips() {
  return [...chips.chips.keys()].filter((number) => shownSplits.has(chips.chips[number].split));
}

/** @param {string} split @returns {string} */
export function splitColor(split) {
  return /** @type {Record<string, string>} */ (SPLIT_COLORS)[split] ?? "#888";
}
