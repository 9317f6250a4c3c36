// SPDX-License-Identifier: BSD-3-Clause
// A picture as the server sends it (picture_message in board.py), and the statistics of its two planes.

const LEVELS = 65535; // 1 to 65535 are low to high; 0 is uncovered

export class Plane {
  // values: Uint16Array; low, high: their range; cyclic: a phase, which is shown about its mean.
  constructor(values, low, high, cyclic) {
    this.values = values;
    this.cyclic = cyclic;
    const counts = new Uint32Array(LEVELS + 1);
    for (let k = 0; k < values.length; k++) counts[values[k]]++;
    this.total = values.length - counts[0];
    const step = (high - low) / (LEVELS - 1);
    const table = new Float64Array(LEVELS + 1);
    for (let v = 1; v <= LEVELS; v++) table[v] = low + (v - 1) * step;
    if (cyclic) centre(table, counts);
    table[0] = NaN;
    this.table = table;
    this.#sort(counts);
  }

  valueOf = (level) => this.table[level];

  // Levels that occur, by increasing value, and how many pixels are up to each.
  #sort(counts) {
    let levels = [];
    for (let v = 1; v <= LEVELS; v++) if (counts[v]) levels.push(v);
    if (this.cyclic) { // increasing but for one wrap
      const wrap = levels.findIndex((v, k) => k > 0 && this.table[v] < this.table[levels[k - 1]]);
      if (wrap > 0) levels = levels.slice(wrap).concat(levels.slice(0, wrap));
    }
    this.sorted = Float64Array.from(levels, (v) => this.table[v]);
    this.upTo = new Float64Array(levels.length);
    let sum = 0;
    levels.forEach((v, k) => { this.upTo[k] = sum += counts[v]; });
  }

  percentile(percent) {
    if (!this.total) return NaN;
    const wanted = (percent / 100) * this.total;
    let low = 0, high = this.upTo.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.upTo[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return this.sorted[low];
  }

  // Numbers of pixels in equal bins from low to high.
  histogram(low, high, bins) {
    const counts = new Float64Array(bins);
    if (!(high > low)) return counts;
    let before = 0;
    for (let k = 0; k < this.sorted.length; k++) {
      const bin = Math.floor(((this.sorted[k] - low) / (high - low)) * bins);
      if (bin >= 0 && bin < bins) counts[bin] += this.upTo[k] - before;
      before = this.upTo[k];
    }
    return counts;
  }
}

// Subtract the mean phase, which diffraction does not determine, so that the values lie about zero in (-pi, pi].
function centre(table, counts) {
  let real = 0, imaginary = 0;
  for (let v = 1; v <= LEVELS; v++) {
    if (counts[v]) {
      real += counts[v] * Math.cos(table[v]);
      imaginary += counts[v] * Math.sin(table[v]);
    }
  }
  const mean = Math.atan2(imaginary, real), turn = 2 * Math.PI;
  for (let v = 1; v <= LEVELS; v++) {
    const phase = table[v] - mean;
    table[v] = phase - turn * Math.ceil((phase - Math.PI) / turn);
  }
}

export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = header.height * header.width;
  const plane = (index, range, cyclic) =>
    new Plane(new Uint16Array(buffer, 4 + length + 2 * size * index, size), range[0], range[1], cyclic);
  return {
    version: header.version,
    height: header.height,
    width: header.width,
    // Sample k of the canvas is at origin + k, its pixel from half a pixel before that to half a pixel behind.
    top: header.origin[0] - 0.5,
    left: header.origin[1] - 0.5,
    step: header.step,
    pixelSize: header.pixel_size,
    planes: { amplitude: plane(0, header.amplitude, false), phase: plane(1, header.phase, true) },
  };
}
