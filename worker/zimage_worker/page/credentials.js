// Who we are to the server: what the browser itself knows (Basic), or a token.

// In sessionStorage: a reload does not sign out, other tabs and later visits know nothing of it.
const PLACE = 'zimage.token';

export class Credentials {
  #token = sessionStorage.getItem(PLACE);

  /** `ways` as the server offers them; without any, the browser has asked before it showed the page. */
  constructor(ways) {
    this.ways = ways;
    this.browser = ways.length === 0;
  }

  get known() {
    return this.browser || this.#token !== null;
  }

  /** Whether signing out is ours to do: a browser forgets Basic credentials only when it ends. */
  get ours() {
    return this.#token !== null;
  }

  get headers() {
    return this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
  }

  /** fetch's word. `omit` beside a token, or the browser would open its own dialog over the page. */
  get mode() {
    return this.browser ? 'same-origin' : 'omit';
  }

  useToken(token) {
    this.#token = token;
    this.browser = false;
    sessionStorage.setItem(PLACE, token);
  }

  useBrowser() {
    this.forget();
    this.browser = true;
  }

  forget() {
    this.#token = null;
    this.browser = this.ways.length === 0;
    sessionStorage.removeItem(PLACE);
  }
}
