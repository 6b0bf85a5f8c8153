// @ts-check
/**
 * The page of 'agrifm view' for a sample: a person answers what stands at each point, blind to the map. Every answer is
 * saved at once. The server sends no stratum and no class of the map, so this page cannot show them.
 */
import { ask } from "./js/api.js";
import { byId } from "./js/dom.js";
import { answerKey, buildAnswers } from "./js/interpret_answers.js";
import { buildImages, imageKey } from "./js/interpret_images.js";
import { firstOpen, sample, setSample, showPoint } from "./js/interpret_state.js";

async function start() {
  const found = await ask("sample.json");
  if (found === undefined) return;
  setSample(found);
  document.title = `${sample.title} – AgriFM`;
  byId("title").textContent = sample.title;
  byId("subtitle").textContent = sample.images === null ? "No images; name them with --scene FOLDER." : `Scene: ${sample.images.title}`;
  buildImages();
  buildAnswers();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (answerKey(event.key) || imageKey(event.key)) event.preventDefault();
  });
  await showPoint(Math.max(0, firstOpen()));
  byId("point").setAttribute("aria-busy", "false");
}

start();
