// Mono 16-bit WAV: lossless for what browsers capture, and every server reads it.

export function encodeWav(chunks, rate) {
  const count = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const data = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, value) => [...value].forEach((letter, i) => data.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); data.setUint32(4, 36 + 2 * count, true); text(8, "WAVEfmt ");
  data.setUint32(16, 16, true); data.setUint16(20, 1, true); data.setUint16(22, 1, true);
  data.setUint32(24, rate, true); data.setUint32(28, 2 * rate, true); data.setUint16(32, 2, true); data.setUint16(34, 16, true);
  text(36, "data"); data.setUint32(40, 2 * count, true);
  let at = 44;
  for (const chunk of chunks) for (const sample of chunk) { data.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true); at += 2; }
  return new Blob([data], { type: "audio/wav" });
}
