// What an artifact looks like: pages, pictures, tables, sounds, texts and curves.
import { addressOf, isExport, markupOf, previewOf } from "./data.js";
import { bytes, h, number, plain, s, table } from "./dom.js";

export function preview(file, rows = 50) {
  const place = h("div", { class: "preview" }, h("p", { class: "soft" }, "Loading …"));
  previewOf(file, rows).then((found) => place.replaceChildren(...shown(file, found, rows, place)))
    .catch((error) => place.replaceChildren(h("p", { class: "soft" }, error.message)));
  return place;
}

function shown(file, found, rows, place) {
  const address = addressOf(file);
  const save = address && !isExport ? h("p", { class: "soft" }, h("a", { href: address, target: "_blank", rel: "noopener" }, "Open alone"), ` · ${bytes(found.bytes)}`) : null;
  if (found.kind === "folder") return [folder(file, found)];
  if (found.kind === "html") return [frame(file, address), save].filter(Boolean);
  if (found.kind === "image") return [address ? h("img", { src: address, alt: found.name }) : missing(), save].filter(Boolean);
  if (found.kind === "audio") return [address ? h("audio", { src: address, controls: true, preload: "metadata" }) : missing(), save].filter(Boolean);
  if (found.kind === "table") {
    const numbers = found.columns.map((_, column) => column).filter((column) => found.rows.some((row) => typeof row[column] === "number"));
    const cut = found.row_count === null || found.row_count > found.rows.length;
    return [
      h("p", { class: "soft" }, `${found.row_count === null ? "more than " + found.rows.length : found.row_count.toLocaleString("en")} rows, ${found.columns.length} columns${cut ? `; the first ${found.rows.length}` : ""}`),
      table(found.columns, found.rows.map((row) => row.map((value) => (typeof value === "number" ? number(value) : plain(value)))), { numbers, label: found.name }),
      cut && !isExport && rows < 1000 ? h("button", { type: "button", onclick: () => place.replaceWith(preview(file, 1000)) }, "More rows") : null,
      save,
    ].filter(Boolean);
  }
  if (found.text !== undefined) return [h("pre", { tabindex: "0" }, found.text + (found.cut ? "\n… cut" : "")), save].filter(Boolean);
  if (found.kind === "broken") return [h("p", { class: "error" }, `It cannot be read: ${found.error}`), save].filter(Boolean);
  return [h("p", { class: "soft" }, `No preview of this kind of file, ${bytes(found.bytes)}.`), save].filter(Boolean);
}

const missing = () => h("p", { class: "soft" }, "Too large for this file; look at it in the page of runs.");

function frame(file, address) {
  const markup = markupOf(file);
  const same = { sandbox: "allow-scripts", class: "page", title: "Page that the step made", loading: "lazy" };
  if (isExport) return markup === null ? missing() : h("iframe", { ...same, srcdoc: markup });
  return h("iframe", { ...same, src: address });
}

function folder(file, found) {
  return h("ul", { class: "files" }, found.entries.map((entry) => {
    const whole = `${file}/${entry.name}`;
    const item = h("details", { ontoggle: () => { if (item.open && item.children.length === 1) item.append(preview(whole)); } },
      h("summary", {}, h("span", { class: "file" }, entry.name), h("span", { class: "soft" }, ` ${bytes(entry.bytes)}`)));
    // The file that the artifact is named after is what people came for.
    if (entry.kind === "table" && entry.name.split(".")[0] === file.split("/").at(-1)) item.open = true;
    return h("li", {}, item);
  }), found.cut ? h("li", { class: "soft" }, "… and more files") : null);
}

// One or more lines over a common x: [{name, points: [[x, y], ...]}].
export function chart(title, lines, { x = "", y = "" } = {}) {
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b)) })).filter((line) => line.points.length);
  if (!drawn.length) return null;
  const all = drawn.flatMap((line) => line.points);
  const range = (values) => { const low = Math.min(...values), high = Math.max(...values); return [low, high > low ? high : low + 1]; };
  const [left, right] = range(all.map(([a]) => a)), [low, high] = range([0, ...all.map(([, b]) => b)]);
  const across = (value) => 44 + (266 * (value - left)) / (right - left), up = (value) => 150 - (136 * (value - low)) / (high - low);
  return h("figure", {},
    h("figcaption", {}, title),
    s("svg", { viewBox: "0 0 320 184", class: "chart", role: "img", "aria-label": `${title}: ${drawn.map((line) => line.name).join(", ")}` },
      [0, 0.5, 1].map((share) => { const value = low + share * (high - low); return [
        s("line", { class: "grid", x1: 44, x2: 310, y1: up(value), y2: up(value) }),
        s("text", { x: 40, y: up(value) + 4, "text-anchor": "end" }, number(value))]; }),
      s("text", { x: 44, y: 164 }, number(left)), s("text", { x: 310, y: 164, "text-anchor": "end" }, number(right)),
      s("text", { x: 177, y: 164, "text-anchor": "middle" }, x), s("text", { x: 44, y: 8 }, y),
      drawn.map((line, index) => s("polyline", { class: `line line${index % 6}`, points: line.points.map(([a, b]) => `${across(a).toFixed(1)},${up(b).toFixed(1)}`).join(" ") }))),
    h("div", { class: "legend" }, drawn.map((line, index) => h("span", {}, h("i", { class: `key line${index % 6}` }), line.name))));
}

export function rocOf(output) {
  const points = output?.metadata?.confidenceMetrics;
  return Array.isArray(points) ? points.map((one) => [one.falsePositiveRate, one.recall]).sort((a, b) => a[0] - b[0] || a[1] - b[1]) : [];
}
