// @ts-check
/** The view as a picture. */
import { byId, h } from "./dom.js";
import { left, right } from "./layers.js";
import { legend, state, view } from "./state.js";
import { day } from "./text.js";

/** Save what is visible beside the panel as PNG, with title, legend and scale bar. */
export async function save() {
  const scale = devicePixelRatio;
  const start = Math.round(byId("panel").getBoundingClientRect().right + 14);
  const picture = document.createElement("canvas");
  picture.width = Math.round(innerWidth * scale);
  picture.height = Math.round(innerHeight * scale);
  const context = /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d"));
  const map = { x: start * scale, width: (innerWidth - start) * scale, height: innerHeight * scale };
  context.fillStyle = "#fff";
  context.fillRect(0, 0, picture.width, picture.height);
  drawPane(context, left, map.x, map.width);
  if (right !== null && state.compare !== "off") {
    const border = Math.max(map.x, (state.split / 100) * picture.width);
    drawPane(context, right, border, picture.width - border);
    context.fillStyle = "#fff";
    context.fillRect(border - scale, 0, 2 * scale, picture.height);
  }
  context.scale(scale, scale);
  drawLegend(context, start - 28);
  drawScaleBar(context, start + 16, innerHeight - 20);
  const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: `${view.title.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("./pane.js").Pane} pane
 * @param {number} x left edge in pixels of the picture
 * @param {number} width
 */
function drawPane(context, pane, x, width) {
  pane.map.redraw(); // the canvas holds its picture only until the browser shows it
  const canvas = pane.map.getCanvas();
  const ratio = canvas.width / context.canvas.width;
  context.drawImage(canvas, x * ratio, 0, width * ratio, canvas.height, x, 0, width, context.canvas.height);
}

/** @param {CanvasRenderingContext2D} context @param {number} width */
function drawLegend(context, width) {
  const text = (/** @type {string} */ words, /** @type {number} */ x, /** @type {number} */ y, font = "13px system-ui, sans-serif") => {
    context.font = font;
    context.fillStyle = "#1d2125";
    context.fillText(words, x, y, width - x + 14);
  };
  let y = 36;
  text(view.title, 20, y, "600 17px system-ui, sans-serif");
  if (view.images) {
    const sensor = view.images.sensors[state.sensor];
    y += 22;
    text(`Images: ${sensor.name}, ${day(sensor.days[state.steps[state.sensor]])}`, 20, y);
  }
  y += 14;
  if (!state.map || !view.maps.length) return;
  if (state.layer !== "classes") {
    text(state.layer, 20, y + 18);
    const gradient = context.createLinearGradient(20, 0, width, 0);
    view.scale.forEach((color, i) => gradient.addColorStop(i / (view.scale.length - 1), color));
    context.fillStyle = gradient;
    context.fillRect(20, y + 28, width - 20, 12);
    return;
  }
  for (const entry of legend) {
    if (state.hidden.has(entry.key)) continue;
    y += 24;
    if (y > innerHeight - 20) return;
    context.fillStyle = entry.color;
    context.fillRect(20, y - 12, 16, 16);
    text(entry.name, 46, y + 1);
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
function drawScaleBar(context, x, y) {
  const center = left.map.getCenter();
  const meters = (40075016.686 * Math.cos((center.lat * Math.PI) / 180)) / (512 * 2 ** left.map.getZoom());
  const most = meters * 120;
  const digit = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((factor) => factor * digit).find((candidate) => candidate <= most) ?? digit;
  context.fillStyle = "#ffffffd9";
  context.fillRect(x - 6, y - 18, length / meters + 12, 26);
  context.fillStyle = "#1d2125";
  context.fillRect(x, y, length / meters, 3);
  context.font = "12px system-ui, sans-serif";
  context.fillText(length >= 1000 ? `${length / 1000} km` : `${length} m`, x, y - 5);
}
