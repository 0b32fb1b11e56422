// Computes pictures beside the page, so that it never stutters; the newest wish of a layer counts.
import { RATE, Spectra } from "./spectrum.js";
import { encodeWav } from "./wav.js";

const AT_ONCE = 64;
let spectra = null, working = false;
const wished = new Map();

onmessage = ({ data }) => {
  if (data.kind === "load") spectra = new Spectra(data.samples, data.rows);
  else if (data.kind === "wav") postMessage({ kind: "wav", file: encodeWav([spectra.samples], RATE) });
  else { wished.set(data.layer, data); if (!working) work(); }
};

async function work() {
  working = true;
  while (wished.size) {
    const [layer, job] = wished.entries().next().value;
    for (let first = 0; first < job.columns && wished.get(layer) === job; first += AT_ONCE) {
      const count = Math.min(AT_ONCE, job.columns - first);
      const levels = spectra.columns(job.start, job.end, job.columns, first, count);
      postMessage({ kind: "columns", number: job.number, layer, first, count, levels }, [levels.buffer]);
      await new Promise((resolve) => setTimeout(resolve));
    }
    if (wished.get(layer) === job) wished.delete(layer);
  }
  working = false;
}
