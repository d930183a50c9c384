// Server-Sent Events read by fetch: EventSource can neither POST nor be given a header.

import { Lost } from './errors.js';

// The server gives a sign of life every 15 s; three of them missing, and the line is dead.
const SILENCE_MS = 45_000;

/** Cuts text into events; a chunk may end anywhere. Comments are left out. */
export class Parser {
  #line = [];
  #name = '';
  #data = [];

  /** The events that this chunk completes. Each piece is looked at once: a picture is megabytes in one line. */
  *push(chunk) {
    const pieces = chunk.split('\n');
    for (const [index, piece] of pieces.entries()) {
      this.#line.push(piece);
      if (index === pieces.length - 1) return;
      yield* this.#ended(this.#line.join('').replace(/\r$/, ''));
      this.#line = [];
    }
  }

  *#ended(line) {
    if (line === '') {
      if (this.#data.length) yield { name: this.#name || 'message', data: this.#data.join('\n') };
      this.#name = '';
      this.#data = [];
      return;
    }
    const colon = line.indexOf(':');
    const [field, value] = colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
    if (field === 'event') this.#name = value;
    if (field === 'data') this.#data.push(value);
  }
}

/** All events of a body, to its end. Throws Lost when the line breaks or falls silent. */
export async function* events(body, silenceMs = SILENCE_MS) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new Parser();
  try {
    for (;;) {
      const { value, done } = await within(reader.read(), silenceMs);
      if (done) return;
      yield* parser.push(value);
    }
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Lost();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What `promise` gives, or Lost after so many milliseconds. */
async function within(promise, milliseconds) {
  let timer;
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Lost()), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
