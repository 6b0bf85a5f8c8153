// @ts-check
/** Two sides, and the border between them. */
import { byId } from "./dom.js";
import { openSide, redraw, right } from "./layers.js";
import { state, view } from "./state.js";

/** @param {string} value */
export async function compare(value) {
  state.compare = /** @type {"off" | "images" | "map"} */ (value);
  const on = state.compare !== "off";
  for (const id of ["right", "divider", "left-name", "right-name"]) byId(id).hidden = !on;
  if (!on) return;
  if (right === null) await openSide("right");
  right?.map.resize();
  byId("left-name").textContent = view.maps[0].title;
  byId("right-name").textContent = state.compare === "map" ? view.maps[1].title : "Images";
  // The border begins in the middle of what panels leave free.
  const free = byId("panel").getBoundingClientRect().right;
  setSplit((100 * (free + (innerWidth - free) / 2)) / innerWidth);
  redraw();
}

/** @param {number} percent of the width of the page */
function setSplit(percent) {
  state.split = Math.max(0, Math.min(100, percent));
  byId("stage").style.setProperty("--split", `${state.split}%`);
  byId("divider").setAttribute("aria-valuenow", String(Math.round(state.split)));
}

export function listenToDivider() {
  const divider = byId("divider");
  divider.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    divider.setPointerCapture(event.pointerId);
    event.preventDefault();
    divider.focus();
  });
  divider.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
    if (divider.hasPointerCapture(event.pointerId)) setSplit((100 * event.clientX) / innerWidth);
  });
  divider.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
    if (step === undefined) return;
    setSplit(state.split + step);
    event.preventDefault();
    event.stopPropagation();
  });
}
