// The highest score of every species in a recording, and where it is.
import { $, clock, h, named, nameOf } from "./dom.js";
import { FRAME_SECONDS } from "./timeline.js";

export function highest(answer) {
  const best = new Map(), names = new Map((answer.species || []).map((one) => [one.code, one]));
  for (const window of answer.windows) {
    for (const [code, scores] of Object.entries(window.frame_scores || {})) {
      scores.forEach((score, frame) => {
        if (best.has(code) && best.get(code).score >= score) return;
        const start = window.start_seconds + frame * FRAME_SECONDS;
        best.set(code, { score, start, end: Math.min(start + FRAME_SECONDS, window.start_seconds + window.seconds) });
      });
    }
    for (const one of window.detections) if (!names.has(one.code)) names.set(one.code, one);
  }
  return [...best].map(([code, found]) => ({ ...found, code, threshold: null, ...names.get(code), score: found.score })).sort((a, b) => b.score - a.score);
}

export function scoresTable(found, hear) {
  const some = found.some((one) => one.threshold !== null);
  return h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Species"), h("th", { scope: "col", class: "number" }, "Score"), some ? h("th", { scope: "col", class: "number" }, "Threshold") : null, h("th", { scope: "col" }, "Where"))),
    h("tbody", {}, found.map((one) => h("tr", { "data-words": `${one.common_name || ""} ${one.scientific_name || ""} ${one.code}`.toLowerCase() },
      h("td", {}, named(one)), h("td", { class: "number" }, one.score.toFixed(3)),
      some ? h("td", { class: "number" }, one.threshold === null ? "never" : one.threshold.toFixed(3)) : null,
      h("td", {}, h("button", { type: "button", "aria-label": `Hear ${nameOf(one)} at ${clock(one.start)}`, onclick: () => hear(one.start, one.end) }, `▶ ${clock(one.start)}`))))));
}

export function filterScores() {
  const words = $("find").value.trim().toLowerCase();
  for (const row of $("scores").querySelectorAll("tbody tr")) row.hidden = !row.dataset.words.includes(words);
}
