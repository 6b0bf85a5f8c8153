// @ts-check
/** What the server sends, as types of JSDoc. */

/**
 * @typedef {{value: number, name: string, color: string}} MapClass
 * @typedef {{name: string, product: string, high: number, unit: string}} Surface
 * @typedef {[number, number, number, number]} Bounds west, south, east, north
 * @typedef {{title: string, bounds: Bounds, zoom: number, classes: MapClass[], surfaces: Surface[], number: number}} ClassMap the
 *   number is part of addresses
 * @typedef {{name: string, days: string[], composites: string[]}} Sensor
 * @typedef {{title: string, bounds: Bounds, zoom: number, note: string, composites: string[], sensors: Sensor[]}} Images
 * @typedef {{title: string, count: number, bounds: Bounds, crop: string | null}} Parcels
 * @typedef {{title: string, maps: ClassMap[], images: Images | null, parcels: Parcels | null, labels: boolean,
 *   training: boolean, notes: string[], scale: string[]}} View
 * @typedef {{name: string, wavelength: number, values: (number | null)[]}} BandSeries
 * @typedef {{sensor: string, days: string[], clear: boolean[], ndvi: (number | null)[] | null, bands: BandSeries[]}} Series
 * @typedef {{name: string, product: string, value: number | null, unit: string}} LayerValue
 * @typedef {{row: number, column: number, class: string | null, color: string | null, layers: LayerValue[]}} Pixel
 * @typedef {{name: string, weight: number, class: number, probabilities: number[]}} Vote of a member of a model; the class is its
 *   value on the map
 * @typedef {{key: string, name: string, color: string, values: (number | null)[]}} Entry of the legend: values by map
 */
export {};
