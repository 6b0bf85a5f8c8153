// @ts-check
/** Chips without a place: a grid of pictures. */
import { chips, chipsChanged, selected, shownChips, splitColor } from "./chip_state.js";
import { byId, h } from "./dom.js";

const STEP = 120; // chips that are added at a time

/** @param {(number: number) => void} open called with the number of a clicked chip */
export function showGrid(open) {
  byId("left").hidden = true;
  const grid = byId("grid");
  grid.hidden = false;
  let most = STEP;
  const draw = () => {
    const numbers = shownChips();
    const items = numbers.slice(0, most).map((number) => thumbnail(number, open));
    grid.replaceChildren(h("div", { class: "thumbnails" }, ...items));
    if (numbers.length > most) {
      const more = () => {
        most += STEP;
        draw();
      };
      grid.append(h("button", { type: "button", class: "more", click: more }, `Show more of ${numbers.length.toLocaleString("en")} chips`));
    }
  };
  chipsChanged.push(draw);
  draw();
}

/** @param {number} number @param {(number: number) => void} open */
function thumbnail(number, open) {
  const chip = chips.chips[number];
  const picture = h("img", { src: `chip/${number}/thumbnail.png`, alt: "", loading: "lazy" });
  const line = h("span", { class: "split" }, chip.split);
  const classes = ["thumbnail", chip.split, number === selected.number ? "chosen" : ""].join(" ");
  const button = h("button", { type: "button", class: classes, title: chip.name, click: () => open(number) }, picture,
    h("span", { class: "name" }, chip.name), line);
  button.style.borderColor = splitColor(chip.split);
  return button;
}
