// The side panel: a step with its inputs, outputs, metrics and log, or an artifact with its preview.
import { behind, isExport, logOf } from "./data.js";
import { badge, bytes, duration, h, number, plain, secondsOf, table, when } from "./dom.js";
import { chart, preview, rocOf } from "./preview.js";

let tab = "details", follower = null;

export function stopFollowing() { clearTimeout(follower); follower = null; }

export function panelView(run, key, { close, open, ask, can }) {
  stopFollowing();
  const parts = key.split(":");
  const step = run.steps.find((one) => one.name === parts[1]);
  if (!step) return h("div", {}, h("p", {}, "There is no such step."), h("button", { type: "button", onclick: close }, "Close"));
  const head = (title, ...under) => h("div", { class: "panel-head" },
    h("div", {}, h("h2", { id: "panel-title", tabindex: "-1" }, title), ...under),
    h("button", { type: "button", class: "close", "aria-label": "Close", "data-key": "close", onclick: close }, "✕"));
  if (parts[0] === "artifact") return artifactPanel(run, step, parts.slice(2).join(":"), head, open);
  const buttons = [["from", "Rerun from here"], ["only", "Rerun only this"]].filter(([action]) => can(action));
  const tabs = [["details", "Details"], ["log", "Log"], ["outputs", "Outputs"]];
  const body = h("div", { class: "panel-body", "data-scroll": "panel" });
  const bar = h("div", { class: "tabs", role: "tablist" }, tabs.map(([name, label]) => h("button", {
    type: "button", role: "tab", "data-key": `tab ${name}`, "data-tab": name, "aria-selected": String(tab === name),
    onclick: () => { tab = name; draw(); },
  }, label)));
  const draw = () => {
    stopFollowing();
    for (const one of bar.children) one.setAttribute("aria-selected", String(one.dataset.tab === tab));
    body.replaceChildren(...[{ details: () => details(run, step), log: () => logView(run, step), outputs: () => outputs(run, step, open) }[tab]()].flat().filter(Boolean));
  };
  draw();
  return h("div", { class: "panel-in" },
    head(step.name, h("p", {}, badge(step.state), " ", duration(secondsOf(step)), step.peak_memory ? ` · ${bytes(step.peak_memory)} memory` : "", step.attempts > 1 ? ` · attempt ${step.attempts}` : "")),
    step.error ? h("pre", { class: "error", role: "alert" }, step.error) : null,
    buttons.length && run.state !== "RUNNING" ? h("div", { class: "buttons" }, buttons.map(([action, label]) => h("button", { type: "button", "data-key": action, onclick: () => ask(action, step.name) }, label))) : null,
    bar, body);
}

function details(run, step) {
  const given = Object.entries(step.inputs).sort(([a], [b]) => a.localeCompare(b));
  const changed = (name, value) => name in run.arguments && JSON.stringify(run.arguments[name]) !== JSON.stringify(value);
  const parameters = given.filter(([, value]) => value.uri === undefined).map(([name, value]) => [name, h("code", {}, plain(value.value)), value.type + (changed(name, value.value) ? " (not the run's)" : "")]);
  const taken = given.filter(([, value]) => value.uri !== undefined);
  const metrics = Object.entries(step.metrics).sort(([a], [b]) => a.localeCompare(b)).map(([name, value]) => [name, number(value)]);
  const facts = [["Started", when(step.started)], ["Ended", when(step.ended)], ["Waits for", step.upstream.join(", ")], ["Exit code", step.exit_code], ["Attempts", step.attempts || null]]
    .filter(([, value]) => value !== null && value !== undefined && value !== "");
  const values = Object.entries(step.outputs).filter(([, value]) => value.uri === undefined).map(([name, value]) => [name, h("code", {}, plain(value.value))]);
  return [
    metrics.length ? [h("h3", {}, "Metrics"), table(["name", "value"], metrics, { numbers: [1], label: "Metrics" })] : null,
    parameters.length ? [h("h3", {}, "Parameters"), table(["name", "value", "type"], parameters, { label: "Parameters" })] : null,
    taken.length ? [h("h3", {}, "Inputs"), table(["name", "type", "file"], taken.map(([name, value]) => [name, kindOf(value), h("code", { class: "path" }, value.file || value.uri)]), { label: "Inputs" })] : null,
    values.length ? [h("h3", {}, "Values"), table(["name", "value"], values, { label: "Output values" })] : null,
    h("h3", {}, "Facts"), table(["", ""], facts, { label: "Facts" }),
  ].flat();
}

const kindOf = (value) => (value.type || "").replace("system.", "");

function outputs(run, step, open) {
  const made = Object.entries(step.outputs).filter(([, value]) => value.uri !== undefined && value.type !== "system.Metrics");
  if (!made.length) return [h("p", { class: "soft" }, "No artifacts yet.")];
  return made.map(([name, value]) => h("section", { class: "output" },
    h("h3", {}, h("button", { type: "button", class: "link", "data-key": `out ${name}`, onclick: () => open(`artifact:${step.name}:${name}`) }, name), h("span", { class: "soft" }, ` ${kindOf(value)}`)),
    lookAt(value)));
}

function lookAt(value) {
  const curve = rocOf(value);
  if (curve.length) return chart("Receiver operating characteristic", [{ name: "recall", points: curve }], { x: "false positive rate", y: "recall" });
  if (value.type === "system.Metrics" || value.type === "system.ClassificationMetrics") return h("pre", {}, JSON.stringify(value.metadata, null, 1));
  return value.file ? preview(value.file) : h("p", { class: "soft" }, `It is not in the runs folder: ${value.uri}`);
}

function artifactPanel(run, step, name, head, open) {
  const value = step.outputs[name];
  const back = h("p", {}, "made by ", h("button", { type: "button", class: "link", "data-key": "maker", onclick: () => open(`step:${step.name}`) }, step.name));
  if (!value) return h("div", { class: "panel-in" }, head(name, back), h("p", { class: "soft" }, "Not made yet."));
  const chain = h("div");
  behind(run.id, step.name, name).then((found) => {
    if (found.length > 1) chain.replaceChildren(h("h3", {}, "Made from"), lineageTable(run, found, open));
  }).catch(() => {});
  const extra = Object.entries(value.metadata || {}).filter(([key]) => key !== "confidenceMetrics");
  return h("div", { class: "panel-in" }, head(name, back),
    h("div", { class: "panel-body", "data-scroll": "panel" },
      h("p", { class: "soft" }, kindOf(value), value.sha256 ? [" · sha256 ", h("code", { title: value.sha256 }, value.sha256.slice(0, 12))] : ""),
      h("code", { class: "path" }, value.file || value.uri),
      lookAt(value),
      extra.length && value.type !== "system.Metrics" ? [h("h3", {}, "Metadata"), h("pre", {}, JSON.stringify(Object.fromEntries(extra), null, 1))] : null,
      chain));
}

export function lineageTable(run, found, open) {
  return table(["artifact", "made by", "from", "hash", "run"], found.map((one) => [
    h("button", { type: "button", class: "link", onclick: () => open(`artifact:${one.step}:${one.name}`) }, one.name),
    one.step, one.from.join(", ") || "–", one.sha256 ? h("code", { title: one.sha256 }, one.sha256.slice(0, 12)) : "–",
    one.run === run.id ? "this run" : h("a", { href: `#/run/${encodeURIComponent(one.run)}` }, one.run)]), { label: "Lineage" });
}

const KFP_LINES = /^\[KFP Executor [^\]]*\]: (?:Got executor_input:\n\{\n[^]*?\n\}\n|[^\n]*\n?)/gm;

function logView(run, step) {
  let start = 0, end = 0, text = "", wanted = "";
  const state = h("p", { class: "soft", role: "status" });
  const shown = h("pre", { class: "log", tabindex: "0", "data-scroll": "log", "aria-label": `Log of ${step.name}` });
  const earlier = h("button", { type: "button", hidden: true, onclick: async () => {
    const from = Math.max(0, start - 1000000);
    const found = await logOf(run.id, step.name, from, start - from);
    text = found.text + text; start = found.start; draw(false);
  } }, "Load earlier lines");
  const follow = h("input", { type: "checkbox", checked: true, "data-key": "follow" });
  const kfp = h("input", { type: "checkbox", "data-key": "kfp lines", onchange: () => draw(true) });
  const draw = (toEnd) => {
    // KFP's executor prints all inputs and its own steps before and after those of the step.
    const lines = (kfp.checked ? text : text.replace(KFP_LINES, "")).split("\n");
    const fitting = wanted ? lines.filter((line) => line.toLowerCase().includes(wanted)) : lines;
    if (wanted) shown.replaceChildren(...fitting.flatMap((line) => [...marked(line, wanted), "\n"]));
    else shown.textContent = fitting.join("\n");
    earlier.hidden = start === 0 || isExport;
    state.textContent = (wanted ? `${fitting.length} of ${lines.length} lines` : `${lines.length - (lines.at(-1) === "" ? 1 : 0)} lines`) + (start > 0 ? ", the last ones" : "");
    if (toEnd && follow.checked) shown.scrollTop = shown.scrollHeight;
  };
  const more = async () => {
    try {
      const found = await logOf(run.id, step.name, end === 0 ? -1 : end);
      if (end === 0) start = found.start;
      if (found.size < end) { end = 0; text = ""; }  // written anew by another attempt
      else if (found.text || end === 0) { text += found.text; end = found.end; draw(true); }
    } catch (error) { state.textContent = error.message; }
    if (step.state === "RUNNING" && shown.isConnected && !isExport) follower = setTimeout(more, 700);
  };
  follower = setTimeout(more, 0);
  return [
    h("div", { class: "bar" }, h("input", { type: "search", placeholder: "Search the log", "aria-label": "Search the log", "data-key": "log search", oninput: (event) => { wanted = event.target.value.toLowerCase(); draw(false); } }),
      step.state === "RUNNING" ? h("label", {}, follow, " follow") : null, h("label", {}, kfp, " KFP's lines"), earlier),
    shown, state];
}

function marked(line, word) {
  const found = [];
  let from = 0;
  for (let at = line.toLowerCase().indexOf(word); at >= 0; at = line.toLowerCase().indexOf(word, from)) {
    found.push(line.slice(from, at), h("mark", {}, line.slice(at, at + word.length)));
    from = at + word.length;
  }
  return [...found, line.slice(from)];
}
