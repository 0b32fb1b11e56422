// What the microphone hears, as a picture that moves while it is recorded.
import { colours, sized } from "./spectrogram.js";
import { frequencyAt } from "./spectrum.js";

const PIXELS_PER_SECOND = 80, QUIET_DB = -105, LOUD_DB = -35;
const still = matchMedia("(prefers-reduced-motion: reduce)");

// Draws until the returned function is called; nothing for whoever wants no motion.
export function drawLive(canvas, analyser) {
  canvas.hidden = still.matches;
  if (still.matches) return () => {};
  Object.assign(analyser, { fftSize: 2048, smoothingTimeConstant: 0, minDecibels: QUIET_DB, maxDecibels: LOUD_DB });
  const palette = colours(), levels = new Uint8Array(analyser.frequencyBinCount), [context, width, high] = sized(canvas);
  const bins = Array.from({ length: high }, (_, y) => Math.min(levels.length - 1, Math.round((frequencyAt(1 - (y + 0.5) / high) * analyser.fftSize) / analyser.context.sampleRate)));
  const column = new ImageData(1, high), pixels = new Uint32Array(column.data.buffer);
  pixels.fill(palette[0]);
  for (let x = 0; x < width; x += 1) context.putImageData(column, x, 0);
  let drawn = performance.now(), frame = requestAnimationFrame(draw);

  function draw(now) {
    frame = requestAnimationFrame(draw);
    const wide = Math.floor(((now - drawn) / 1000) * PIXELS_PER_SECOND * devicePixelRatio);
    if (wide < 1) return;
    drawn = now;
    analyser.getByteFrequencyData(levels);
    for (let y = 0; y < high; y += 1) pixels[y] = palette[levels[bins[y]]];
    context.drawImage(canvas, -wide, 0);
    for (let x = Math.max(0, width - wide); x < width; x += 1) context.putImageData(column, x, 0);
  }

  return () => cancelAnimationFrame(frame);
}
