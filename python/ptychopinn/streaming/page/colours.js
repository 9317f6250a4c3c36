// SPDX-License-Identifier: BSD-3-Clause
// Colour maps of 256 colours, computed in OKLCh (Ottosson 2020): equal steps of a value look equally far apart. Chroma is
// reduced where a colour is outside sRGB, which keeps its lightness and hue.

const SIZE = 256;

function toSrgb(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
  ];
}

function colourOf(lightness, chroma, degrees) {
  const hue = (degrees * Math.PI) / 180;
  let low = 0, high = chroma;
  const fits = (c) => toSrgb(lightness, c, hue).every((x) => x > -1e-4 && x < 1.0001);
  if (!fits(high)) {
    for (let k = 0; k < 20; k++) {
      const middle = (low + high) / 2;
      if (fits(middle)) low = middle;
      else high = middle;
    }
    chroma = low;
  }
  return toSrgb(lightness, chroma, hue).map((x) => {
    const linear = Math.min(1, Math.max(0, x));
    return Math.round(255 * (linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055));
  });
}

function tableOf(colour) {
  const table = new Uint8Array(3 * SIZE);
  for (let k = 0; k < SIZE; k++) table.set(colour(k), 3 * k);
  return table;
}

const fraction = (k) => k / (SIZE - 1);

// The names are those of the page's menus. A cyclic map shows a period, whatever range is chosen.
export const MAPS = {
  grey: { label: "Grey", cyclic: false, table: tableOf((k) => [k, k, k]) },
  violet: {
    label: "Violet to yellow",
    cyclic: false,
    table: tableOf((k) => colourOf(0.24 + 0.69 * fraction(k), 0.145, 302 - 197 * fraction(k) ** 1.1)),
  },
  cyclic: { label: "Cyclic", cyclic: true, table: tableOf((k) => colourOf(0.7, 0.125, (360 * k) / SIZE + 260)) },
};

// Colours of all 16-bit values as little-endian RGBA; 0 is transparent. `valueOf` is monotonic, or wraps once.
export function coloursOf(map, valueOf, low, high) {
  const table = MAPS[map].table, colours = new Uint32Array(65536);
  const factor = high > low ? SIZE / (high - low) : 0;
  for (let v = 1; v < 65536; v++) {
    const k = 3 * Math.min(SIZE - 1, Math.max(0, Math.floor((valueOf(v) - low) * factor)));
    colours[v] = 0xff000000 | (table[k + 2] << 16) | (table[k + 1] << 8) | table[k];
  }
  return colours;
}

export function cssColour(map, t) {
  const k = 3 * Math.min(SIZE - 1, Math.max(0, Math.floor(t * SIZE)));
  const table = MAPS[map].table;
  return `rgb(${table[k]} ${table[k + 1]} ${table[k + 2]})`;
}
