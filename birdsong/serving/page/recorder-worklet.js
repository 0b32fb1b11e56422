// Hands the microphone's samples to the page, some 20 ms at a time.
class Taker extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(1024);
    this.count = 0;
    this.port.onmessage = () => { this.send(); this.port.postMessage(null); };
  }

  send() {
    if (this.count) this.port.postMessage(this.held.slice(0, this.count));
    this.count = 0;
  }

  process([[samples]]) {
    if (samples) {
      if (this.count + samples.length > this.held.length) this.send();
      this.held.set(samples, this.count);
      this.count += samples.length;
    }
    return true;
  }
}

registerProcessor("taker", Taker);
