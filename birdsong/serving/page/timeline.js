// The species that are heard, each a row below the picture: bars are scores of 5-second frames, the
// line is the threshold, coloured windows are those in which it is heard, a button is the frame that
// decided. A threshold holds for a window of up to 60 s, not for a frame: frames show where.
import { $, clock, h, named, nameOf, percent } from "./dom.js";
import { sized } from "./spectrogram.js";

export const FRAME_SECONDS = 5;

// Species above their threshold in any window, the most probable first: {..., best, found: [...]}.
export function heard(answer) {
  const byCode = new Map();
  for (const window of answer.windows) {
    const end = window.start_seconds + window.seconds;
    for (const one of window.detections) {
      if (!byCode.has(one.code)) byCode.set(one.code, { ...one, found: [] });
      byCode.get(one.code).found.push({ window, probability: one.probability, start: one.frame_start_seconds, end: Math.min(one.frame_start_seconds + FRAME_SECONDS, end) });
    }
  }
  for (const species of byCode.values()) species.windows = new Set(species.found.map((one) => one.window));
  for (const species of byCode.values()) species.best = species.found.reduce((best, one) => (one.probability > best.probability ? one : best));
  return [...byCode.values()].sort((a, b) => Math.round(100 * (b.best.probability - a.best.probability)) || a.best.start - b.best.start);
}

export class Timeline {
  // hear(start, end) plays a moment.
  constructor(viewport, hear) {
    Object.assign(this, { viewport, hear, rows: [], answer: null });
    viewport.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe($("species"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    $("species").addEventListener("keydown", (event) => this.step(event));
  }

  load(answer, species) {
    this.answer = answer;
    this.rows = species.map((one) => {
      const canvas = h("canvas"), marks = one.found.map((found) => {
        const place = h("button", {
          type: "button", class: "mark", tabindex: found === one.best ? "0" : "-1",
          "aria-label": `Hear ${nameOf(one)}, ${percent(found.probability)}, at ${clock(found.start)} to ${clock(found.end)}`,
          title: `${nameOf(one)}: probability ${percent(found.probability)}, ${clock(found.start)} to ${clock(found.end)}`,
          onclick: () => this.hear(found.start, found.end),
          onfocus: () => this.viewport.reveal(found.start, found.end),
        }, h("span", {}, percent(found.probability)));
        return { place, found };
      });
      const times = one.found.length > 1 ? `in ${one.found.length} windows` : "";
      return { species: one, canvas, marks, place: h("div", { class: "row", role: "listitem" },
        h("div", { class: "name" }, named(one), h("button", { type: "button", class: "best", "aria-label": `Hear ${nameOf(one)} where it is most probable, ${percent(one.best.probability)}, at ${clock(one.best.start)}`, onclick: () => this.hear(one.best.start, one.best.end) },
          `▶ ${percent(one.best.probability)}`), times ? h("small", { class: "soft" }, times) : null),
        h("div", { class: "track" }, canvas, marks.map((mark) => mark.place))) };
    });
    $("species").replaceChildren(...this.rows.map((row) => row.place));
    this.draw();
  }

  // Arrows go from one moment to the next of a species, and to the next species.
  step(event) {
    const row = this.rows.find((one) => one.place.contains(event.target)), at = row?.marks.findIndex((mark) => mark.place === event.target);
    if (!row || at < 0) return;
    const beside = { ArrowLeft: row.marks[at - 1], ArrowRight: row.marks[at + 1], Home: row.marks[0], End: row.marks.at(-1) }[event.key];
    const other = { ArrowUp: -1, ArrowDown: 1 }[event.key], next = other ? this.rows[this.rows.indexOf(row) + other] : null;
    const target = beside || next?.marks.find((mark) => mark.place.tabIndex === 0);
    if (!target && !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    if (!target) return;
    if (beside) for (const mark of row.marks) mark.place.tabIndex = mark === target ? 0 : -1;
    target.place.focus();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; for (const row of this.rows) this.drawRow(row); });
  }

  drawRow({ species, canvas, marks }) {
    const [context, width, high] = sized(canvas), { viewport } = this, style = getComputedStyle(canvas);
    if (!width) return;
    const colour = (name) => style.getPropertyValue(name).trim();
    const x = (seconds) => viewport.across(seconds) * width, thin = Math.max(1, Math.round(devicePixelRatio));
    context.clearRect(0, 0, width, high);
    for (const window of this.answer.windows) {
      const end = window.start_seconds + window.seconds;
      if (end < viewport.start || window.start_seconds > viewport.end) continue;
      const here = species.windows.has(window);
      if (here) { context.fillStyle = colour("--tint"); context.fillRect(x(window.start_seconds), 0, x(end) - x(window.start_seconds), high); }
      context.fillStyle = colour(here ? "--bar" : "--quiet");
      (window.frame_scores?.[species.code] || []).forEach((score, frame) => {
        const from = window.start_seconds + frame * FRAME_SECONDS, to = Math.min(from + FRAME_SECONDS, end), gap = x(to) - x(from) > 6 ? thin : 0;
        context.fillRect(x(from), high * (1 - score), x(to) - x(from) - gap, high * score);
      });
      context.fillStyle = colour("--edge");
      if (window.start_seconds > 0.5) context.fillRect(x(window.start_seconds), 0, thin, high);
    }
    context.strokeStyle = colour("--soft");
    context.lineWidth = thin;
    context.setLineDash([4 * thin, 3 * thin]);
    context.beginPath();
    context.moveTo(0, Math.round(high * (1 - species.threshold)) + 0.5);
    context.lineTo(width, Math.round(high * (1 - species.threshold)) + 0.5);
    context.stroke();
    context.setLineDash([]);
    const room = canvas.clientWidth;
    for (const { place, found } of marks) {
      const left = viewport.across(found.start) * room, wide = viewport.across(found.end) * room - left, drawn = Math.max(8, wide);
      Object.assign(place.style, { left: `${left - (drawn - wide) / 2}px`, width: `${drawn}px` });
      place.classList.toggle("narrow", drawn < 46);
    }
  }
}
