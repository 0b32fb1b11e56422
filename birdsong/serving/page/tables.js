// Detections as the tables that `python pipeline.py predict` writes (birdsong/detections.py).

const COLUMNS = ["file", "start_seconds", "end_seconds", "code", "common_name", "scientific_name", "score", "probability", "threshold", "window_start_seconds", "window_end_seconds"];
const RAVEN = ["Selection", "View", "Channel", "Begin Path", "File Offset (s)", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Species Code", "Common Name", "Score", "Probability"];
const FRAME_SECONDS = 5;

const rounded = (value, digits) => Number(value.toFixed(digits));

// A row for each species in each window: the frame with the score, and the window that decided.
export function rows(answer, file) {
  return answer.windows.flatMap((window) => window.detections.map((one) => {
    const end = window.start_seconds + window.seconds;
    return {
      file, start_seconds: one.frame_start_seconds, end_seconds: rounded(Math.min(one.frame_start_seconds + FRAME_SECONDS, end), 3),
      code: one.code, common_name: one.common_name, scientific_name: one.scientific_name,
      score: rounded(one.score, 6), probability: rounded(one.probability, 6), threshold: one.threshold,
      window_start_seconds: window.start_seconds, window_end_seconds: rounded(end, 3),
    };
  }));
}

const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

export function csv(answer, file) {
  return [COLUMNS, ...rows(answer, file).map((row) => COLUMNS.map((name) => row[name]))].map((cells) => `${cells.map(quoted).join(",")}\n`).join("");
}

// A cell of a table with tabs, without what would end it.
const plain = (value) => (typeof value === "string" ? value.split(/\s+/).filter(Boolean).join(" ") : String(value));

export function raven(answer, file) {
  const cells = rows(answer, file).map((row, number) => [number + 1, "Spectrogram 1", 1, row.file, row.start_seconds, row.start_seconds, row.end_seconds, 0, answer.highest_hz ?? 11025, row.code, row.common_name, row.score, row.probability]);
  return [RAVEN, ...cells].map((line) => `${line.map(plain).join("\t")}\n`).join("");
}
