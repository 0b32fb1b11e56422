// The picture of the sound, its axes, and the whole of a long recording above it.
import { $, clock, h } from "./dom.js";
import { height, RATE } from "./spectrum.js";

const ROWS = 192, MOST_COLUMNS = 1600, OVERVIEW_COLUMNS = 1000;
const KILOHERTZ = [0.5, 1, 2, 3, 4, 6, 8, 10];
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const PAPER = { // from quiet to loud
  light: [[246, 249, 247], [196, 221, 212], [98, 164, 148], [20, 99, 86], [3, 34, 29]],
  dark: [[13, 19, 17], [17, 58, 51], [31, 130, 110], [138, 214, 172], [253, 247, 214]],
};
const dark = matchMedia("(prefers-color-scheme: dark)");

// A colour for each level from 0 to 255, as the pixels of a canvas have them.
export function colours() {
  const steps = PAPER[dark.matches ? "dark" : "light"];
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (steps.length - 1), low = Math.min(steps.length - 2, Math.floor(place)), share = place - low;
    const [red, green, blue] = [0, 1, 2].map((i) => Math.round(steps[low][i] * (1 - share) + steps[low + 1][i] * share));
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}

// Levels of a part of the recording, and the same as pixels.
class Layer {
  constructor(start, end, columns) {
    Object.assign(this, { start, end, columns, done: 0, levels: new Uint8Array(columns * ROWS), canvas: h("canvas", { width: columns, height: ROWS }) });
  }

  take(first, count, levels, palette) {
    this.levels.set(levels, first * ROWS);
    this.done = first + count;
    this.paint(palette, first, count);
  }

  paint(palette, first = 0, count = this.done) {
    if (!count) return;
    const image = new ImageData(count, ROWS), pixels = new Uint32Array(image.data.buffer);
    for (let column = 0; column < count; column += 1) for (let row = 0; row < ROWS; row += 1) pixels[(ROWS - 1 - row) * count + column] = palette[this.levels[(first + column) * ROWS + row]];
    this.canvas.getContext("2d").putImageData(image, first, 0);
  }

  // Into a picture from `start` to `end`, as far as it is computed.
  draw(context, start, end, width, high) {
    const scale = width / (end - start), shown = (this.done / this.columns) * (this.end - this.start);
    context.imageSmoothingQuality = "high";
    if (this.done) context.drawImage(this.canvas, 0, 0, this.done, ROWS, (this.start - start) * scale, 0, shown * scale, high);
  }
}

export class Spectrogram {
  constructor(viewport) {
    this.viewport = viewport;
    this.canvas = $("plot").querySelector("canvas");
    this.small = $("overview").querySelector("canvas");
    this.palette = colours();
    this.number = 0;
    this.worker = null;
    this.marks = [];
    viewport.addEventListener("change", () => this.moved());
    dark.addEventListener("change", () => { this.palette = colours(); this.whole?.paint(this.palette); this.part?.paint(this.palette); this.draw(); });
    new ResizeObserver(() => this.moved()).observe($("plot"));
    $("kilohertz").replaceChildren(...KILOHERTZ.map((value) => h("span", { style: { bottom: `${100 * height(1000 * value)}%` } }, String(value))), h("span", { class: "unit" }, "kHz"));
  }

  // Begin anew: samples (given away to the worker), or the reason why there are none.
  load(samples, why) {
    this.worker?.terminate();
    this.worker = this.whole = this.part = null;
    this.marks = [];
    $("blank").textContent = why;
    $("blank").hidden = !why;
    if (samples) {
      this.worker = new Worker("spectrogram-worker.js", { type: "module" });
      this.worker.onmessage = ({ data }) => this.came(data);
      this.whole = new Layer(0, samples.length / RATE, OVERVIEW_COLUMNS);
      this.worker.postMessage({ kind: "load", samples, rows: ROWS }, [samples.buffer]);
      this.ask("whole", this.whole);
    }
    this.moved();
  }

  ask(layer, { start, end, columns }) { this.worker?.postMessage({ kind: "draw", layer, number: this.number, start, end, columns }); }

  came({ kind, number, layer, first, count, levels, file }) {
    if (kind === "wav") return this.encoded(file);
    const into = layer === "whole" ? this.whole : number === this.number ? this.wanted : null;
    if (!into) return;
    into.take(first, count, levels, this.palette);
    if (into === this.wanted && into.done === into.columns) { this.part = into; $("plot").dataset.drawn = "yes"; }
    this.draw();
  }

  // The samples as a WAV file, for a server that cannot read the file that they are from.
  wav() { return new Promise((resolve) => { this.encoded = resolve; this.worker.postMessage({ kind: "wav" }); }); }

  moved() {
    const { start, end } = this.viewport;
    this.number += 1;
    delete $("plot").dataset.drawn;
    const columns = Math.min(MOST_COLUMNS, Math.round($("plot").clientWidth * devicePixelRatio));
    if (this.worker && columns) { this.wanted = new Layer(start, end, columns); this.ask("part", this.wanted); }
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.drawNow(); });
  }

  drawNow() {
    const { start, end, length, whole } = this.viewport;
    const [context, width, high] = sized(this.canvas);
    const paint = (target, from, to, w, t) => { target.fillStyle = `#${[0, 8, 16].map((shift) => ((this.palette[0] >> shift) & 255).toString(16).padStart(2, "0")).join("")}`; target.fillRect(0, 0, w, t); this.whole?.draw(target, from, to, w, t); };
    paint(context, start, end, width, high);
    this.part?.draw(context, start, end, width, high);
    if (this.wanted !== this.part) this.wanted?.draw(context, start, end, width, high);
    $("overview").hidden = whole || !length;
    if (!whole) {
      const [target, w, t] = sized(this.small);
      paint(target, 0, length, w, t);
      target.fillStyle = getComputedStyle($("overview")).color;
      for (const [from, to] of this.marks) target.fillRect((from / length) * w, t - 4 * devicePixelRatio, Math.max(2, ((to - from) / length) * w), 4 * devicePixelRatio);
      Object.assign($("overview").querySelector("span").style, { left: `${(100 * start) / length}%`, width: `${(100 * (end - start)) / length}%` });
    }
    axis(this.viewport, $("plot").clientWidth);
  }
}

// A canvas with as many pixels as the screen shows of it.
export function sized(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio), high = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width !== width || canvas.height !== high) Object.assign(canvas, { width, height: high });
  return [canvas.getContext("2d"), width, high];
}

function axis(viewport, width) {
  const { start, end, span, length } = viewport;
  if (!width || !length) return;
  const step = STEPS.find((one) => (one / span) * width >= 64) || 7200, inSeconds = length < 120, digits = step < 1 ? 1 : 0;
  const ticks = [];
  for (let k = Math.ceil(start / step - 1e-9); k * step <= end + 1e-9; k += 1) ticks.push(k * step);
  $("axis").replaceChildren(...ticks.map((tick) => {
    const share = viewport.across(tick);
    const edge = share * width < 14 ? "first" : (1 - share) * width < 14 ? "last" : null;
    return h("span", { class: edge, style: { left: `${100 * share}%` } }, inSeconds ? tick.toFixed(digits) + (tick === ticks[0] ? " s" : "") : clock(tick, digits));
  }));
}
