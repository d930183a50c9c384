// The session's pictures, newest first.

import * as store from './store.js';

const at = (id) => document.getElementById(id);

export class Gallery {
  #pictures = [];
  #chosen = null;

  /** `shown` is called with the picture that is chosen, or null when there is none any more. */
  constructor(shown) {
    this.shown = shown;
    at('clear').addEventListener('click', () => this.clear());
  }

  get chosen() {
    return this.#chosen;
  }

  /** What this tab had before it was reloaded. */
  async restore() {
    const kept = (await store.kept()).map((facts) => this.#put(facts));
    if (kept.length) this.choose(kept.at(-1));
  }

  /** A new picture: { blob, prompt, seed, width, height, steps }. It is kept, but not chosen. */
  add(facts) {
    store.keep(facts);
    return this.#put(facts);
  }

  choose(picture) {
    this.#chosen = picture;
    for (const { item } of this.#pictures) item.firstChild.setAttribute('aria-pressed', item === picture?.item);
    this.shown(picture);
  }

  clear() {
    for (const { url } of this.#pictures) URL.revokeObjectURL(url);
    this.#pictures = [];
    at('pictures').replaceChildren();
    at('gallery').hidden = true;
    store.clear();
    this.choose(null);
  }

  #put(facts) {
    const name = `z-image-${facts.seed}-${facts.width}x${facts.height}.png`;
    const picture = { ...facts, name, url: URL.createObjectURL(facts.blob) };
    picture.item = this.#item(picture);
    this.#pictures.unshift(picture);
    at('pictures').prepend(picture.item);
    at('gallery').hidden = false;
    return picture;
  }

  #item(picture) {
    const image = Object.assign(document.createElement('img'), { src: picture.url, alt: '', decoding: 'async' });
    const button = Object.assign(document.createElement('button'), { type: 'button' });
    button.setAttribute('aria-pressed', 'false');
    button.setAttribute('aria-label', `Show: ${picture.prompt.slice(0, 120)}, seed ${picture.seed}`);
    button.append(image);
    button.addEventListener('click', () => this.choose(picture));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }
}
