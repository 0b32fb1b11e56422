// What stands behind the page: a server that takes the bytes, or a bucket and a function (AWS).
// Addresses are relative to the page's own, so it works below any path.
import { bytes } from "./dom.js";

// An error in words, and whether the same again could help.
export class Failure extends Error {
  constructor(title, detail, { code = "", again = false } = {}) {
    super(title);
    Object.assign(this, { title, detail, code, again });
  }
}

export class Cancelled extends Error {}

const TITLES = {
  silent: "The recording is silent", empty: "The file is empty", unreadable: "This cannot be read as a recording",
  "not-audio": "This cannot be read as a recording", "not-finite": "The recording is damaged",
  "too-large": "The recording is too large", "too-long": "The recording is too long", "decode-time": "The recording takes too long to decode",
  "decode-memory": "The recording takes too much memory to decode", "decoder-crashed": "The recording is damaged",
};

const unreached = () => navigator.onLine === false
  ? new Failure("This device is offline", "Nothing can be sent without a network. The recording is still here: try again when there is one.", { code: "offline", again: true })
  : new Failure("The server does not answer", "It may have been stopped, or the network is interrupted. The recording is still here.", { code: "down", again: true });

// By XMLHttpRequest: fetch tells no progress of what is sent.
function send(method, address, { body = null, headers = {}, signal, onProgress, onSent } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    if (signal?.aborted) return reject(new Cancelled());
    signal?.addEventListener("abort", abort);
    request.open(method, address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (onProgress) request.upload.onprogress = (event) => onProgress(event.loaded, event.lengthComputable ? event.total : body.size);
    if (onSent) request.upload.onload = onSent;
    request.onload = () => resolve(request);
    request.onerror = () => reject(unreached());
    request.onabort = () => reject(new Cancelled());
    request.onloadend = () => signal?.removeEventListener("abort", abort);
    request.send(body);
  });
}

function read(request) {
  try { return JSON.parse(request.responseText); } catch { return null; }
}

function refused(request, busy) {
  const { status } = request, told = read(request), code = typeof told?.code === "string" ? told.code : "";
  const words = typeof told?.detail === "string" ? told.detail : typeof told?.message === "string" ? told.message : "";
  const wait = Number(request.getResponseHeader("Retry-After"));
  const later = wait > 0 && !words.includes("again") ? ` Try again in ${wait} seconds.` : "";
  if (status === 503 || status === 429) return new Failure("The server is busy", (words || "It has more to do than it can take.") + later, { code, again: true });
  if (status === 413) return new Failure(TITLES[code] || TITLES["too-large"], words || "The server takes smaller ones only. Cut it, or save it as OGG or FLAC.", { code: code || "too-large" });
  if (status === 403) return new Failure("That was refused", words || `${busy} was refused. If the page has been open for long, load it again.`, { code, again: true });
  if (status >= 500) return new Failure("The server failed", words || `It answered ${status} and no reason while it was ${busy}.`, { code, again: true });
  return new Failure(TITLES[code] || told?.title || `The server answered ${status}`, words || "It gave no reason.", { code });
}

// CloudFront signs what it passes to a function's address, and of a body only by this header.
async function hashed(body) {
  if (!crypto.subtle) return {};
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(body)));
  return { "x-amz-content-sha256": [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
}

async function post(address, value, busy, signal) {
  const body = JSON.stringify(value);
  return json("POST", address, busy, { signal, body, headers: { "Content-Type": "application/json", ...await hashed(body) } });
}

async function json(method, address, busy, options) {
  const request = await send(method, address, options);
  if (request.status < 200 || request.status > 299) throw refused(request, busy);
  const value = read(request);
  if (value === null || typeof value !== "object") throw new Failure("The answer cannot be read", `${new URL(address, location.href).pathname} did not answer with JSON. Is this page served by a birdsong server?`, { again: true });
  return value;
}

export const askSettings = () => json("GET", "settings", "asked for its settings");

export function checkSize(file, settings) {
  if (!file.size) throw new Failure(TITLES.empty, `${file.name} has no bytes. Choose another file.`, { code: "empty" });
  if (file.size > settings.largest_bytes) {
    throw new Failure(TITLES["too-large"], `${file.name} has ${bytes(file.size)}, the server takes up to ${bytes(settings.largest_bytes)}. Cut it, or save it as OGG or FLAC, which are smaller than WAV. Nothing was sent.`, { code: "too-large" });
  }
}

// The answer for a recording. onProgress(sent, total) while it is sent, onSent() when it is there.
export async function listen(file, settings, { signal, onProgress, onSent }) {
  // A browser names some recordings video/ogg or nothing at all; the server looks at the bytes.
  const type = file.type.startsWith("audio/") ? file.type : "application/octet-stream";
  let answer;
  if (settings.upload === "presigned") {
    const given = await post("uploads", { name: file.name, size: file.size, type }, "asked for a place to send to", signal);
    const form = new FormData();
    for (const [name, value] of Object.entries(given.fields)) form.append(name, value);
    form.append("file", file); // S3 reads nothing that comes after the file
    const stored = await send("POST", given.url, { body: form, signal, onProgress: (sent) => onProgress(Math.min(sent, file.size), file.size) });
    if (stored.status < 200 || stored.status > 299) {
      const reason = /<Code>([\w.]{1,60})<\/Code>/.exec(stored.responseText)?.[1];
      if (reason === "EntityTooLarge") throw new Failure(TITLES["too-large"], "The storage refused it. Cut it, or save it as OGG or FLAC.", { code: "too-large" });
      throw new Failure("The upload was refused", `The storage answered ${stored.status}${reason ? ` (${reason})` : ""}.`, { again: true });
    }
    onSent();
    answer = await post("listen?scores=frames", { key: given.key }, "listening", signal);
  } else {
    answer = await json("POST", "invocations?scores=frames", "listening", { signal, headers: { "Content-Type": type }, body: file, onProgress, onSent });
  }
  if (!Array.isArray(answer.windows)) throw new Failure("The answer cannot be read", "It has no windows. Is this page older than its server? Load it again.", { again: true });
  return answer;
}
