// Runs side by side: parameters that differ, metrics, seconds, curves.
import { isExport, oneRun, previewOf } from "./data.js";
import { badge, duration, h, number, plain, secondsOf, table, when } from "./dom.js";
import { chart, rocOf } from "./preview.js";

export async function compareView(place, ids) {
  const runs = await Promise.all([...ids].sort().map(oneRun)); // the oldest stands first, and differences are to it
  const heads = () => ["", ...runs.map((run) => h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.id))];
  const rowsOf = (names, value, same) => names.map((name) => {
    const values = runs.map((run) => value(run, name));
    const differs = values.some((one) => JSON.stringify(one) !== JSON.stringify(values[0]));
    return differs || same ? { className: differs ? "differs" : null, cells: [name, ...values.map((one) => (typeof one === "number" ? number(one) : plain(one)))] } : null;
  }).filter(Boolean);
  const union = (lists) => [...new Set(lists.flat())];
  const parameters = union(runs.map((run) => Object.keys(run.arguments)));
  const differing = rowsOf(parameters, (run, name) => run.arguments[name], false);
  const versions = rowsOf(union(runs.map((run) => Object.keys(run.versions))), (run, name) => run.versions[name], false);
  const names = union(runs.map((run) => run.steps.map((step) => step.name)));
  const stepOf = (run, name) => run.steps.find((step) => step.name === name);
  const metrics = names.flatMap((name) => {
    const keys = union(runs.map((run) => Object.keys(stepOf(run, name)?.metrics || {}))).sort();
    return keys.map((key) => [name, key, runs.map((run) => stepOf(run, name)?.metrics[key])]);
  });
  const change = (values) => values.slice(1).map((value) => (typeof value === "number" && typeof values[0] === "number" && value !== values[0] ? ` (${value > values[0] ? "+" : ""}${number(value - values[0])})` : ""));
  const metricRows = metrics.map(([step, key, values]) => {
    const changes = ["", ...change(values)];
    return { className: changes.some(Boolean) ? "differs" : null, cells: [`${step}: ${key}`, ...values.map((value, index) => [number(value), h("span", { class: "soft" }, changes[index])])] };
  });
  const columns = runs.map((_, index) => index + 1);
  const curves = h("div", { class: "charts" });
  place.replaceChildren(h("div", { class: "bar" }, h("h1", {}, `Compare ${runs.length} runs`)),
    table(heads(), [
      ["State", ...runs.map((run) => badge(run.state))], ["Started", ...runs.map((run) => when(run.started))],
      ["Took", ...runs.map((run) => duration(secondsOf(run)))], ["Goes on from", ...runs.map((run) => run.parent || "–")],
      ["Code", ...runs.map((run) => h("code", {}, (run.fingerprint || "–").slice(0, 12)))]], { label: "Runs" }),
    h("h2", {}, "Parameters that differ"), differing.length ? table(heads(), differing, { label: "Parameters that differ" }) : h("p", { class: "soft" }, "None."),
    versions.length ? [h("h2", {}, "Versions that differ"), table(heads(), versions, { label: "Versions that differ" })] : "",
    h("h2", {}, "Metrics"), metricRows.length ? metricTable(heads(), metricRows, columns) : h("p", { class: "soft" }, "None yet."),
    curves,
    h("h2", {}, "Seconds of the steps"),
    table(heads(), names.map((name) => [name, ...runs.map((run) => { const step = stepOf(run, name); return step ? [badge(step.state), " ", duration(secondsOf(step))] : "–"; })]), { label: "Seconds of the steps" }));
  draw(curves, runs, names);
}

function metricTable(heads, rows, columns) {
  const differ = rows.some((row) => row.className);
  const only = h("input", { type: "checkbox", checked: differ, disabled: !differ, onchange: () => place.classList.toggle("only", only.checked) });
  const place = h("div", { class: differ ? "only" : "" }, h("label", { class: "soft" }, only, ` only the ${rows.filter((row) => row.className).length} that differ of ${rows.length}`),
    table(heads, rows, { numbers: columns, label: "Metrics" }));
  return place;
}

async function draw(place, runs, names) {
  for (const name of names) {
    const found = runs.map((run) => ({ name: run.id, points: Object.values(run.steps.find((step) => step.name === name)?.outputs || {}).map(rocOf).find((points) => points.length) || [] }));
    const drawn = chart(`${name}: recall by false positive rate`, found, { x: "false positive rate", y: "recall" });
    if (drawn) place.append(drawn);
  }
  if (isExport) return;
  const histories = await Promise.all(runs.map(async (run) => {
    const model = run.steps.flatMap((step) => Object.values(step.outputs)).find((output) => output.type === "system.Model" && output.file);
    try { return JSON.parse((await previewOf(`${model.file}/history.json`)).text).epochs || []; } catch { return []; }
  }));
  for (const [key, title] of [["loss", "Loss of training"], ["validation_loss", "Loss of validation"], ["validation_accuracy", "Accuracy of validation"]]) {
    const drawn = chart(title, runs.map((run, index) => ({ name: run.id, points: histories[index].map((epoch) => [epoch.epoch, epoch[key]]) })), { x: "epoch" });
    if (drawn) place.append(drawn);
  }
}
