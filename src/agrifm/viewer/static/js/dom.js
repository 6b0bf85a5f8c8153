// @ts-check
/** Elements of the page, and short messages to its reader. */

/**
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Create an element; strings among the children become text.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] attributes; functions become listeners
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

/**
 * Create an element of SVG.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Record<string, any>} attributes
 * @param {(Node | string)[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
}

/** @param {string} color */
export function swatch(color) {
  const rectangle = s("rect", { width: "100%", height: "100%", fill: color, rx: 3 });
  return h("span", { class: "swatch" }, s("svg", { class: "swatch-color", "aria-hidden": true }, rectangle));
}

/**
 * @param {string} title
 * @param {boolean | null} on state of its switch, or null for none
 * @param {(on: boolean) => void} change
 * @param {...Node} children
 */
export function group(title, on, change, ...children) {
  const head = h("div", { class: "head" }, h("h2", { title }, title));
  if (on !== null) {
    const toggle = (/** @type {any} */ event) => change(event.target.checked);
    const attributes = { type: "checkbox", class: "switch", role: "switch", checked: on, "aria-label": `Show ${title}` };
    head.append(h("input", { ...attributes, change: toggle }));
  }
  return h("section", { class: "group" }, head, ...children);
}

/**
 * A choice of few options, side by side.
 * @param {string} name
 * @param {[string, string][]} options value and text
 * @param {string} chosen
 * @param {(value: string) => void} change
 */
export function segments(name, options, chosen, change) {
  return options.map(([value, text]) => {
    const attributes = { type: "radio", name, value, checked: value === chosen };
    return h("label", { title: text }, h("input", { ...attributes, change: () => change(value) }), h("span", {}, text));
  });
}

let toastTimer = 0;

/** @param {string} text one sentence */
export function complain(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => (toast.hidden = true), 9000);
}
