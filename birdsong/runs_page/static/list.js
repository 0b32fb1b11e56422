// The list of runs: search, choose some to compare.
import { badge, duration, h, replace, secondsOf, when, withInterval } from "./dom.js";

const chosen = new Set();
let wanted = "";

const fits = (run) => {
  const text = [run.id, run.state, run.pipeline, run.source, run.parent, run.note, run.error, run.version, ...(run.failed || [])].join(" ").toLowerCase();
  return wanted.toLowerCase().split(/\s+/).every((word) => text.includes(word));
};

export function listView(place, list) {
  if (!place.querySelector("#search")) {
    place.replaceChildren(
      h("div", { class: "bar" },
        h("h1", {}, "Runs"),
        h("input", { id: "search", type: "search", placeholder: "Search: id, state, source, step, version", "aria-label": "Search runs", value: wanted,
          oninput: (event) => { wanted = event.target.value; rows(place, place.birdsongList); } }),
        h("button", { id: "compare", type: "button", disabled: true, onclick: () => { location.hash = `#/compare/${[...chosen].join(",")}`; } }, "Compare")),
      h("div", { id: "rows" }));
  }
  place.birdsongList = list;
  rows(place, list);
}

function rows(place, list) {
  const known = new Set(list.runs.map((run) => run.id));
  for (const id of chosen) if (!known.has(id)) chosen.delete(id);
  const shown = list.runs.filter(fits);
  const button = place.querySelector("#compare");
  const label = () => {
    button.disabled = chosen.size < 2;
    button.textContent = chosen.size < 2 ? "Choose runs to compare" : `Compare ${chosen.size} runs`;
  };
  label();
  const row = (run) => h("li", { class: `run ${run.state}` },
    h("input", { type: "checkbox", "data-key": `choose ${run.id}`, "aria-label": `Compare ${run.id}`, checked: chosen.has(run.id), disabled: run.state === "UNREADABLE",
      onchange: (event) => { chosen[event.target.checked ? "add" : "delete"](run.id); label(); } }),
    h("a", { href: `#/run/${encodeURIComponent(run.id)}`, "data-key": `open ${run.id}`, class: "name" }, run.id),
    badge(run.state),
    run.state === "UNREADABLE" ? h("span", { class: "error wide" }, run.error) : [
      h("span", { class: "when" }, when(run.started)),
      h("span", { class: "long" }, duration(secondsOf(run))),
      h("span", { class: "source", title: run.source || run.pipeline }, run.source || run.pipeline),
      h("span", { class: "metric" }, run.metrics.accuracy === undefined ? h("span", { class: "soft" }, `${run.done_count} of ${run.step_count} steps`)
        : [h("span", { class: "soft" }, "accuracy "), withInterval(run.metrics, "accuracy")]),
      h("span", { class: "parent" }, run.parent ? h("a", { href: `#/run/${encodeURIComponent(run.parent)}`, "data-key": `parent ${run.id}`, title: "goes on from" }, `↳ ${run.parent}`) : run.running.length ? h("span", { class: "soft" }, run.running.join(", ")) : ""),
      run.note || run.version ? h("span", { class: "soft wide" }, [run.note, run.version ? h("a", { href: `#/run/${encodeURIComponent(run.id)}/lineage`, "data-key": `version ${run.id}`, title: "what it is made from" }, `version ${run.version}`) : null].filter(Boolean).flatMap((part, index) => (index ? [" · ", part] : [part]))) : null,
      run.error ? h("span", { class: "error wide" }, run.error.split("\n")[0]) : null,
    ]);
  const heads = h("div", { class: "heads", "aria-hidden": "true" }, ["", "run", "state", "started", "took", "source", "result", "goes on from"].map((head) => h("span", {}, head)));
  replace(place.querySelector("#rows"),
    shown.length ? [heads, h("ul", { class: "runs" }, shown.map(row)), h("p", { class: "soft" }, shown.length === list.runs.length ? `${shown.length} runs` : `${shown.length} of ${list.runs.length} runs`)]
      : h("p", { class: "soft" }, list.runs.length ? "No run fits the search." : `No runs in ${list.folder} yet. Start one: python pipeline.py run`));
}
