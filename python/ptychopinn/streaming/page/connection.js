// SPDX-License-Identifier: BSD-3-Clause
// The connection to the server, which is opened again whenever it is lost, at growing intervals. What the page has
// already is stated to the server, which then sends the rest.

const FIRST_DELAY = 500, LONGEST_DELAY = 8000; // ms
const SILENCE = 15000; // ms without any message, after which the connection counts as lost; the server sends every 5 s

export class Connection {
  // known(): versions that the page has; message(data): an object or an ArrayBuffer; state(name, sentence).
  constructor({ known, message, state }) {
    Object.assign(this, { known, message, state });
    this.delay = FIRST_DELAY;
    this.attempt = 0;
    addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#retryNow());
    this.#open();
  }

  #open() {
    clearTimeout(this.timer);
    this.timer = null;
    this.attempt++;
    const attempt = this.attempt;
    const address = new URL("socket", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = "";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.#listen(attempt);
    socket.onopen = () => socket.send(JSON.stringify({ want: this.known() }));
    socket.onmessage = (event) => {
      if (attempt !== this.attempt) return;
      this.delay = FIRST_DELAY;
      this.#listen(attempt);
      this.state("open", "Connected");
      this.message(typeof event.data === "string" ? JSON.parse(event.data) : event.data);
    };
    socket.onclose = (event) => attempt === this.attempt && this.#lost(event.reason);
  }

  // Lost connections are not always reported, for instance when a network is switched off.
  #listen(attempt) {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => {
      if (attempt !== this.attempt) return;
      this.socket.close();
      this.#lost("");
    }, SILENCE);
  }

  #lost(reason) {
    this.attempt++; // events of that connection are ignored from now on
    clearTimeout(this.watch);
    const seconds = Math.max(1, Math.round(this.delay / 1000));
    this.state("closed", reason || `Not connected; next attempt in ${seconds} s`);
    this.timer = setTimeout(() => this.#open(), this.delay);
    this.delay = Math.min(LONGEST_DELAY, 2 * this.delay);
  }

  #retryNow() {
    if (this.timer !== null && this.timer !== undefined) this.#open();
  }
}
