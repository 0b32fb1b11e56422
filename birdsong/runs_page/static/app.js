// The page of runs: where one is (the address says so), and looking again every second.
import { ask } from "./actions.js";
import { compareView } from "./compare.js";
import { dagView, ganttView } from "./dag.js";
import { hasToken, isExport, listRuns, oneRun, takeToken, versionOf } from "./data.js";
import { badge, duration, h, plain, replace, secondsOf, table, when, withInterval } from "./dom.js";
import { listView } from "./list.js";
import { lineageTable, panelView, stopFollowing } from "./panel.js";

const EVERY = 1000;
const main = document.getElementById("main");
let place = [], timer = null, drawn = "", panelDrawn = "", possible = [], which = innerWidth < 700 ? "taken" : "all", size = "width", awaited = null;

const route = () => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
const to = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

function say(text) { const link = document.getElementById("link"); if (link.textContent !== text) link.textContent = text; }

async function look() {
  clearTimeout(timer);
  const [view, id] = place;
  let again = EVERY;
  try {
    if (!view || view === "runs") {
      const list = await listRuns();
      possible = list.actions;
      if (place[0] === view) show(JSON.stringify(list), () => listView(main, list), list.runs.some((run) => run.state === "RUNNING"));
      follow(list);
    } else if (view === "run") {
      if (!isExport && !possible.length) possible = (await listRuns()).actions;
      const run = await oneRun(id);
      if (place[0] === view && place[1] === id) show(JSON.stringify([run, place]), () => runView(run), run.state === "RUNNING");
    } else if (view === "compare") {
      const ids = (id || "").split(",");
      if (drawn !== location.hash) { drawn = location.hash; await compareView(main, ids); }
      again = null;
    } else main.replaceChildren(h("p", {}, "There is no such page. ", h("a", { href: "#/" }, "To the list")));
    say("");
  } catch (error) {
    const lost = error instanceof TypeError && !isExport;
    if (lost) say("The server does not answer; trying again.");
    else { drawn = ""; main.replaceChildren(h("p", { class: "error" }, error.message), h("a", { href: "#/" }, "To the list")); }
  }
  if (again && !isExport) timer = setTimeout(look, document.hidden ? 5 * again : again);
}

// Times of what runs go on although nothing was written.
function show(value, draw, moving) {
  if (value === drawn && !moving) return;
  drawn = value;
  draw();
}

function follow(list) {
  if (!awaited) return;
  const found = list.runs.find((run) => !awaited.known.has(run.id) || (run.id === awaited.run && run.state === "RUNNING"));
  if (found) { awaited = null; location.hash = to("run", found.id); }
}

const can = (action) => !isExport && hasToken() && possible.includes(action);

function askFor(run, action, step) {
  listRuns().then((list) => {
    const known = new Set(list.runs.map((one) => one.id));
    ask(run, action, step, () => {
      if (action === "cancel") return look();
      awaited = { known, run: run.id };
      location.hash = "#/";
    });
  });
}

function runView(run) {
  const tab = place[2] || "graph", selected = place[3] || null;
  const open = (key) => { location.hash = to("run", run.id, tab, key); };
  const close = () => {
    location.hash = to("run", run.id, tab);
    requestAnimationFrame(() => requestAnimationFrame(() => main.querySelector(`.view [data-key="${CSS.escape(selected || "")}"]`)?.focus()));
  };
  if (main.dataset.run !== run.id || !main.querySelector(".run-page")) {
    main.dataset.run = run.id;
    panelDrawn = "";
    main.replaceChildren(h("div", { class: "run-page" }, h("div", { class: "run-main" }, h("div", { class: "head" }), h("div", { class: "view" })), h("aside", { class: "panel", hidden: true, "aria-labelledby": "panel-title" })));
  }
  replace(main.querySelector(".head"), ...head(run, tab));
  const view = main.querySelector(".view"), panel = main.querySelector(".panel");
  // First, so that the graph knows how much room the panel leaves.
  panel.hidden = !selected;
  main.querySelector(".run-page").classList.toggle("with-panel", Boolean(selected));
  if (tab === "timeline") replace(view, ganttView(run, { selected, open }));
  else if (tab === "settings") { if (view.dataset.shown !== `settings ${run.id}`) replace(view, ...settings(run)); }
  else if (tab === "lineage") { if (view.dataset.shown !== `lineage ${run.id} ${run.state}`) lineage(view, run, open); }
  else {
    const choice = (name, label, value, options, take) => h("label", { class: "soft" }, `${label} `, h("select", { "data-key": name, onchange: (event) => { take(event.target.value); drawn = ""; runView(run); } },
      options.map(([one, shown]) => h("option", { value: one, selected: value === one }, shown))));
    replace(view, h("div", { class: "bar" },
      choice("which", "Artifacts", which, [["all", "all"], ["taken", "passed on"], ["none", "none"]], (value) => { which = value; }),
      choice("size", "Size", size, [["width", "fit the width"], ["whole", "fit the window"], ["full", "full"]], (value) => { size = value; })),
    dagView(run, { which, selected, open, size, room: view.clientWidth, height: innerHeight - view.getBoundingClientRect().top - scrollY - 90 }));
  }
  view.dataset.shown = `${tab} ${run.id}${tab === "lineage" ? ` ${run.state}` : ""}`;
  const step = selected && run.steps.find((one) => one.name === selected.split(":")[1]);
  const content = selected ? JSON.stringify([selected, step, run.state === "RUNNING"]) : "";
  if (content === panelDrawn) return;
  const opened = selected && !panelDrawn.startsWith(JSON.stringify([selected]).slice(0, -1));
  panelDrawn = content;
  if (!selected) { stopFollowing(); panel.replaceChildren(); return; }
  replace(panel, panelView(run, selected, { close, open, can, ask: (action, name) => askFor(run, action, name) }));
  if (opened) panel.querySelector("h2")?.focus({ preventScroll: true });
}

function head(run, tab) {
  const tabs = [["graph", "Graph"], ["timeline", "Timeline"], ["settings", "Settings"], ["lineage", "Lineage"]];
  const stopped = ["FAILED", "CANCELLED", "DIED"].includes(run.state);
  const failed = run.steps.filter((step) => step.state === "FAILED" || step.state === "DIED");
  return [
    h("div", { class: "bar" }, h("h1", {}, run.id), badge(run.state), h("span", { class: "spring" }),
      run.state === "RUNNING" && can("cancel") ? h("button", { type: "button", "data-key": "cancel", onclick: () => askFor(run, "cancel") }, "Cancel") : null,
      stopped && can("resume") ? h("button", { type: "button", "data-key": "resume", onclick: () => askFor(run, "resume") }, "Resume") : null),
    h("p", { class: "soft facts" }, [when(run.started), duration(secondsOf(run)), run.source || run.pipeline, `${run.done_count} of ${run.step_count} steps`,
      run.metrics.accuracy === undefined ? null : `accuracy ${withInterval(run.metrics, "accuracy")}`].filter(Boolean).map((text) => h("span", {}, text)),
    run.parent ? h("span", {}, "goes on from ", h("a", { href: to("run", run.parent), "data-key": "parent" }, run.parent), isExport ? null : [" · ", h("a", { href: `#/compare/${[run.parent, run.id].map(encodeURIComponent).join(",")}`, "data-key": "beside" }, "compare")]) : null,
    run.note ? h("span", {}, run.note) : null),
    run.error ? h("p", { class: "error", role: "alert" }, run.error.split("\n")[0], failed.length ? [" ", h("a", { href: to("run", run.id, tab, `step:${failed[0].name}`), "data-key": "failed" }, `Open ${failed[0].name}`)] : "") : "",
    h("nav", { class: "tabs", "aria-label": "Views of the run" }, tabs.map(([name, label]) => h("a", { href: to("run", run.id, name, ...(place[3] && name !== "settings" ? [place[3]] : [])), "data-key": `view ${name}`, "aria-current": tab === name ? "page" : null }, label))),
  ];
}

function settings(run) {
  const rows = (values) => Object.entries(values).map(([name, value]) => [name, h("code", {}, plain(value))]);
  return [h("h2", {}, "Parameters"), table(["name", "value"], rows(run.arguments), { label: "Parameters" }),
    h("h2", {}, "Command"), h("pre", {}, run.command.join(" ")),
    h("h2", {}, "Code and versions"), table(["name", "version"], [["code", h("code", {}, run.fingerprint || "–")], ...rows(run.versions)], { label: "Versions" }),
    h("h2", {}, "Machine"), table(["", ""], [["host", run.host], ["process", run.pid]], { label: "Machine" })];
}

async function lineage(view, run, open) {
  const found = await versionOf(run.id).catch(() => null);
  if (place[2] !== "lineage" || place[1] !== run.id) return;
  if (!found) return replace(view, h("p", { class: "soft" }, "This run has registered no version. Open an artifact in the graph to see what it is made from."));
  const told = found.version;
  const counts = found.behind.find((one) => one.name === "recordings");
  replace(view,
    h("h2", {}, `${told.name} version ${told.version}: ${told.status}`), h("p", {}, told.reason || ""),
    h("p", { class: "soft" }, `Registry ${told.registry}`, found.bundle.agrees ? "; the hashes in its bundle are those of this run." : "; its bundle names other hashes than this run."),
    counts ? h("p", {}, `Behind it are ${counts.metrics.recordings ?? "?"} recordings of ${counts.metrics.species ?? "?"} species from ${run.source}.`) : "",
    lineageTable(run, found.behind, open));
}

function moved() {
  const before = place;
  place = route();
  if (before[0] !== place[0] || before[1] !== place[1]) { drawn = ""; panelDrawn = ""; stopFollowing(); delete main.dataset.run; main.replaceChildren(h("p", { class: "soft" }, "Loading …")); scrollTo(0, 0); }
  document.title = `${place[1] || "Runs"} · birdsong`;
  look();
}

takeToken();
addEventListener("hashchange", moved);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.getElementById("dialog").open && place[3]) { event.preventDefault(); main.querySelector(".panel .close")?.click(); }
});
if (isExport && !location.hash) history.replaceState(null, "", to("run", window.BIRDSONG_EXPORT.run.id));
moved();
