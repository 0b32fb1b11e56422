// Levels of a sound by time and frequency: windowed FFTs, gathered to rows on the mel scale.
// Mel scale of the HTK Book (Young et al., 2006): 2595 * log10(1 + f / 700).

export const RATE = 22050; // what the network hears: up to 11 kHz
export const LOW_HZ = 200, HIGH_HZ = RATE / 2;
const SIZE = 1024; // 46 ms
const PER_COLUMN = 4; // spectra that a wide column is looked at by; the loudest counts, so that no short call is lost

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (value) => 700 * (10 ** (value / 2595) - 1);

// Height of a frequency in the picture, 0 at its foot and 1 at its top.
export const height = (frequency) => (mel(frequency) - mel(LOW_HZ)) / (mel(HIGH_HZ) - mel(LOW_HZ));

export const frequencyAt = (share) => hertz(mel(LOW_HZ) + share * (mel(HIGH_HZ) - mel(LOW_HZ)));

export class Spectra {
  // Samples: mono at RATE, Float32Array.
  constructor(samples, rows) {
    this.samples = samples;
    this.rows = rows;
    this.window = Float64Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
    this.cosines = Float64Array.from({ length: SIZE / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
    this.sines = Float64Array.from({ length: SIZE / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));
    this.real = new Float64Array(SIZE);
    this.imaginary = new Float64Array(SIZE);
    this.power = new Float64Array(SIZE / 2 + 1);
    // Edges of the rows in bins; at the foot a row is narrower than a bin.
    this.edges = Float64Array.from({ length: rows + 1 }, (_, row) => (frequencyAt(row / rows) * SIZE) / RATE);
    [this.low, this.high] = this.range();
  }

  // Which level is the darkest and which the brightest: the sound's own noise and its loudest parts.
  range() {
    const levels = [], one = new Float64Array(this.rows), looks = 200;
    for (let look = 0; look < looks; look += 1) { this.at((this.samples.length * (look + 0.5)) / looks, one.fill(-Infinity)); levels.push(...one); }
    levels.sort((a, b) => a - b);
    const high = levels[Math.floor(0.998 * levels.length)], low = levels[Math.floor(0.5 * levels.length)];
    return [Math.min(Math.max(low, high - 70), high - 35), high];
  }

  // Raise `into` to the level of each row, in dB, around one sample.
  at(centre, into) {
    const { real, imaginary, power, edges, samples } = this, start = Math.round(centre) - SIZE / 2;
    for (let i = 0; i < SIZE; i += 1) real[i] = this.window[i] * (samples[start + i] || 0);
    imaginary.fill(0);
    this.transform();
    for (let bin = 0; bin < power.length; bin += 1) power[bin] = real[bin] ** 2 + imaginary[bin] ** 2;
    for (let row = 0; row < this.rows; row += 1) {
      const from = edges[row], to = edges[row + 1], first = Math.ceil(from), last = Math.floor(to);
      let most = 0;
      if (first > last) { const below = Math.floor((from + to) / 2), share = (from + to) / 2 - below; most = power[below] * (1 - share) + power[below + 1] * share; }
      else for (let bin = first; bin <= last; bin += 1) most = Math.max(most, power[bin]);
      into[row] = Math.max(into[row], 10 * Math.log10(most + 1e-12));
    }
  }

  // In-place radix-2 FFT (Cooley and Tukey, 1965).
  transform() {
    const { real, imaginary, cosines, sines } = this;
    for (let i = 1, j = 0; i < SIZE; i += 1) {
      let bit = SIZE >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) { const held = real[i]; real[i] = real[j]; real[j] = held; }
    }
    for (let length = 2; length <= SIZE; length <<= 1) {
      const half = length >> 1, step = SIZE / length;
      for (let start = 0; start < SIZE; start += length) {
        for (let k = 0, turn = 0; k < half; k += 1, turn += step) {
          const a = start + k, b = a + half, c = cosines[turn], s = sines[turn];
          const x = real[b] * c + imaginary[b] * s, y = imaginary[b] * c - real[b] * s;
          real[b] = real[a] - x; imaginary[b] = imaginary[a] - y;
          real[a] += x; imaginary[a] += y;
        }
      }
    }
  }

  // Columns `first` to `first + count` of a picture from `start` to `end` seconds: levels 0 to 255,
  // column by column, rows from the foot up.
  columns(start, end, columns, first, count) {
    const levels = new Uint8Array(count * this.rows), one = new Float64Array(this.rows);
    const width = ((end - start) * RATE) / columns, looks = Math.max(1, Math.min(PER_COLUMN, Math.round(width / (SIZE / 2))));
    for (let column = 0; column < count; column += 1) {
      one.fill(-Infinity);
      for (let look = 0; look < looks; look += 1) this.at(start * RATE + (first + column + (look + 0.5) / looks) * width, one);
      for (let row = 0; row < this.rows; row += 1) levels[column * this.rows + row] = 255 * Math.max(0, Math.min(1, (one[row] - this.low) / (this.high - this.low)));
    }
    return levels;
  }
}
