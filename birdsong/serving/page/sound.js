// From a file to samples for the picture. What the browser cannot decode, the server may still read.
import { RATE } from "./spectrum.js";

const MOST_SECONDS = 90 * 60; // decoded by the browser at once: 1 GB for stereo

export function durationOf(player) {
  return new Promise((resolve) => {
    const told = () => resolve(Number.isFinite(player.duration) ? player.duration : null);
    if (player.readyState >= 1) return told();
    player.addEventListener("loadedmetadata", told, { once: true });
    player.addEventListener("error", () => resolve(null), { once: true });
  });
}

// Mono samples at RATE, or a sentence that says why there are none.
export async function decode(file, seconds) {
  if (seconds > MOST_SECONDS) return { samples: null, why: "The recording is too long to be drawn in a browser; it is listened to all the same." };
  try {
    const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
    const samples = decoded.getChannelData(0).slice();
    for (let channel = 1; channel < decoded.numberOfChannels; channel += 1) decoded.getChannelData(channel).forEach((value, i) => { samples[i] += value; });
    if (decoded.numberOfChannels > 1) for (let i = 0; i < samples.length; i += 1) samples[i] /= decoded.numberOfChannels;
    return { samples, why: "" };
  } catch {
    return { samples: null, why: "This browser cannot decode the recording, so it is neither drawn nor played here." };
  }
}
