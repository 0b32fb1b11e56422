// Where the page gets its values: from the server, or from the exported file that it stands in.

const exported = window.BIRDSONG_EXPORT || null;
export const isExport = exported !== null;
const kept = new Map();
let token = "";

export function takeToken() {
  const match = /^#token=([\w-]+)/.exec(location.hash);
  try {
    if (match) {
      sessionStorage.setItem("birdsong-token", match[1]);
      history.replaceState(null, "", "#/");
    }
    token = sessionStorage.getItem("birdsong-token") || "";
  } catch { token = match ? match[1] : ""; }
}

export const hasToken = () => token !== "";

const part = (path) => path.split("/").map(encodeURIComponent).join("/");

async function get(address) {
  const before = kept.get(address);
  const answer = await fetch(address, { headers: before ? { "If-None-Match": before.tag } : {}, cache: "no-store" });
  if (answer.status === 304) return before.value;
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.detail || `The server answered ${answer.status}.`);
  const tag = answer.headers.get("ETag");
  if (tag) {
    if (kept.size > 50) kept.delete(kept.keys().next().value);
    kept.set(address, { tag, value });
  }
  return value;
}

export async function post(address, body) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Birdsong-Token": token },
    body: JSON.stringify(body),
  });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof value.detail === "string" ? value.detail : `The server answered ${answer.status}.`);
  return value;
}

export const listRuns = async () => (isExport ? exported.list : get("/api/runs"));

export async function oneRun(id) {
  if (!isExport) return get(`/api/runs/${encodeURIComponent(id)}`);
  if (exported.run.id !== id) throw new Error(`Run ${id} is not in this file.`);
  return exported.run;
}

export async function versionOf(id) {
  return isExport ? exported.version : get(`/api/runs/${encodeURIComponent(id)}/version`);
}

export async function behind(id, step, output) {
  if (isExport) return exported.lineage[`${step}/${output}`] || [];
  return get(`/api/runs/${encodeURIComponent(id)}/lineage/${encodeURIComponent(step)}/${encodeURIComponent(output)}`);
}

export async function logOf(id, step, start = -1, most = 256000) {
  if (isExport) {
    const log = exported.logs[step] || { text: "", start: 0, end: 0, size: 0 };
    return start < 0 ? log : { text: "", start: log.end, end: log.end, size: log.end };
  }
  return get(`/api/runs/${encodeURIComponent(id)}/log/${part(step)}?start=${start}&most=${most}`);
}

export async function previewOf(file, rows = 50) {
  if (!isExport) return get(`/api/preview/${part(file)}?rows=${rows}`);
  const found = exported.previews[file];
  if (!found) throw new Error("Not in this file: exports carry small previews only.");
  return found;
}

// The address of a file for frames, pictures and players; null where an export has left it out.
export const addressOf = (file) => (isExport ? exported.files[file] || null : `/api/file/${part(file)}`);
export const markupOf = (file) => (isExport ? exported.pages[file] ?? null : null);
