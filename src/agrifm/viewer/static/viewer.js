// @ts-check
/**
 * The page of 'agrifm view' for maps and scenes. It reads view.json once, then draws tiles and asks for values at clicked
 * places. All text from files reaches the page as text nodes, never as markup.
 */
import { ask } from "./js/api.js";
import { byId } from "./js/dom.js";
import { save } from "./js/export.js";
import { addLabelLayers } from "./js/label_layers.js";
import { startLabeling } from "./js/label_panel.js";
import { readLabels } from "./js/label_state.js";
import { left, openSide, paneOpened, redraw } from "./js/layers.js";
import { readAreas } from "./js/legend.js";
import { padding } from "./js/pane.js";
import { buildPanel } from "./js/panel.js";
import { closePixel, listenToPane } from "./js/pixel.js";
import { returnHere } from "./js/reload.js";
import { showSeries } from "./js/series.js";
import { dateChanged, everything, sensorChanged, setView, state, view } from "./js/state.js";
import { listenToDivider } from "./js/swipe.js";
import { buildTimeline, chooseFirstDate, readClearShares, setStep, showTimeline } from "./js/timeline.js";
import { readTraining } from "./js/train_panel.js";

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closePixel();
    const focused = document.activeElement;
    const isFree = focused === document.body || focused === byId("panel");
    if (!isFree || view.images === null) return;
    if (event.key === "ArrowLeft") setStep(state.steps[state.sensor] - 1);
    if (event.key === "ArrowRight") setStep(state.steps[state.sensor] + 1);
  });
}

async function start() {
  const found = await ask("view.json");
  if (found === undefined) return;
  setView(found);
  dateChanged.push(showSeries);
  sensorChanged.push(showSeries);
  paneOpened.push(listenToPane);
  if (view.labels) paneOpened.push(addLabelLayers);
  buildTimeline();
  buildPanel();
  const opened = openSide("left");
  byId("zoom").addEventListener("click", () => left.map.fitBounds(everything(), { padding: padding(), duration: 300 }));
  byId("save").addEventListener("click", save);
  window.addEventListener("resize", () => view.images && showTimeline());
  listenToDivider();
  listenToKeys();
  await opened;
  if (view.images) await chooseFirstDate();
  redraw();
  await returnHere();
  if (view.labels && (await readLabels())) {
    await startLabeling();
    if (view.training) await readTraining();
  }
  await readAreas();
  if (view.images) await readClearShares();
}

start();
