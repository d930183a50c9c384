// The large picture: what is being made, or what was chosen.

const at = (id) => document.getElementById(id);

export class Stage {
  #preview = null;

  constructor() {
    this.frame = at('frame');
    this.picture = at('picture');
    this.bar = at('steps-done');
  }

  /** Nothing but the invitation. */
  empty() {
    this.#state('empty');
    at('ghost').hidden = true;
    this.picture.hidden = true;
    at('about').hidden = true;
  }

  /** From the order to the first preview: an empty sheet of the picture's size, in pixels. */
  begin({ width, height }) {
    this.#state('waiting');
    this.#shape(width, height);
    at('ghost').hidden = false;
    this.picture.hidden = true;
    at('about').hidden = true;
    this.progress(0, 1);
    this.bar.hidden = false;
    at('doing').hidden = false;
  }

  say(text) {
    at('doing').textContent = text;
  }

  progress(done, of) {
    this.bar.max = of;
    this.bar.value = done;
  }

  preview(blob) {
    this.#forgetPreview();
    this.#preview = URL.createObjectURL(blob);
    at('ghost').hidden = true;
    this.picture.src = this.#preview;
    this.picture.alt = 'Preview, not finished yet';
    this.picture.hidden = false;
    at('about').hidden = true;
    this.#state('preview');
  }

  /** The work is over, with or without a picture to show. */
  end() {
    this.bar.hidden = true;
    at('doing').hidden = true;
    at('doing').textContent = '';
    this.#forgetPreview();
  }

  /** A finished picture and how it was made. */
  show({ url, prompt, seed, width, height, steps, name }) {
    at('ghost').hidden = true;
    this.#shape(width, height);
    this.picture.src = url;
    this.picture.alt = `Picture made from: ${prompt}`;
    this.picture.hidden = false;
    this.#state('shown');
    at('about-prompt').textContent = prompt;
    at('about-numbers').textContent = `${width} × ${height} · ${steps} ${steps === 1 ? 'step' : 'steps'} · seed ${seed}`;
    Object.assign(at('download'), { href: url, download: name });
    at('about').hidden = false;
  }

  #shape(width, height) {
    this.frame.style.setProperty('--w', width);
    this.frame.style.setProperty('--h', height);
  }

  #state(name) {
    this.frame.dataset.state = name;
  }

  #forgetPreview() {
    if (this.#preview) URL.revokeObjectURL(this.#preview);
    this.#preview = null;
  }
}
