// The page: a recording comes in, is sent, and what is heard in it is shown beside its picture.
import { askSettings, Cancelled, checkSize, Failure, listen } from "./backend.js";
import { $, bytes, clock, h, hide, nameOf, percent, show, spoken, write } from "./dom.js";
import { drawLive } from "./live.js";
import { Player } from "./player.js";
import { openRecorder } from "./recorder.js";
import { filterScores, highest, scoresTable } from "./scores.js";
import { decode, durationOf } from "./sound.js";
import { Spectrogram } from "./spectrogram.js";
import { RATE } from "./spectrum.js";
import { csv, raven } from "./tables.js";
import { heard, Timeline } from "./timeline.js";
import { Viewport } from "./viewport.js";

const LOOK_AGAIN = 5000;
const viewport = new Viewport(), player = new Player(), spectrogram = new Spectrogram(viewport);
const timeline = new Timeline(viewport, (start, end) => hear(start, end));
let settings = null, under = null, recorder = null, file = null, answer = null, looking = null;
let dragging = null, followed = true, drawing = null, lost = false;

const say = (text) => write("said", text);

// ---- What stands behind the page -------------------------------------------------------------

async function ask() {
  clearTimeout(looking);
  try {
    settings = await askSettings();
  } catch (error) {
    settings = null;
    lost = true;
    if ($("down").hidden && $("problem").hidden) tell("down", error, h("button", { type: "button", onclick: ask }, "Try again"));
    looking = setTimeout(ask, LOOK_AGAIN);
    throw error;
  }
  if (lost) { lost = false; hide("down"); say("The server answers again."); }
  write("model", [`Model ${settings.model}`, settings.version ? `version ${settings.version}` : ""].filter(Boolean).join(" "));
  const longest = settings.longest_seconds ? `, up to ${settings.longest_seconds >= 7200 ? `${Math.floor(settings.longest_seconds / 3600)} hours` : `${Math.floor(settings.longest_seconds / 60)} minutes`}` : " of any length";
  write("limits", `WAV, FLAC, OGG, MP3, or what a phone records${longest} and ${bytes(settings.largest_bytes)}.`);
  write("keeps", `What is kept: ${settings.keeps}`);
}

// ---- Errors in words -------------------------------------------------------------------------

function tell(place, error, ...actions) {
  const known = error instanceof Failure ? error : new Failure("Something went wrong in this page", `${error?.message || error}. Load it again; if that does not help, tell who runs it.`);
  const shown = actions.filter(Boolean);
  $(place).replaceChildren(h("h2", {}, known.title), h("p", {}, known.detail), ...(shown.length ? [h("p", { class: "buttons" }, shown)] : []));
  show(place);
}

function failed(error, again, recorded = false) {
  hide("busy", "down");
  // What was recorded here is nowhere else.
  tell("problem", error, again && error.again ? h("button", { type: "button", class: "primary", onclick: again }, "Try again") : null,
    recorded ? h("a", { class: "button", href: player.audio.src, download: file.name }, "Save the recording") : null);
  keepFocus($("problem").querySelector("button") || $("choose"));
}

// Focus goes on where its element has disappeared.
function keepFocus(next) {
  const now = document.activeElement;
  if (!now || now === document.body || !now.offsetParent) next.focus({ preventScroll: true });
}

// ---- A recording comes in --------------------------------------------------------------------

async function take(given, { note = "", recorded = false } = {}) {
  under?.abort();
  const mine = (under = new AbortController());
  file = given;
  answer = null;
  player.load(file);
  write("made", "");
  hide("problem", "result", "recorder");
  show("busy");
  busy("Getting ready", null);
  keepFocus($("cancel"));
  const picture = prepare(mine.signal); // while it is sent
  try {
    if (!settings) await ask();
    checkSize(file, settings);
    const found = await send(given, mine.signal, picture);
    if (under !== mine) return;
    await picture;
    under = null;
    hide("busy");
    shown(found, note, recorded);
  } catch (error) {
    if (under !== mine) return; // another recording came
    under = null;
    if (error instanceof Cancelled) { hide("busy"); say("Cancelled."); keepFocus($("choose")); }
    else failed(error, () => take(given, { note, recorded }), recorded);
  }
}

// Decode for the picture; the result is needed only after the answer, or instead of the file.
async function prepare(signal) {
  const seconds = await durationOf(player.audio);
  player.usable = seconds !== null;
  const { samples, why } = await decode(file, seconds);
  if (signal.aborted) return {};
  const length = samples ? samples.length / RATE : seconds;
  viewport.reset(length || 0);
  spectrogram.load(samples, why);
  return { drawn: samples !== null };
}

async function send(given, signal, picture) {
  const how = {
    signal,
    onProgress: (sent, total) => busy("Sending", sent / (total || given.size), `${given.name}, ${Math.floor((100 * sent) / (total || given.size))} % of ${bytes(total || given.size)}`),
    onSent: () => busy("Listening", null, given.name),
  };
  busy("Sending", 0, `${given.name}, ${bytes(given.size)}`);
  try {
    return await listen(given, settings, how);
  } catch (error) {
    // A phone's memo (m4a) or a browser's recording (webm): what the browser can decode goes as WAV.
    const { drawn } = error.code === "unreadable" ? await picture : {};
    if (!drawn || signal.aborted) throw error;
    const wav = new File([await spectrogram.wav()], given.name, { type: "audio/wav" });
    if (wav.size > settings.largest_bytes) throw error;
    return { ...await listen(wav, settings, how), turned: true };
  }
}

function busy(phase, share, text = "") {
  if ($("phase").textContent !== phase) say(`${phase} …`);
  write("phase", phase);
  write("share", text);
  if (share === null) $("progress").removeAttribute("value"); else $("progress").value = share;
}

// ---- What is heard ---------------------------------------------------------------------------

function shown(found, note, recorded) {
  answer = found;
  const last = answer.windows.at(-1), ends = last ? last.start_seconds + last.seconds : 0;
  if (!viewport.length) viewport.reset(ends);
  const species = heard(answer), length = viewport.length;
  document.body.classList.add("heard");
  show("result");
  write("invite", "Another recording");
  write("name", file.name);
  write("facts", [clock(length, length < 60 ? 1 : 0) + (length < 60 ? " s" : ""), bytes(file.size)].join(" · ").replace(/^0:0?/, ""));
  const count = answer.windows.length, over = count > 1 ? ` over ${count} windows of up to 60 s` : "";
  const closest = highest(answer);
  const words = species.length
    ? `${species.length === 1 ? "One species is" : `${species.length} species are`} heard in ${spoken(length)}${over}.`
    : `No species is heard: none has a score above its threshold${over}.${closest.length ? ` The closest is ${nameOf(closest[0])} with a score of ${closest[0].score.toFixed(2)}.` : ""}`;
  const turned = answer.turned ? "The server does not read this kind of file, so your browser turned it into WAV first." : "";
  $("summary").replaceChildren(words, ...[note, turned].filter(Boolean).map((text) => h("span", { class: "soft" }, ` ${text}`)));
  say(`${words} ${species.slice(0, 5).map((one) => `${nameOf(one)}, ${percent(one.best.probability)}`).join("; ")}`);

  spectrogram.marks = species.flatMap((one) => one.found.map((each) => [each.start, each.end]));
  $("species").hidden = $("legend").hidden = !species.length;
  timeline.load(answer, species);
  $("plot").setAttribute("aria-valuemax", String(Math.round(10 * length) / 10));
  $("play").disabled = !player.usable;
  spectrogram.moved();
  moved();

  $("find").value = "";
  $("find").closest("p").hidden = closest.length <= 12;
  $("all").hidden = !closest.length;
  $("scores").replaceChildren(scoresTable(closest, hear));
  $("csv").disabled = $("raven").disabled = !species.length;
  $("keep").hidden = !recorded;
  if (recorded) Object.assign($("keep"), { href: player.audio.src, download: file.name });
  const server = [answer.model, answer.version ? `version ${answer.version}` : "", `bundle ${String(answer.bundle_sha256).slice(0, 12)}`, answer.runtime, `${Number(answer.seconds).toFixed(2)} s of work`];
  write("made", `Heard by ${server.filter(Boolean).join(" · ")}`);
  keepFocus($("name"));
  if ($("result").getBoundingClientRect().top > 0.7 * innerHeight) $("result").scrollIntoView({ block: "start" });
}

function hear(start, end) {
  if (player.usable) player.hear(start, end); else place(start);
  viewport.reveal(start, end);
}

let still = 0; // the position where nothing can be played
const position = () => (player.usable ? player.position : still);
function place(seconds) {
  const moment = Math.max(0, Math.min(viewport.length, seconds));
  if (player.usable) player.seek(moment); else { still = moment; moved(); }
  viewport.reveal(moment);
}

function moved() {
  const now = position(), share = viewport.across(now);
  $("playhead").hidden = share < 0 || share > 1;
  $("playhead").style.left = `${100 * share}%`;
  write("time", `${clock(now, 1)} of ${clock(viewport.length, 1)}`);
  write("play", player.playing ? "Pause" : "Play");
  $("plot").setAttribute("aria-valuenow", String(Math.round(10 * now) / 10));
  $("plot").setAttribute("aria-valuetext", `${spoken(now)} of ${spoken(viewport.length)}`);
  if (player.playing && followed && !dragging && (share < 0 || share > 1)) viewport.reveal(now);
}

// ---- The picture under hand and keys ---------------------------------------------------------

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = event.shiftKey ? 5 : 1;
  const action = {
    " ": () => $("play").click(), Enter: () => $("play").click(),
    ArrowLeft: () => place(position() - step), ArrowRight: () => place(position() + step),
    ArrowDown: () => place(position() - step), ArrowUp: () => place(position() + step),
    PageDown: () => place(position() - viewport.span), PageUp: () => place(position() + viewport.span),
    Home: () => place(0), End: () => place(viewport.length),
    "+": () => viewport.zoom(0.5, position()), "=": () => viewport.zoom(0.5, position()),
    "-": () => viewport.zoom(2, position()), 0: () => viewport.set(0, viewport.length),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

const shareOf = (event, element) => { const box = element.getBoundingClientRect(); return (event.clientX - box.left) / box.width; };

function down(event) {
  if (event.button) return;
  dragging = { x: event.clientX, start: viewport.start, far: false };
  $("plot").setPointerCapture(event.pointerId);
}

function drag(event) {
  if (!dragging) return;
  const by = event.clientX - dragging.x;
  dragging.far ||= Math.abs(by) > 5;
  if (dragging.far) viewport.set(dragging.start - (by / $("plot").clientWidth) * viewport.span);
}

function up(event) {
  if (!dragging) return;
  const tapped = !dragging.far;
  dragging = null;
  if (tapped && event.type === "pointerup") place(viewport.at(shareOf(event, $("plot"))));
}

function wheel(event) {
  if (event.ctrlKey) { event.preventDefault(); viewport.zoom(Math.exp(event.deltaY / 200), viewport.at(shareOf(event, $("plot")))); return; }
  const across = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
  if (!across || viewport.whole) return;
  event.preventDefault();
  viewport.set(viewport.start + (across / $("plot").clientWidth) * viewport.span);
}

function jump(event) {
  if (event.type === "pointerdown") $("overview").setPointerCapture(event.pointerId);
  else if (!$("overview").hasPointerCapture(event.pointerId)) return;
  viewport.set(shareOf(event, $("overview")) * viewport.length - viewport.span / 2);
}

// ---- The microphone --------------------------------------------------------------------------

async function record() {
  player.audio.pause();
  hide("problem");
  $("record").disabled = true;
  try {
    if (!settings) await ask();
    recorder = await openRecorder({ mostSeconds: settings.longest_seconds || Infinity, mostBytes: settings.largest_bytes, onLevel: level, onEnd: (why) => stop(why) });
  } catch (error) {
    return failed(error, record);
  } finally {
    $("record").disabled = false;
  }
  under?.abort();
  hide("busy", "intake");
  show("recorder");
  drawing = drawLive($("live"), recorder.analyser);
  write("left", `at most ${clock(recorder.mostSeconds)}`);
  write("hint", recorder.filtered ? "This browser filters the microphone for speech; birds may be lost in that." : "");
  say("Recording.");
  $("stop").focus();
}

function level({ seconds, level: decibels, dead }) {
  write("elapsed", clock(seconds));
  write("decibels", decibels > -60 ? `${decibels.toFixed(0)} dBFS`.replace("-", "−") : "below −60 dBFS");
  const share = (decibels + 60) / 60;
  $("meter").firstElementChild.style.width = `${100 * share}%`;
  $("meter").classList.toggle("loud", decibels > -1);
  $("meter").setAttribute("aria-valuenow", decibels.toFixed(0));
  $("meter").setAttribute("aria-valuetext", `${decibels.toFixed(0)} decibels below full scale`.replace("-", ""));
  if (dead) write("hint", "Nothing comes from the microphone. Is it muted?");
  else if (decibels > -1) write("hint", "Too loud: the sound is cut at its peaks. Move away or turn the microphone down.");
  else if ($("hint").textContent.startsWith("Nothing")) write("hint", "");
}

async function stop(why) {
  const mine = recorder;
  if (!mine) return;
  recorder = null;
  drawing();
  const made = await mine.stop();
  show("intake");
  hide("recorder");
  if (made.size <= 44) return failed(new Failure("Nothing was recorded", "The microphone gave no sound. Is another program holding it?", { again: true }), record);
  const note = { full: "The recording was ended at the length that the server takes.", gone: "The microphone was taken away; this is what came before." }[why];
  take(made, { note, recorded: true });
}

function discard() {
  recorder?.discard();
  recorder = null;
  drawing();
  hide("recorder");
  show("intake");
  say("Discarded.");
  $("record").focus();
}

// ---- All together ----------------------------------------------------------------------------

function save(text, ending, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: file.name.replace(/\.[^.]*$/, "") + ending }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function dropped(event) {
  document.body.classList.remove("over");
  event.preventDefault();
  if (recorder) return;
  const files = [...(event.dataTransfer?.files || [])];
  if (!files.length) return failed(new Failure("That is no file", "Drop a recording from this device: WAV, FLAC, OGG or MP3."));
  take(files[0], { note: files.length > 1 ? `One recording at a time: the first of ${files.length} was taken. For many: python pipeline.py predict.` : "" });
}

const on = (id, events) => { for (const [name, action] of Object.entries(events)) $(id).addEventListener(name, action, name === "wheel" ? { passive: false } : undefined); };

on("choose", { click: () => $("file").click() });
on("file", { change: () => { const [chosen] = $("file").files; $("file").value = ""; if (chosen) take(chosen); } });
on("record", { click: record });
on("stop", { click: () => stop("") });
on("discard", { click: discard });
on("cancel", { click: () => under?.abort() });
on("play", { click: () => { player.toggle(); viewport.reveal(position()); } });
on("in", { click: () => viewport.zoom(0.5, viewport.across(position()) >= 0 && viewport.across(position()) <= 1 ? position() : undefined) });
on("out", { click: () => viewport.zoom(2) });
on("whole", { click: () => viewport.set(0, viewport.length) });
on("plot", { keydown: keys, pointerdown: down, pointermove: drag, pointerup: up, pointercancel: up, wheel });
on("overview", { pointerdown: jump, pointermove: jump });
on("csv", { click: () => save(csv(answer, file.name), ".csv", "text/csv") });
on("raven", { click: () => save(raven(answer, file.name), ".selections.txt", "text/plain") });
on("find", { input: filterScores });
player.addEventListener("moved", moved);
player.addEventListener("refused", ({ detail }) => failed(new Failure("It cannot be played", `The browser says: ${detail}`)));
viewport.addEventListener("change", () => {
  const share = viewport.across(position());
  followed = share >= 0 && share <= 1; // who looks elsewhere while it plays is left there
  moved();
  $("in").disabled = viewport.span <= 1;
  $("out").disabled = $("whole").disabled = viewport.whole;
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.toggle("over", !recorder); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", dropped);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("busy").hidden) $("cancel").click();
  else if (event.key === " " && event.target === document.body && !$("result").hidden) { event.preventDefault(); $("play").click(); }
});
addEventListener("beforeunload", (event) => { if (recorder) event.preventDefault(); });
addEventListener("online", () => ask().catch(() => {}));
ask().catch(() => {});
