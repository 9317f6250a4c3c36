// SPDX-License-Identifier: BSD-3-Clause
// What is drawn over a picture: the scan path, the pointer, and the scale bar.

import { FONT } from "./canvas.js";
import { lengthUnit } from "./format.js";

const PATH = "rgb(108 200 255 / 0.55)", LATEST = "#ffb454", OUTLINE = "rgb(8 10 13 / 0.7)";

// Positions as they come, in parts, each from a start.
export class ScanPath {
  constructor() {
    this.clear();
  }

  clear() {
    this.version = 0;
    this.generation = 0;
    this.length = 0; // positions
    this.values = new Float32Array(1024); // y, x, y, x, ...
    this.latest = [];
  }

  add({ version, generation, start, positions, latest }) {
    const end = 2 * start + positions.length;
    if (end > this.values.length) {
      const larger = new Float32Array(2 ** Math.ceil(Math.log2(end)));
      larger.set(this.values.subarray(0, 2 * start));
      this.values = larger;
    }
    this.values.set(positions, 2 * start);
    Object.assign(this, { version, generation, latest, length: end / 2 });
  }
}

export function drawPath(context, canvas, view, path) {
  const { values, length, latest } = path;
  const [top, left] = view.toScreen(canvas, 0, 0);
  const scale = view.scale;
  context.lineJoin = "round";
  context.lineWidth = 1;
  context.strokeStyle = PATH;
  context.beginPath();
  let y = -1e9, x = -1e9;
  for (let k = 0; k < length; k++) { // steps of less than a screen pixel are one
    const down = top + values[2 * k] * scale, right = left + values[2 * k + 1] * scale;
    if (Math.abs(down - y) + Math.abs(right - x) < 1) continue;
    if (k === 0) context.moveTo(right, down);
    else context.lineTo(right, down);
    y = down;
    x = right;
  }
  context.stroke();
  for (let k = 0; k < latest.length; k += 2) {
    const last = k + 2 >= latest.length;
    context.beginPath();
    context.arc(left + latest[k + 1] * scale, top + latest[k] * scale, last ? 5 : 2, 0, 2 * Math.PI);
    context.globalAlpha = 0.3 + 0.7 * (k / latest.length);
    context.fillStyle = LATEST;
    context.strokeStyle = OUTLINE;
    context.fill();
    context.stroke();
  }
  context.globalAlpha = 1;
}

export function drawPointer(context, canvas, view) {
  const [top, left] = view.toScreen(canvas, view.pointer.y, view.pointer.x).map((v) => Math.round(v) + 0.5);
  for (const [colour, width] of [[OUTLINE, 3], ["#ffffff", 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [from, to] of [[-9, -3], [3, 9]]) {
      context.moveTo(left + from, top);
      context.lineTo(left + to, top);
      context.moveTo(left, top + from);
      context.lineTo(left, top + to);
    }
    context.stroke();
  }
}

// A length of 1, 2 or 5 times a power of ten, as a bar of at most a quarter of the canvas.
export function scaleBar(width, scale, pixelSize) {
  const pixel = pixelSize ?? 1;
  const longest = ((width / 4) * pixel) / scale;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = power * [5, 2, 1].find((digit) => digit * power <= longest * 1.000001);
  const [unit, name] = pixelSize ? lengthUnit(length) : [1, "px"];
  return { pixels: (length / pixel) * scale, label: `${Number((length / unit).toPrecision(1))} ${name}` };
}

export function drawScaleBar(context, canvas, view, pixelSize) {
  const bar = scaleBar(canvas.clientWidth, view.scale, pixelSize);
  context.font = FONT;
  const text = context.measureText(bar.label).width;
  const width = Math.max(bar.pixels, text) + 16, height = 32;
  const left = 10, top = canvas.clientHeight - height - 10;
  context.fillStyle = OUTLINE;
  context.beginPath();
  context.roundRect(left, top, width, height, 4);
  context.fill();
  context.fillStyle = "#ffffff";
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.fillText(bar.label, left + width / 2, top + 16);
  context.fillRect(left + (width - bar.pixels) / 2, top + 22, bar.pixels, 3);
}
