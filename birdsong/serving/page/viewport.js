// Which part of a recording is shown, in seconds; whoever draws it listens for changes.

const LEAST = 1;

export class Viewport extends EventTarget {
  length = 0;
  start = 0;
  span = 1;

  reset(length, span = length > 90 ? 60 : length) { this.length = length; this.set(0, span); }

  set(start, span = this.span) {
    this.span = Math.min(this.length, Math.max(Math.min(LEAST, this.length), span));
    this.start = Math.max(0, Math.min(this.length - this.span, start));
    this.dispatchEvent(new Event("change"));
  }

  get end() { return this.start + this.span; }
  get whole() { return this.span >= this.length; }

  // Share of the width at which a moment lies.
  across(seconds) { return (seconds - this.start) / this.span; }
  at(share) { return this.start + share * this.span; }

  zoom(factor, around = this.start + this.span / 2) {
    const share = this.across(around), span = Math.min(this.length, Math.max(LEAST, this.span * factor));
    this.set(around - share * span, span);
  }

  // Turn the page where a moment is not shown.
  reveal(seconds, to = seconds) {
    if (seconds < this.start || to > this.end) this.set(seconds - (to - seconds < this.span / 2 ? this.span * 0.1 : 0));
  }
}
