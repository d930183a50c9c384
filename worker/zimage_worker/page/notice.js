// What went wrong, below the button that it concerns; and the button's countdown where waiting helps.

import { explained } from './errors.js';

const at = (id) => document.getElementById(id);
const WAIT_MAX_SECONDS = 3600;

/** Spoken by a screen reader when it has time; seen by nobody. */
export function announce(text) {
  at('says').textContent = '';
  // Two equal sentences in a row are spoken twice only when the text has changed in between.
  requestAnimationFrame(() => {
    at('says').textContent = text;
  });
}

export class Notice {
  #timer = null;

  constructor(place, button) {
    this.place = at(place);
    this.button = at(button);
    this.label = this.button.textContent;
  }

  /** Whether the server has asked us to wait, and the wait is not over. */
  get waiting() {
    return this.#timer !== null;
  }

  /** Say what an error means; the explanation is given back for what else follows. */
  show(error) {
    const why = explained(error);
    if (!why.field) this.tell(why.retrySeconds ? `${why.text} Try again in ${duration(why.retrySeconds)}.` : why.text);
    if (why.retrySeconds) this.#countDown(Math.min(why.retrySeconds, WAIT_MAX_SECONDS));
    return why;
  }

  tell(text) {
    this.place.textContent = text;
  }

  clear() {
    this.place.textContent = '';
  }

  // The button counts and not the notice: an alert that changes each second would be read out each second.
  #countDown(seconds) {
    clearInterval(this.#timer);
    const until = Date.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      if (left > 0) this.button.textContent = `Try again in ${left} s`;
      else this.#over();
    };
    // Not `disabled`: that would take the focus away from who waits on the button.
    this.button.setAttribute('aria-disabled', 'true');
    this.#timer = setInterval(tick, 250);
    tick();
  }

  #over() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.button.removeAttribute('aria-disabled');
    this.button.textContent = this.label;
    this.clear();
    announce('You can try again now.');
  }
}

function duration(seconds) {
  return seconds < 120 ? `${seconds} s` : `${Math.ceil(seconds / 60)} minutes`;
}
