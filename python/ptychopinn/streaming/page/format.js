// SPDX-License-Identifier: BSD-3-Clause
// Numbers, lengths and times as text.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const MISSING = "\u2013";

export function count(value) {
  return Number.isFinite(value) ? WHOLE.format(value) : MISSING;
}

// Three significant digits, with a true minus sign.
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e5) return count(value).replace("-", "\u2212");
  const text = size !== 0 && (size >= 1e5 || size < 1e-3)
    ? value.toExponential(digits - 1).replace("e+", "e")
    : value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1))));
  return text.replace("-", "\u2212");
}

export function fixed(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace("-", "\u2212") : MISSING;
}

const LENGTHS = [[1e-9, "nm"], [1e-6, "\u00b5m"], [1e-3, "mm"], [1, "m"]];

// The unit in which a length in metres has one to three digits before the point.
export function lengthUnit(metres) {
  const size = Math.abs(metres);
  return LENGTHS.find(([unit]) => size < 999.5 * unit) ?? LENGTHS.at(-1);
}

export function bytes(value) {
  if (!Number.isFinite(value)) return MISSING;
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= unit) return `${number(value / unit)} ${name}`;
  }
  return `${value} B`;
}

// [value, unit] of a duration that may be short.
export function seconds(value) {
  if (!Number.isFinite(value)) return [MISSING, "s"];
  if (value < 0.9995) return [fixed(1000 * value, 0), "ms"];
  return value < 120 ? [number(value), "s"] : [duration(value), value < 3600 ? "min" : "h"];
}

// Minutes and seconds, or hours, minutes and seconds.
export function duration(value) {
  if (!Number.isFinite(value)) return MISSING;
  const all = Math.max(0, Math.floor(value));
  const two = (part) => String(part).padStart(2, "0");
  const hours = Math.floor(all / 3600), minutes = Math.floor(all / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`;
}

// A time in seconds since 1970 as the time of day, or since the begin of the run.
export function time(value) {
  return value > 1e9 ? new Date(1000 * value).toTimeString().slice(0, 8) : duration(value);
}
