// The microphone as it is. Browsers tune it for speech: echo cancellation, noise suppression and
// automatic gain take bird song for noise and make its level wander, so all three are off. Samples are
// captured and sent as 16-bit WAV instead of MediaRecorder's output, which is lossy (Opus or AAC), in
// a container that differs from browser to browser and that most audio libraries do not read.
import { Failure } from "./backend.js";
import { encodeWav } from "./wav.js";

const PROCESSING = ["echoCancellation", "noiseSuppression", "autoGainControl"];

const STARTS_MS = 8000;

const REFUSED = {
  NotAllowedError: ["The microphone was refused", "Allow it in the browser's settings of this page (the sign beside the address), then record again. Or choose a file."],
  NotFoundError: ["There is no microphone", "This device has none, or it is switched off. Connect one and record again, or choose a file."],
  NotReadableError: ["The microphone cannot be used", "Another program may hold it. Close that one and record again."],
};

export async function openRecorder({ mostSeconds, mostBytes, onLevel, onEnd }) {
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    throw new Failure("There is no microphone here", window.isSecureContext ? "This browser cannot record. Choose a file instead." : "Browsers give the microphone only to pages under https or on localhost. Choose a file instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, ...Object.fromEntries(PROCESSING.map((name) => [name, false])) } });
  } catch (error) {
    const [title, detail] = REFUSED[error.name] || ["The microphone cannot be used", `The browser says: ${error.message || error.name}. Choose a file instead.`];
    throw new Failure(title, detail, { code: error.name });
  }
  const context = new AudioContext(), [track] = stream.getAudioTracks(), chunks = [];
  let taken = 0, sounded = false, ended = false;
  // A phone that falls asleep would end the recording; where it may not be kept awake, so be it.
  const awake = navigator.wakeLock?.request("screen").catch(() => null);
  const close = () => { ended = true; track.onended = null; track.stop(); context.close(); awake?.then((lock) => lock?.release()); };
  try {
    await context.audioWorklet.addModule("recorder-worklet.js");
    // Without a sound device some browsers wait for one for ever.
    await Promise.race([context.resume(), new Promise((_, reject) => setTimeout(() => reject(new Error("no sound device starts")), STARTS_MS))]);
  } catch (error) {
    close();
    throw new Failure("The microphone cannot be used", `The browser says: ${error.message}. Choose a file instead.`);
  }
  const most = Math.min(mostSeconds * context.sampleRate, (mostBytes - 44) / 2);
  const taker = new AudioWorkletNode(context, "taker", { channelCount: 1, channelCountMode: "explicit" });
  const source = context.createMediaStreamSource(stream), analyser = context.createAnalyser();
  source.connect(analyser);
  source.connect(taker).connect(context.destination); // it gives silence, but is asked for it
  let flushed;
  taker.port.onmessage = ({ data }) => {
    if (data === null) return flushed?.();
    if (ended || taken >= most) return;
    chunks.push(data.subarray(0, most - taken));
    taken += data.length;
    let peak = 0;
    for (const sample of data) peak = Math.max(peak, Math.abs(sample));
    sounded ||= peak > 0;
    onLevel({ seconds: taken / context.sampleRate, level: peak > 0 ? Math.max(-60, 20 * Math.log10(peak)) : -60, dead: !sounded && taken > 2 * context.sampleRate });
    if (taken >= most) onEnd("full");
  };
  track.onended = () => onEnd("gone");
  const now = track.getSettings?.() || {};
  return {
    // Some phones filter whatever a page asks for.
    filtered: PROCESSING.some((name) => now[name] === true),
    mostSeconds: most / context.sampleRate,
    analyser,
    discard: close,
    async stop() {
      await Promise.race([new Promise((resolve) => { flushed = resolve; taker.port.postMessage(null); }), new Promise((resolve) => setTimeout(resolve, 300))]);
      close();
      const at = new Date(), two = (value) => String(value).padStart(2, "0");
      const name = `recording ${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}.${two(at.getMinutes())}.${two(at.getSeconds())}.wav`;
      return new File([encodeWav(chunks, context.sampleRate)], name, { type: "audio/wav" });
    },
  };
}
