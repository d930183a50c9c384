// The composer: what is asked for, checked before it is sent.

import { presets, wrongSize } from './sizes.js';

const SEED_MAX = 2n ** 63n - 1n;
// What was written survives a reload; a prompt is nothing to keep on disk for longer than the tab.
const PLACE = 'zimage.draft';
const SVG = 'http://www.w3.org/2000/svg';

const at = (id) => document.getElementById(id);

export class Form {
  limits = null;

  constructor() {
    this.prompt = at('prompt');
    this.numbers = { steps: at('steps'), n: at('count') };
    this.seed = at('seed');
    this.custom = { width: at('width'), height: at('height') };
    at('composer').addEventListener('input', () => this.#changed());
  }

  /** Offer what the service serves. Called again after a sign-in; what was chosen stays. */
  offer(limits) {
    this.limits = limits;
    const first = at('size-choices').childElementCount === 0;
    if (first) this.#shapes(presets(limits));
    this.numbers.steps.max = limits.max_steps;
    this.numbers.n.max = limits.max_images;
    for (const side of Object.values(this.custom)) {
      Object.assign(side, { min: limits.side_step_px, max: limits.side_max_px, step: limits.side_step_px });
    }
    if (!first) return;
    this.numbers.steps.value = limits.steps_default;
    this.custom.width.value = this.custom.height.value = limits.side_default_px;
    this.fill(JSON.parse(sessionStorage.getItem(PLACE) ?? '{}'));
    this.#changed();
  }

  /** Put in what is given: prompt, width, height, steps, n, seed. */
  fill({ prompt, width, height, steps, n, seed }) {
    if (prompt !== undefined) this.prompt.value = prompt;
    if (steps) this.numbers.steps.value = steps;
    if (n) this.numbers.n.value = n;
    if (seed !== undefined) this.seed.value = seed;
    if (width) this.#choose(Number(width), Number(height));
    this.#changed();
  }

  /** The order, or null after showing what is wrong with it and going there. */
  order() {
    this.clear();
    const { width, height } = this.size;
    const wrong = Object.entries({
      prompt: this.#wrongPrompt(),
      size: wrongSize(width, height, this.limits),
      steps: wrongWhole(this.numbers.steps, this.limits.max_steps),
      n: wrongWhole(this.numbers.n, this.limits.max_images),
      seed: wrongSeed(this.seed.value.trim()),
    }).filter(([, text]) => text);
    for (const [field, text] of wrong.reverse()) this.refuse(field, text);
    return wrong.length ? null : this.#asked(width, height);
  }

  /** Show what is wrong with a field, and go there. */
  refuse(field, text) {
    at(`${field}-error`).textContent = text;
    const input = { prompt: this.prompt, seed: this.seed, ...this.numbers, size: this.#sizeInput() }[field];
    input.setAttribute('aria-invalid', 'true');
    input.focus();
  }

  clear() {
    for (const shown of document.querySelectorAll('#composer .wrong')) shown.textContent = '';
    for (const input of document.querySelectorAll('#composer [aria-invalid]')) input.removeAttribute('aria-invalid');
  }

  /** In pixels; NaN where nothing is written. */
  get size() {
    const chosen = document.querySelector('input[name="shape"]:checked');
    const [width, height] = chosen.value === 'custom'
      ? [this.custom.width.valueAsNumber, this.custom.height.valueAsNumber]
      : chosen.value.split('x').map(Number);
    return { width, height };
  }

  #asked(width, height) {
    const { steps, n } = this.numbers;
    return {
      prompt: this.prompt.value,
      size: `${width}x${height}`,
      steps: steps.valueAsNumber,
      n: n.valueAsNumber,
      seed: this.seed.value.trim(),
    };
  }

  #sizeInput() {
    return at('custom').hidden ? document.querySelector('input[name="shape"]:checked') : this.custom.width;
  }

  #wrongPrompt() {
    if (!this.prompt.value.trim()) return 'Describe the picture first.';
    const over = [...this.prompt.value].length - this.limits.max_prompt_characters;
    return over > 0 ? `The prompt is ${over} characters too long.` : '';
  }

  #choose(width, height) {
    const preset = document.querySelector(`input[name="shape"][value="${width}x${height}"]`);
    (preset ?? document.querySelector('input[name="shape"][value="custom"]')).checked = true;
    Object.assign(this.custom.width, { value: width });
    Object.assign(this.custom.height, { value: height });
  }

  #changed() {
    if (!this.limits) return;
    const { width, height } = this.size;
    at('custom').hidden = document.querySelector('input[name="shape"]:checked').value !== 'custom';
    at('size-hint').textContent = width && height ? `${width} × ${height} pixels` : '';
    const length = [...this.prompt.value].length, most = this.limits.max_prompt_characters;
    at('prompt-count').textContent = length > 0.8 * most ? `${length} of ${most} characters` : '';
    const draft = { ...this.#asked(width, height), width, height };
    sessionStorage.setItem(PLACE, JSON.stringify(draft));
  }

  #shapes(offered) {
    const choices = offered.map(({ name, width, height }) => choice(name, `${width}x${height}`, width / height));
    at('size-choices').replaceChildren(...choices, choice('Custom', 'custom', null));
    at('size-choices').querySelector('input').checked = true;
  }
}

/** A radio button with the shape drawn above its name. */
function choice(name, value, ratio) {
  const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'shape', value });
  const text = Object.assign(document.createElement('span'), { textContent: name });
  const label = document.createElement('label');
  label.append(input, drawn(ratio), text);
  return label;
}

/** A rectangle of the ratio; a dashed square where the ratio is free. */
function drawn(ratio) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const rect = document.createElementNS(SVG, 'rect');
  const width = ratio === null ? 15 : Math.min(20, 15 * Math.sqrt(ratio));
  const height = ratio === null ? 15 : width / ratio;
  const box = { x: 12 - width / 2, y: 12 - height / 2, width, height, rx: 2.5 };
  for (const [key, of] of Object.entries(box)) rect.setAttribute(key, of);
  if (ratio === null) rect.setAttribute('class', 'free');
  svg.append(rect);
  return svg;
}

function wrongWhole(input, most) {
  const value = input.valueAsNumber;
  return Number.isInteger(value) && value >= 1 && value <= most ? '' : `A whole number from 1 to ${most}.`;
}

function wrongSeed(text) {
  if (text === '') return '';
  return /^[0-9]{1,19}$/.test(text) && BigInt(text) <= SEED_MAX ? '' : `A whole number from 0 to ${SEED_MAX}, or nothing.`;
}
