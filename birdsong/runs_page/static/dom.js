// Elements and texts. All that comes from records enters the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const ICONS = {
  PENDING: "○", RUNNING: "▶", SUCCEEDED: "✓", FAILED: "✕", SKIPPED: "⊘", REUSED: "↺",
  CANCELLED: "■", DIED: "✝", UNREADABLE: "?",
};

export function badge(state) {
  return h("span", { class: `badge ${state}` }, h("span", { "aria-hidden": "true" }, ICONS[state] || "·"), " ", state.toLowerCase());
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function secondsOf(entry) {
  if (entry.seconds !== null && entry.seconds !== undefined) return entry.seconds;
  if (!entry.started || entry.state !== "RUNNING") return null;
  return Math.max(0, (Date.now() - Date.parse(entry.started)) / 1000);
}

export function bytes(count) {
  if (count === null || count === undefined) return "";
  for (const unit of ["bytes", "kB", "MB", "GB"]) {
    if (count < 1000 || unit === "GB") return unit === "bytes" ? `${count} ${unit}` : `${count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
}

export function number(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export function withInterval(metrics, name) {
  const value = metrics[name];
  if (value === undefined) return "–";
  const low = metrics[`${name}_low`], high = metrics[`${name}_high`];
  return low === undefined || high === undefined ? value.toFixed(3) : `${value.toFixed(3)} (${low.toFixed(3)}–${high.toFixed(3)})`;
}

export function when(text) {
  if (!text) return "";
  const time = new Date(text);
  const pad = (value) => String(value).padStart(2, "0");
  return `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())} ${pad(time.getHours())}:${pad(time.getMinutes())}`;
}

export function plain(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value === "" ? "(empty)" : value;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function table(heads, rows, { numbers = [], label = "" } = {}) {
  const cls = (column) => (numbers.includes(column) ? "number" : null);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label || "table" },
    h("table", {},
      h("thead", {}, h("tr", {}, heads.map((head, column) => h("th", { class: cls(column), scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.className || null },
        (row.cells || row).map((cell, column) => h("td", { class: cls(column) }, cell)))))));
}

// Draw anew without taking the focus or the scroll position away.
export function replace(place, ...content) {
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const scrolls = [...place.querySelectorAll("[data-scroll]")].map((one) => [one.dataset.scroll, one.scrollLeft, one.scrollTop]);
  place.replaceChildren(...content.flat());
  for (const [name, left, top] of scrolls) {
    const one = place.querySelector(`[data-scroll="${CSS.escape(name)}"]`);
    if (one) Object.assign(one, { scrollLeft: left, scrollTop: top });
  }
  if (held) place.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}
