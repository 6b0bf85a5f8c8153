// @ts-check
/** Numbers, days and places as people read them. */

export const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** @param {string} iso */
export function day(iso) {
  const [year, month, date] = iso.split("-").map(Number);
  return `${date} ${MONTHS[month - 1]} ${year}`;
}

/** @param {number} value */
export function hectares(value) {
  const digits = value < 100 ? 1 : 0;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {string} title */
export function short(title) {
  const name = title.replace(/\.tiff?$/i, "");
  return name.length > 9 ? `${name.slice(0, 8)}…` : name;
}

/** @param {number} lng @param {number} lat */
export function placeText(lng, lat) {
  const north = `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(lng).toFixed(5)}° ${lng < 0 ? "W" : "E"}`;
}
