// The graph of a run: steps and artifacts, laid out by dagre, drawn as SVG.
import { duration, h, ICONS, s, secondsOf } from "./dom.js";

const STEP = { width: 196, height: 52 }, ARTIFACT = { width: 128, height: 26 };
const MARKS = { "system.HTML": "▤", "system.Model": "◆", "system.Dataset": "▦", "system.Metrics": "#", "system.ClassificationMetrics": "◠" };
const laidOut = new Map();

function visible(run, which) {
  return which === "none" ? [] : run.graph.artifacts.filter((one) =>
    one.type !== "system.Metrics" && (which === "all" || one.takers.length));
}

function layout(run, which) {
  const shown = visible(run, which);
  const signature = JSON.stringify([which, run.id, run.steps.map((step) => step.name), run.graph.after, shown.map((one) => [one.step, one.name, one.takers])]);
  if (laidOut.has(signature)) return laidOut.get(signature);
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 14, ranksep: shown.length ? 22 : 34, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const step of run.steps) graph.setNode(`step:${step.name}`, { ...STEP });
  const joined = new Set();
  for (const one of shown) {
    const key = `artifact:${one.step}:${one.name}`;
    graph.setNode(key, { ...ARTIFACT });
    graph.setEdge(`step:${one.step}`, key, { weight: one.takers.length ? 2 : 1 });
    for (const taker of one.takers) {
      graph.setEdge(key, `step:${taker}`, { weight: 2 });
      joined.add(`${one.step} ${taker}`);
    }
  }
  for (const [before, after] of run.graph.after) {
    if (!joined.has(`${before} ${after}`)) graph.setEdge(`step:${before}`, `step:${after}`);
  }
  dagre.layout(graph);
  const found = {
    width: graph.graph().width, height: graph.graph().height,
    nodes: graph.nodes().map((key) => [key, graph.node(key)]),
    edges: graph.edges().map((edge) => [edge.v, edge.w, graph.edge(edge).points]),
  };
  if (laidOut.size > 20) laidOut.clear();
  laidOut.set(signature, found);
  return found;
}

function curve(points) {
  let path = `M${points[0].x},${points[0].y}`;
  for (let index = 1; index < points.length; index += 1) {
    const one = points[index - 1], two = points[index], middle = (one.y + two.y) / 2;
    path += ` C${one.x},${middle} ${two.x},${middle} ${two.x},${two.y}`;
  }
  return path;
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

export function dagView(run, { which, selected, open, size, room, height }) {
  const plan = layout(run, which);
  const steps = new Map(run.steps.map((step) => [step.name, step]));
  const artifacts = new Map(run.graph.artifacts.map((one) => [`artifact:${one.step}:${one.name}`, one]));
  const made = (one) => steps.get(one.step)?.outputs[one.name];
  const node = ([key, place]) => {
    const left = place.x - place.width / 2, top = place.y - place.height / 2;
    const step = key.startsWith("step:") ? steps.get(key.slice(5)) : null;
    const one = artifacts.get(key);
    const state = step ? step.state : made(one) ? "MADE" : "PENDING";
    const told = step && run.progress[step.name];
    const time = step && state !== "REUSED" ? duration(secondsOf(step)) : "";
    const label = step ? `Step ${step.name}, ${state.toLowerCase()}${time ? `, ${time}` : ""}` : `Artifact ${one.name} of ${one.step}`;
    return s("g", {
      class: `node ${step ? "step" : "artifact"} ${state}${selected === key ? " selected" : ""}`, transform: `translate(${left},${top})`,
      tabindex: "0", role: "button", "aria-label": label, "data-key": key, "data-state": state,
      onclick: () => open(key),
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(key); }
        const move = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[event.key];
        if (move) { event.preventDefault(); walk(event.currentTarget, plan, key, move); }
      },
    },
    s("title", {}, label),
    s("rect", { width: place.width, height: place.height, rx: step ? 8 : 13 }),
    step ? [
      s("text", { class: "icon", x: 16, y: 31, "text-anchor": "middle" }, ICONS[state] || "·"),
      s("text", { class: "title", x: 32, y: 22 }, short(step.name, 21)),
      s("text", { class: "under", x: 32, y: 40 }, [state.toLowerCase(), time, told ? `${told.done}/${told.total}` : ""].filter(Boolean).join(" · ")),
      told && told.total ? s("rect", { class: "bar", x: 0, y: place.height - 4, height: 4, rx: 2, width: Math.max(2, (place.width * told.done) / told.total) }) : null,
    ] : s("text", { class: "small", x: place.width / 2, y: 17, "text-anchor": "middle" }, `${MARKS[one.type] || "●"} ${short(one.name, 16)}`));
  };
  const edge = ([from, to, points]) => {
    const related = selected && (from === selected || to === selected);
    return s("path", { class: `edge${related ? " related" : ""}`, d: curve(points), "marker-end": to.startsWith("step:") ? "url(#arrow)" : null });
  };
  // Never so small that the names cannot be read: then it scrolls.
  const scale = { full: 1, width: Math.max(0.66, Math.min(1, room / plan.width)), whole: Math.max(0.4, Math.min(1, room / plan.width, height / plan.height)) }[size];
  return h("div", { class: "dag", "data-scroll": "dag" },
    s("svg", { viewBox: `0 0 ${plan.width} ${plan.height}`, width: plan.width * scale, height: plan.height * scale, role: "group", "aria-label": "Graph of the run" },
      s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, orient: "auto", markerUnits: "userSpaceOnUse" }, s("path", { d: "M0,0 L8,4 L0,8 z" }))),
      plan.edges.map(edge), plan.nodes.map(node)));
}

function walk(element, plan, key, [right, down]) {
  const here = plan.nodes.find(([other]) => other === key)[1];
  let best = null, least = Infinity;
  for (const [other, place] of plan.nodes) {
    const x = place.x - here.x, y = place.y - here.y;
    const along = right ? x * right : y * down, aside = Math.abs(right ? y : x);
    if (along > 4 && along + aside * 2 < least) { least = along + aside * 2; best = other; }
  }
  if (best) element.parentNode.querySelector(`[data-key="${CSS.escape(best)}"]`).focus();
}

export function ganttView(run, { selected, open }) {
  const begun = run.steps.filter((step) => step.started);
  if (!begun.length) return h("p", { class: "soft" }, "No step has started yet.");
  const first = Math.min(Date.parse(run.started), ...begun.map((step) => Date.parse(step.started)));
  const ends = begun.map((step) => Date.parse(step.started) + 1000 * (secondsOf(step) || 0));
  const whole = Math.max(...ends) - first || 1;
  return h("div", { class: "gantt", role: "list", "aria-label": "Timeline of the steps" },
    run.steps.map((step) => {
      const from = step.started ? Date.parse(step.started) - first : 0;
      const share = (value) => `${((100 * value) / whole).toFixed(3)}%`;
      const key = `step:${step.name}`;
      return h("div", { role: "listitem", class: "lane" },
        h("button", { type: "button", class: `lane-name${selected === key ? " selected" : ""}`, "data-key": `lane ${step.name}`, onclick: () => open(key) }, `${ICONS[step.state]} ${step.name}`),
        h("div", { class: "track" }, step.started ? h("div", { class: `span ${step.state}`, title: `${step.name}: ${duration(secondsOf(step))}, from ${duration(from / 1000)}`,
          style: { left: share(from), width: share(1000 * (secondsOf(step) || 0)) } }) : null),
        h("span", { class: "lane-time" }, duration(secondsOf(step))));
    }),
    h("div", { class: "lane scale", "aria-hidden": "true" }, h("span"), h("div", { class: "track" },
      [0, 0.25, 0.5, 0.75, 1].map((share) => h("span", { style: { left: `${share * 100}%`, transform: `translateX(-${share * 100}%)` } }, duration((whole * share) / 1000)))), h("span")));
}
