// Signing in on the page itself: with a name and a password for a token, with a token, or by the browser's dialog.

import { Refused } from './errors.js';
import { Notice } from './notice.js';

const at = (id) => document.getElementById(id);

export class SignIn {
  /** `signedIn` is called with the limits: that the service tells them is the proof. */
  constructor(api, signedIn) {
    this.api = api;
    this.credentials = api.credentials;
    this.signedIn = signedIn;
    this.dialog = at('sign-in');
    this.notices = {
      password: new Notice('sign-in-notice', 'password-submit'),
      token: new Notice('sign-in-notice', 'token-submit'),
      browser: new Notice('sign-in-notice', 'browser-way'),
    };
    this.#offer(new Set(this.credentials.ways));
    at('open-sign-in').addEventListener('click', () => this.open());
    // Esc: behind the dialog there is nothing that could be done without signing in.
    this.dialog.addEventListener('cancel', (event) => event.preventDefault());
    this.dialog.addEventListener('close', () => this.#mark());
  }

  open(why = '') {
    at('sign-in-why').textContent = why;
    this.#mark();
    if (!this.dialog.open) this.dialog.showModal();
  }

  #mark() {
    at('open-sign-in').hidden = this.credentials.known;
    at('sign-out').hidden = !this.credentials.ours;
  }

  #offer(ways) {
    at('password-form').hidden = !ways.has('password');
    at('browser-way').hidden = !ways.has('browser');
    at('token-way').hidden = !ways.has('token');
    at('token-way').open = ways.size === 1;
    this.#on(at('password-form'), 'submit', 'password', async () => {
      this.credentials.useToken(await this.api.token(at('user').value, at('password').value));
    });
    this.#on(at('token-form'), 'submit', 'token', () => this.credentials.useToken(at('token').value.trim()));
    this.#on(at('browser-way'), 'click', 'browser', () => this.credentials.useBrowser());
  }

  #on(element, event, way, use) {
    element.addEventListener(event, async (happened) => {
      happened.preventDefault();
      const notice = this.notices[way];
      if (notice.waiting) return;
      notice.clear();
      try {
        await use();
        this.#enter(await this.api.limits());
      } catch (error) {
        this.credentials.forget();
        notice.show(error instanceof Refused && error.status === 401 ? new Refused({ code: `wrong_${way}` }) : error);
      }
    });
  }

  #enter(limits) {
    at('password').value = at('token').value = '';
    this.dialog.close();
    this.#mark();
    this.signedIn(limits);
  }
}
