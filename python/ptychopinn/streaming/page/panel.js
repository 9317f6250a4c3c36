// SPDX-License-Identifier: BSD-3-Clause
// One picture with its colours: the image in the common view, a histogram, and two sliders for the range.

import { prepared } from "./canvas.js";
import { MAPS, coloursOf, cssColour } from "./colours.js";
import { number } from "./format.js";
import { drawPath, drawPointer, drawScaleBar } from "./overlays.js";

const BINS = 96;
const LARGEST_PERCENT = 50;
const FIRST_PERCENT = 0.5;

// Positions of a slider, 0 to 1000, are finer towards the ends of the distribution.
const percentOf = (position) => Number((LARGEST_PERCENT * (position / 1000) ** 3).toPrecision(2));
const positionOf = (percent) => 1000 * (percent / LARGEST_PERCENT) ** (1 / 3);

export class Panel {
  // name: of the plane; label, unit: as text; map: the first one; changed(): something is to be drawn again.
  constructor(template, { name, label, unit, map, maps, changed }) {
    this.root = template.content.firstElementChild.cloneNode(true);
    this.name = name;
    this.label = label;
    this.changed = changed;
    const find = (selector) => this.root.querySelector(selector);
    this.canvas = find(".image");
    this.empty = find(".empty");
    this.histogram = find(".histogram");
    this.select = find("select");
    this.sliders = { low: find("input.low"), high: find("input.high") };
    this.outputs = { low: find("output.low"), high: find("output.high") };
    this.image = document.createElement("canvas");
    this.stale = true;
    this.picture = null;
    find("h2").textContent = label;
    find(".unit").textContent = unit;
    this.root.id = name;
    this.canvas.setAttribute("aria-label", `${label}. Arrow keys move, plus and minus zoom, 0 fits.`);
    this.select.setAttribute("aria-label", `Colours of the ${name}`);
    for (const key of maps) this.select.add(new Option(MAPS[key].label, key, key === map, key === map));
    this.select.addEventListener("change", () => this.#recolour());
    for (const [side, slider] of Object.entries(this.sliders)) {
      slider.setAttribute("aria-label", `${side === "low" ? "Lower" : "Upper"} limit of the ${name}, percentile`);
      slider.value = side === "low" ? positionOf(FIRST_PERCENT) : 1000 - positionOf(FIRST_PERCENT);
      slider.addEventListener("input", () => this.#recolour());
      slider.addEventListener("dblclick", () => {
        slider.value = side === "low" ? positionOf(FIRST_PERCENT) : 1000 - positionOf(FIRST_PERCENT);
        this.#recolour();
      });
    }
  }

  setPicture(picture) {
    this.picture = picture;
    this.empty.hidden = picture !== null;
    this.#recolour();
  }

  get plane() {
    return this.picture?.planes[this.name];
  }

  // The limits of the colours, and their percentiles.
  get limits() {
    if (MAPS[this.select.value].cyclic) return { low: -Math.PI, high: Math.PI, lowPercent: null, highPercent: null };
    const lowPercent = percentOf(Number(this.sliders.low.value));
    const highPercent = 100 - percentOf(1000 - Number(this.sliders.high.value));
    const low = this.plane.percentile(lowPercent);
    return { low, high: Math.max(low, this.plane.percentile(highPercent)), lowPercent, highPercent };
  }

  // The value at scan coordinates; NaN where there is none.
  valueAt(y, x) {
    const picture = this.picture;
    if (!picture) return NaN;
    const row = Math.floor((y - picture.top) / picture.step), column = Math.floor((x - picture.left) / picture.step);
    if (row < 0 || row >= picture.height || column < 0 || column >= picture.width) return NaN;
    return this.plane.table[this.plane.values[row * picture.width + column]];
  }

  #recolour() {
    this.stale = true;
    this.changed();
  }

  draw(view, path) {
    if (this.stale) {
      this.stale = false;
      if (this.picture) this.#render();
      this.#drawRange();
    }
    const context = prepared(this.canvas);
    const picture = this.picture;
    if (!picture) return;
    const [top, left] = view.toScreen(this.canvas, picture.top, picture.left);
    const scale = view.scale * picture.step;
    context.fillStyle = "#13171d"; // of what is not covered yet
    context.fillRect(left, top, picture.width * scale, picture.height * scale);
    context.imageSmoothingEnabled = scale * (devicePixelRatio || 1) < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, left, top, picture.width * scale, picture.height * scale);
    if (path) drawPath(context, this.canvas, view, path);
    if (view.pointer) drawPointer(context, this.canvas, view);
    drawScaleBar(context, this.canvas, view, picture.pixelSize);
  }

  #render() {
    const { width, height } = this.picture, { low, high } = this.limits;
    const colours = coloursOf(this.select.value, this.plane.valueOf, low, high);
    if (this.image.width !== width || this.image.height !== height) Object.assign(this.image, { width, height });
    const context = this.image.getContext("2d"), data = context.createImageData(width, height);
    const pixels = new Uint32Array(data.data.buffer), values = this.plane.values;
    for (let k = 0; k < values.length; k++) pixels[k] = colours[values[k]];
    context.putImageData(data, 0, 0);
  }

  // Histogram in the colours of the range, and the texts of its limits.
  #drawRange() {
    const map = this.select.value, { cyclic } = MAPS[map];
    for (const slider of Object.values(this.sliders)) slider.disabled = cyclic || !this.picture;
    const context = prepared(this.histogram);
    if (!this.plane?.total) {
      for (const output of Object.values(this.outputs)) output.textContent = "";
      return;
    }
    const { low, high, lowPercent, highPercent } = this.limits;
    const first = cyclic ? low : Math.min(low, this.plane.percentile(0.2));
    const last = cyclic ? high : Math.max(high, this.plane.percentile(99.8));
    const margin = cyclic ? 0 : 0.04 * (last - first || 1);
    const begin = first - margin, end = last + margin;
    const counts = this.plane.histogram(begin, end, BINS);
    const largest = Math.max(...counts) || 1;
    const width = this.histogram.clientWidth, height = this.histogram.clientHeight, bar = width / BINS;
    for (let k = 0; k < BINS; k++) {
      const value = begin + ((k + 0.5) / BINS) * (end - begin);
      const inside = value >= low && value <= high;
      const size = Math.max(counts[k] ? 1 : 0, (height - 9) * Math.sqrt(counts[k] / largest));
      context.fillStyle = inside ? "#9ba6b3" : "#465060";
      context.fillRect(k * bar, height - 7 - size, bar - 0.75, size);
    }
    const place = (value) => ((value - begin) / (end - begin)) * width;
    const from = place(low), to = Math.max(from + 1, place(high));
    const gradient = context.createLinearGradient(from, 0, to, 0);
    for (let k = 0; k <= 32; k++) gradient.addColorStop(k / 32, cssColour(map, k / 32));
    context.fillStyle = gradient;
    context.fillRect(from, height - 5, to - from, 5);
    context.fillStyle = "#e4e8ed";
    for (const edge of [from, to]) context.fillRect(Math.min(width - 1, Math.max(0, edge - 0.5)), 0, 1, height);
    const texts = { low: [low, lowPercent], high: [high, highPercent] };
    for (const [side, [value, percent]] of Object.entries(texts)) {
      const text = percent === null ? number(value) : `${number(value)} (${percent}\u00a0%)`;
      this.outputs[side].textContent = text;
      this.sliders[side].setAttribute("aria-valuetext", text);
    }
  }

  // The histogram has the size of its canvas.
  resized() {
    this.#recolour();
  }
}
