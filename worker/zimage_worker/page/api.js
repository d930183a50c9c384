// The same API that every other client uses.

import { Lost, Refused } from './errors.js';
import { events } from './sse.js';

const PARTIAL_IMAGES = 2;

/** JSON with the seeds as text: they have up to 63 bits, and a JavaScript number holds 53. */
export function parsed(text) {
  return JSON.parse(text.replace(/("seed":\s*)(\d+)/g, '$1"$2"'));
}

/** An order as JSON, its seed's digits untouched. */
export function written({ seed, ...order }) {
  const text = JSON.stringify(order);
  return seed ? `{"seed":${BigInt(seed)},${text.slice(1)}` : text;
}

export class Api {
  constructor(credentials) {
    this.credentials = credentials;
  }

  /** What one request may ask for. Also the question whether we are signed in. */
  async limits() {
    const answer = await this.#send('/v1/models', {});
    return (await answer.json()).data[0].limits;
  }

  /** A token for a name and a password (OAuth2's password form). */
  async token(username, password) {
    const body = new URLSearchParams({ grant_type: 'password', username, password });
    const answer = await sent('/token', { method: 'POST', body, credentials: 'omit' });
    return (await answer.json()).access_token;
  }

  /** Order pictures; gives { name, content } for each event. Aborting `signal` frees the GPU. */
  async *generate(order, signal) {
    const answer = await this.#send('/v1/images/generations', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'text/event-stream, application/json' },
      body: written({ ...order, stream: true, partial_images: PARTIAL_IMAGES, progress: true }),
      signal,
    });
    const requestId = answer.headers.get('X-Request-Id') ?? '';
    let finished = 0;
    for await (const { name, data } of events(answer.body)) {
      const content = parsed(data);
      if (name === 'error') throw new Refused({ status: 500, ...content.error, requestId });
      if (name === 'image_generation.completed') finished += 1;
      yield { name, content };
    }
    if (finished < order.n) throw new Lost();
  }

  #send(path, options) {
    const { headers, mode } = this.credentials;
    return sent(path, { ...options, headers: { ...options.headers, ...headers }, credentials: mode });
  }
}

/** fetch, with everything but success thrown as Refused or Lost. */
async function sent(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: 'no-store', redirect: 'error', ...options });
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Lost();
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const facts = {
    status: answer.status,
    retrySeconds: Number.parseInt(answer.headers.get('Retry-After') ?? '', 10) || 0,
    requestId: answer.headers.get('X-Request-Id') ?? '',
  };
  try {
    const { error, error_description: message } = await answer.json();
    return new Refused(typeof error === 'string' ? { ...facts, code: error, message } : { ...error, ...facts });
  } catch {
    // A proxy's own page.
    return new Refused(facts);
  }
}
