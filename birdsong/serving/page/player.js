// Plays the recording: from here, or one moment of it; tells where it is.

export class Player extends EventTarget {
  constructor() {
    super();
    this.audio = new Audio();
    this.audio.preload = "auto";
    this.until = null;
    this.usable = false;
    for (const name of ["play", "pause", "seeked", "timeupdate"]) // the last one for tabs in the background
       this.audio.addEventListener(name, () => this.tell());
    this.audio.addEventListener("ended", () => { this.until = null; this.tell(); });
  }

  load(file) {
    this.audio.pause();
    if (this.audio.src) URL.revokeObjectURL(this.audio.src);
    this.until = null;
    this.usable = false;
    this.audio.src = URL.createObjectURL(file);
  }

  get position() { return this.audio.currentTime; }
  get playing() { return !this.audio.paused; }

  seek(seconds) { this.until = null; this.audio.currentTime = Math.max(0, seconds); this.tell(); }

  toggle() {
    this.until = null;
    if (this.playing) this.audio.pause(); else this.start();
  }

  hear(start, end) {
    this.audio.currentTime = start;
    this.until = end;
    this.start();
  }

  start() { this.audio.play().catch((error) => { if (error.name !== "AbortError") this.dispatchEvent(new CustomEvent("refused", { detail: error.message })); }); }

  tell() {
    cancelAnimationFrame(this.frame);
    if (this.playing && this.until !== null && this.position >= this.until) { this.audio.pause(); this.audio.currentTime = this.until; this.until = null; }
    this.dispatchEvent(new Event("moved"));
    if (this.playing) this.frame = requestAnimationFrame(() => this.tell());
  }
}
