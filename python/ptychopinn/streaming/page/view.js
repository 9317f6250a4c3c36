// SPDX-License-Identifier: BSD-3-Clause
// The part of the object that all pictures show: zoom and pan by wheel, drag, pinch and keys. It is kept in scan
// coordinates (pixels of the object), so that a picture that grows does not move.

const LARGEST_SCALE = 64; // screen pixels of a pixel of the picture

export class View extends EventTarget {
  constructor(canvases) {
    super();
    this.canvases = canvases;
    this.box = null; // {top, left, height, width, step} of the picture
    this.fitted = true;
    this.scale = 1; // screen pixels of an object pixel
    this.y = 0; // of the middle of a canvas, scan coordinates
    this.x = 0;
    this.pointer = null; // {y, x} in scan coordinates
    for (const canvas of canvases) this.#listen(canvas);
  }

  setPicture(picture) {
    const { top, left, step } = picture;
    this.box = { top, left, step, height: picture.height * step, width: picture.width * step };
    if (this.fitted) this.fit();
    else this.#change();
  }

  fit() {
    this.fitted = true;
    const box = this.box, canvas = this.canvases[0];
    if (box && canvas.clientWidth && canvas.clientHeight) {
      this.scale = 0.97 * Math.min(canvas.clientWidth / box.width, canvas.clientHeight / box.height);
      this.y = box.top + box.height / 2;
      this.x = box.left + box.width / 2;
    }
    this.#change();
  }

  // Screen pixels of a canvas from scan coordinates, and back.
  toScreen(canvas, y, x) {
    return [canvas.clientHeight / 2 + (y - this.y) * this.scale, canvas.clientWidth / 2 + (x - this.x) * this.scale];
  }

  fromScreen(canvas, top, left) {
    return [this.y + (top - canvas.clientHeight / 2) / this.scale, this.x + (left - canvas.clientWidth / 2) / this.scale];
  }

  // Zoom by a factor; the point of the object at these screen pixels stays where it is.
  zoom(factor, canvas = this.canvases[0], top = canvas.clientHeight / 2, left = canvas.clientWidth / 2) {
    if (!this.box) return;
    const smallest = 0.25 * Math.min(canvas.clientWidth / this.box.width, canvas.clientHeight / this.box.height);
    const largest = Math.max(smallest, LARGEST_SCALE / this.box.step);
    const [y, x] = this.fromScreen(canvas, top, left);
    this.scale = Math.min(largest, Math.max(smallest, this.scale * factor));
    this.y = y - (top - canvas.clientHeight / 2) / this.scale;
    this.x = x - (left - canvas.clientWidth / 2) / this.scale;
    this.#moved();
  }

  pan(down, right) {
    this.y -= down / this.scale;
    this.x -= right / this.scale;
    this.#moved();
  }

  #moved() {
    const box = this.box;
    if (!box) return;
    this.fitted = false;
    // The middle stays on the picture, so that it cannot be lost.
    this.y = Math.min(box.top + box.height, Math.max(box.top, this.y));
    this.x = Math.min(box.left + box.width, Math.max(box.left, this.x));
    this.#change();
  }

  #change() {
    for (const canvas of this.canvases) canvas.classList.toggle("fitted", this.fitted);
    this.dispatchEvent(new Event("change"));
  }

  #point(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientY - box.top, event.clientX - box.left];
  }

  #setPointer(canvas, top, left) {
    const [y, x] = this.fromScreen(canvas, top, left);
    this.pointer = { y, x };
    this.dispatchEvent(new Event("change"));
  }

  #listen(canvas) {
    const pointers = new Map(); // id -> [top, left]
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 100 : 1;
      const delta = Math.max(-120, Math.min(120, event.deltaY * lines));
      this.zoom(Math.exp(-delta * (event.ctrlKey ? 0.01 : 0.002)), canvas, ...this.#point(canvas, event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, this.#point(canvas, event));
      this.#setPointer(canvas, ...this.#point(canvas, event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId), now = this.#point(canvas, event);
      if (before) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
        pointers.set(event.pointerId, now);
        if (other) this.#pinch(canvas, before, now, other);
        else if (event.pointerType === "mouse" || !this.fitted) this.pan(now[0] - before[0], now[1] - before[1]);
        canvas.classList.add("dragged");
      }
      this.#setPointer(canvas, ...now);
    });
    const release = (event) => {
      pointers.delete(event.pointerId);
      canvas.classList.remove("dragged");
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "touch") return; // what was touched stays
      this.pointer = null;
      this.dispatchEvent(new Event("change"));
    });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => this.#key(canvas, event));
  }

  #pinch(canvas, before, now, other) {
    const distance = (point) => Math.max(8, Math.hypot(point[0] - other[0], point[1] - other[1]));
    const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
    const from = middle(before), to = middle(now);
    this.pan(to[0] - from[0], to[1] - from[1]);
    this.zoom(distance(now) / distance(before), canvas, ...to);
  }

  #key(canvas, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 40;
    const actions = {
      ArrowUp: () => this.pan(step, 0),
      ArrowDown: () => this.pan(-step, 0),
      ArrowLeft: () => this.pan(0, step),
      ArrowRight: () => this.pan(0, -step),
      "+": () => this.zoom(1.25, canvas),
      "=": () => this.zoom(1.25, canvas),
      "-": () => this.zoom(0.8, canvas),
      0: () => this.fit(),
      Home: () => this.fit(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
    this.#setPointer(canvas, canvas.clientHeight / 2, canvas.clientWidth / 2); // the readings of the middle
  }
}
