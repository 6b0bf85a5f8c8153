// @ts-check
/** The page of 'agrifm view' for chips: on the ground, or as a grid of pictures if they state no place. */
import { ask } from "./js/api.js";
import { closeChip, openChip, watchChips } from "./js/chip_card.js";
import { showGrid } from "./js/chip_grid.js";
import { showMap } from "./js/chip_map.js";
import { buildChipPanel } from "./js/chip_panel.js";
import { setChips } from "./js/chip_state.js";
import { byId } from "./js/dom.js";

async function start() {
  const found = await ask("chips.json");
  if (found === undefined) return;
  setChips(found);
  buildChipPanel(location.pathname.endsWith("chips.html"), openChip);
  watchChips();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeChip();
  });
  const placed = found.chips.some((/** @type {any} */ chip) => chip.footprint !== null);
  if (placed) await showMap(openChip);
  else showGrid(openChip);
  byId("stage").setAttribute("aria-busy", "false");
}

start();
