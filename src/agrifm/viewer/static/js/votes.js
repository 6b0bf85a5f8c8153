// @ts-check
/** The votes of the members of a map's model, in the card of a pixel. */
import { ask } from "./api.js";
import { h, swatch } from "./dom.js";
import { view } from "./state.js";

/**
 * @typedef {import("./types.js").ClassMap} ClassMap
 * @typedef {import("./types.js").Vote} Vote
 */

/** @type {Set<number>} numbers of the maps whose members are unknown */
const unknown = new Set();

let question = new AbortController();

/**
 * Where the votes will be shown.
 * @param {ClassMap} shown
 * @returns {Node[]}
 */
export function votesPlace(shown) {
  if (unknown.has(shown.number)) return [];
  return [h("div", { class: "votes", "data-map": shown.number }, h("p", { class: "busy", "aria-hidden": "true" }, "…"))];
}

/** Ask for the votes and show them in their places. @param {string} query the place */
export async function showVotes(query) {
  stopVotes();
  question = new AbortController();
  const signal = question.signal;
  for (const box of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#pixel .votes"))) {
    const shown = view.maps.find((one) => String(one.number) === box.dataset.map);
    if (shown === undefined) continue;
    const votes = await ask(`votes/${shown.number}.json${query}`, signal);
    if (signal.aborted) return;
    if (votes === null) unknown.add(shown.number);
    box.replaceChildren(...(votes?.length ? [h("h2", {}, "Members"), voteTable(votes, shown)] : []));
  }
}

/** End the question that is not answered yet. */
export function stopVotes() {
  question.abort();
}

/** @param {Vote[]} votes @param {ClassMap} shown */
function voteTable(votes, shown) {
  const table = h("table", { "aria-label": "Votes of the members of the model: class and its probability" });
  for (const vote of votes) {
    const entry = shown.classes.find((one) => one.value === vote.class);
    const percent = Math.round(100 * vote.probabilities[vote.class]);
    const title = `Weight ${Math.round(100 * vote.weight)} %`;
    table.append(h("tr", {}, h("th", { scope: "row", title }, vote.name),
      h("td", {}, swatch(entry?.color ?? "#888"), entry?.name ?? `class ${vote.class}`), h("td", {}, `${percent} %`)));
  }
  return table;
}
