// SPDX-License-Identifier: BSD-3-Clause
// The page of a live run: messages of the server change what is shown, which is drawn with the screen's next frame.

import { Connection } from "./connection.js";
import { MISSING, fixed, lengthUnit, number } from "./format.js";
import { ScanPath } from "./overlays.js";
import { Panel } from "./panel.js";
import { decode } from "./picture.js";
import { drawLoss, showStatus, showTitle, showWarnings } from "./readings.js";
import { View } from "./view.js";

const find = (id) => document.getElementById(id);
const shown = { run: "", title: "Live reconstruction", status: {}, warnings: {}, picture: null };
const versions = { status: 0, warnings: 0, picture: 0 };
const path = new ScanPath();

let drawn = true;

function redraw() {
  if (!drawn) return;
  drawn = false;
  requestAnimationFrame(() => {
    drawn = true;
    const shownPath = find("show-path").checked ? path : null;
    for (const panel of panels) panel.draw(view, shownPath);
    showPointer();
    find("zoom").textContent = shown.picture ? zoomText() : MISSING;
    for (const id of ["zoom-in", "zoom-out"]) find(id).disabled = !shown.picture;
    find("fit").disabled = !shown.picture || view.fitted;
    drawLoss(shown.status.loss);
  });
}

const panels = [
  new Panel(find("panel"), {
    name: "amplitude", label: "Amplitude", unit: "", map: "grey", maps: ["grey", "violet"], changed: redraw,
  }),
  new Panel(find("panel"), {
    name: "phase", label: "Phase", unit: "rad, about the mean", map: "violet", maps: ["grey", "violet", "cyclic"],
    changed: redraw,
  }),
];
find("panels").append(...panels.map((panel) => panel.root));
const view = new View(panels.map((panel) => panel.canvas));

// Screen pixels of a pixel of the object, in percent.
function zoomText() {
  const percent = 100 * view.scale;
  return `${percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

function sizeText({ height, width, step, pixelSize }) {
  const [unit, name] = pixelSize ? lengthUnit(pixelSize) : [1, ""];
  const pixels = `${height * step} \u00d7 ${width * step} pixels`;
  return pixelSize ? `${pixels} of ${number(pixelSize / unit)} ${name}` : pixels;
}

function showPointer() {
  const output = find("pointer"), { pointer } = view, { picture } = shown;
  if (!picture || !pointer) {
    output.textContent = picture ? sizeText(picture) : "";
    return;
  }
  const { pixelSize } = picture, size = Math.max(picture.height, picture.width) * picture.step;
  const [unit, name] = pixelSize ? lengthUnit(pixelSize * size) : [1, "px"];
  const place = (value) => fixed((value * (pixelSize ?? 1)) / unit, pixelSize ? 2 : 0);
  const [amplitude, phase] = panels.map((panel) => panel.valueAt(pointer.y, pointer.x));
  const values = Number.isFinite(amplitude)
    ? `amplitude ${number(amplitude)}  phase ${fixed(phase, 2)} rad`
    : `amplitude ${MISSING}  phase ${MISSING}`;
  output.textContent = `y ${place(pointer.y)} ${name}  x ${place(pointer.x)} ${name}  ${values}`;
}

function setPicture(picture) {
  shown.picture = picture;
  for (const panel of panels) panel.setPicture(picture);
  if (picture) view.setPicture(picture);
}

// Another run: nothing of the one before may be shown under its title.
function begin({ run, title }) {
  if (shown.run !== run) {
    Object.assign(shown, { run, status: {}, warnings: {} });
    Object.assign(versions, { status: 0, warnings: 0, picture: 0 });
    path.clear();
    view.fitted = true;
    setPicture(null);
    showStatus(shown.status);
    showWarnings(shown.warnings);
  }
  shown.title = title;
  showTitle(title, shown.status);
}

const receive = {
  run: begin,
  status({ version, status }) {
    versions.status = version;
    shown.status = status;
    showStatus(status);
    showTitle(shown.title, status);
  },
  warnings({ version, warnings }) {
    versions.warnings = version;
    shown.warnings = warnings;
    showWarnings(warnings);
  },
  path: (message) => path.add(message),
  alive() {},
};

function connectionState(state, sentence) {
  const output = find("connection");
  const over = state === "closed" && ["finished", "interrupted"].includes(shown.status.state);
  const text = over ? "Run ended; its last state is shown" : sentence;
  output.dataset.state = over ? "over" : state;
  if (output.textContent !== text) output.textContent = text;
}

find("zoom-in").addEventListener("click", () => view.zoom(1.5));
find("zoom-out").addEventListener("click", () => view.zoom(1 / 1.5));
find("fit").addEventListener("click", () => view.fit());
find("show-path").addEventListener("change", redraw);
view.addEventListener("change", redraw);
new ResizeObserver(() => {
  for (const panel of panels) panel.resized();
  if (view.fitted) view.fit();
  redraw();
}).observe(find("panels"));

new Connection({
  known: () => ({
    run: shown.run, ...versions, path: path.version, generation: path.generation, positions: path.length,
  }),
  message(data) {
    if (data instanceof ArrayBuffer) {
      const picture = decode(data);
      versions.picture = picture.version;
      setPicture(picture);
    } else {
      receive[data.type]?.(data);
    }
    redraw();
  },
  state: connectionState,
});
