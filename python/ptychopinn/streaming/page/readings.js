// SPDX-License-Identifier: BSD-3-Clause
// The numbers of a run: state, progress, readings, the deviance of the fit, warnings and faults. Text of the run is set
// as text only.

import { FONT, prepared } from "./canvas.js";
import { bytes, count, duration, number, seconds, time } from "./format.js";

const STATES = {
  waiting: "Waiting for frames",
  receiving: "Receiving",
  improving: "Improving the fit",
  finishing: "Finishing",
  finished: "Finished",
  interrupted: "Interrupted",
};
const SHOWN_FAULTS = 50;

const asks = (value) => (value > 0 ? "attention" : "");
const whole = (key) => (status) => (Number.isFinite(status[key]) ? count(status[key]) : null);

// Label, value or null, and the class of the row.
const COUNTERS = [
  ["Reconstructed", whole("reconstructed"), () => "wide"],
  ["On disk, to be reconstructed", whole("spooled"), () => "wide"],
  ["No position", whole("waiting_for_position")],
  ["Lost", (status) => (lostCount(status) === null ? null : count(lostCount(status))), (s) => asks(lostCount(s))],
  ["Damaged", whole("damaged"), (status) => asks(status.damaged)],
  ["Repeated", whole("repeated"), (status) => asks(status.repeated)],
  ["Out of order", whole("reordered")],
  ["Restarts", whole("restarts"), (status) => asks(status.restarts)],
  ["Passes", whole("passes")],
  ["Memory", (status) => (Number.isFinite(status.memory) ? bytes(status.memory) : null)],
];
const NAMES = [
  ["Lost frames", lostFrames],
  ["Source", (status) => status.source || null],
  ["Model", (status) => status.model || null],
  ["Result", (status) => status.result || null],
];

function lostCount(status) {
  return Number.isFinite(status.lost_count) ? status.lost_count : status.lost ? status.lost.length : null;
}

function lostFrames(status) {
  if (!status.lost?.length) return null;
  return `${status.lost.join(", ")}${lostCount(status) > status.lost.length ? ", \u2026" : ""}`;
}

const find = (id) => document.getElementById(id);

function element(name, className, content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

export function showTitle(title, status) {
  find("title").textContent = find("title").title = title;
  const { received, expected, state } = status;
  const part = expected > 0 && Number.isFinite(received) && state !== "finished"
    ? `${Math.min(100, Math.floor((100 * received) / expected))} % \u00b7 ` : "";
  document.title = `${part}${title} \u00b7 ptychopinn live`;
}

export function showStatus(status) {
  const state = find("state");
  const name = STATES[status.state] ?? status.state ?? "";
  if (state.textContent !== name) state.textContent = name; // which is announced
  state.dataset.state = status.state ?? "";
  find("elapsed").textContent = Number.isFinite(status.elapsed) ? duration(status.elapsed) : "";
  showProgress(status);
  showFigures(status);
  showRows("counters", COUNTERS, status);
  showRows("names", NAMES, status);
  showFaults(status.faults ?? []);
  const last = status.loss?.at(-1)?.[1];
  find("fit-card").hidden = !(status.loss?.length > 1);
  find("loss-value").textContent = Number.isFinite(last) ? number(last, 4) : "";
}

function showProgress({ received, expected }) {
  const known = Number.isFinite(received), bounded = expected > 0;
  find("progress").hidden = !known;
  if (!known) return;
  find("bar").hidden = !bounded;
  if (bounded) Object.assign(find("bar"), { max: expected, value: received });
  find("count").textContent = bounded ? `${count(received)} of ${count(expected)} frames` : `${count(received)} frames`;
}

function showFigures({ rate, latency }) {
  const figures = [];
  if (Number.isFinite(rate)) figures.push([number(rate), "frames/s", "Rate"]);
  if (Number.isFinite(latency?.median)) {
    const slowest = Number.isFinite(latency.p99) ? `99\u00a0% within ${seconds(latency.p99).join("\u00a0")}` : "";
    figures.push([...seconds(latency.median), "Frame to picture", slowest]);
  }
  find("figures").replaceChildren(...figures.map(([value, unit, ...labels]) => {
    const figure = element("div"), line = element("p", "value", value);
    line.append(element("span", "unit", ` ${unit}`));
    figure.append(line, ...labels.map((label) => element("p", "label", label)));
    return figure;
  }));
}

function showRows(id, rows, status) {
  find(id).replaceChildren(...rows.flatMap(([label, valueOf, classOf]) => {
    const value = valueOf(status);
    if (value === null) return [];
    const row = element("div", classOf?.(status));
    if (label.length + value.length > 16) row.classList.add("wide");
    row.append(element("dt", "", label), element("dd", "", value));
    return [row];
  }));
}

let shownFaults = "";

function showFaults(faults) {
  const latest = faults.slice(-SHOWN_FAULTS).reverse();
  const key = JSON.stringify(latest);
  if (key === shownFaults) return; // a selection of text stays
  shownFaults = key;
  find("faults-card").hidden = !latest.length;
  find("faults").replaceChildren(...latest.map((fault) => {
    const item = element("li"), head = element("p");
    if (Number.isFinite(fault.time)) head.append(element("time", "", time(fault.time)));
    head.append(element("span", "kind", fault.kind ?? ""));
    item.append(head, element("p", "", fault.sentence ?? ""));
    return item;
  }));
}

export function showWarnings(warnings) {
  const sentences = Object.values(warnings);
  find("warnings").hidden = !sentences.length;
  find("warnings").replaceChildren(...sentences.map((sentence) => {
    const line = element("p");
    line.append(element("span", "", sentence));
    return line;
  }));
}

// A line of [time, value], on a logarithmic axis where the values are positive and span more than a factor of ten.
export function drawLoss(pairs) {
  const canvas = find("loss");
  const points = (pairs ?? []).filter(([at, value]) => Number.isFinite(at) && Number.isFinite(value));
  if (points.length < 2 || !canvas.clientWidth) return;
  const context = prepared(canvas);
  let low = Infinity, high = -Infinity;
  for (const [, value] of points) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const scaled = low > 0 && high > 10 * low ? Math.log : (value) => value;
  const labels = [number(high), number(low)];
  context.font = FONT;
  const left = Math.ceil(Math.max(...labels.map((label) => context.measureText(label).width))) + 8;
  const top = 8, right = canvas.clientWidth - 5, bottom = canvas.clientHeight - 20;
  const begin = points[0][0], span = points.at(-1)[0] - begin || 1;
  const height = scaled(high) - scaled(low) || 1;
  const place = ([at, value]) => [
    left + ((at - begin) / span) * (right - left),
    bottom - ((scaled(value) - scaled(low)) / height) * (bottom - top),
  ];
  context.fillStyle = "#262e38";
  for (const y of [top, bottom]) context.fillRect(left, Math.round(y), right - left, 1);
  context.fillStyle = "#9ba6b3";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillText(labels[0], left - 6, top);
  context.fillText(labels[1], left - 6, bottom);
  context.textBaseline = "bottom";
  context.fillText(duration(points.at(-1)[0]), right, canvas.clientHeight);
  context.textAlign = "left";
  context.fillText(duration(begin), left, canvas.clientHeight);
  context.strokeStyle = context.fillStyle = "#6cb2eb";
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  for (const point of points) context.lineTo(...place(point));
  context.stroke();
  context.beginPath();
  context.arc(...place(points.at(-1)), 3, 0, 2 * Math.PI);
  context.fill();
  const last = number(points.at(-1)[1], 4);
  canvas.setAttribute("aria-label", `Deviance of the fit from ${number(points[0][1], 4)} to ${last}`);
}
