// What can go wrong, and how it is said: plain words, and what to do.

/** The server has refused, with a status or as the last event of a stream. */
export class Refused extends Error {
  constructor({ status = 0, message = '', code = '', param = null, retrySeconds = 0, requestId = '' }) {
    super(message);
    Object.assign(this, { status, code, param, retrySeconds, requestId });
  }
}

/** Nothing came, or it broke off: no server, no network, or a proxy that cut the line. */
export class Lost extends Error {}

// Fields of the form by the API's name for them.
const FIELDS = new Set(['prompt', 'size', 'steps', 'n', 'seed']);

const WORDS = {
  queue_full: 'All places are taken at the moment. Your prompt is kept.',
  rate_limit_exceeded: 'You have asked for a lot in a short time. Your prompt is kept.',
  temporarily_unavailable: 'Signing in is not possible at the moment.',
  not_ready: 'The model is still being loaded. Your prompt is kept.',
  draining: 'The service is just being restarted. Your prompt is kept.',
  out_of_memory: 'There is not enough graphics memory for this. Choose a smaller size or fewer pictures.',
  generation_failed: 'The picture could not be made. Try again, perhaps with other words or another seed.',
  request_timeout: 'It took longer than the service allows. Try fewer steps, fewer pictures or a smaller size.',
  body_too_large: 'That is more than the service takes. Shorten the prompt.',
  wrong_host: 'The service does not know itself by this address. Ask whoever runs it for the right one.',
  cross_site: 'The browser says that this was sent from another page. Open the service in a tab of its own.',
  invalid_grant: 'The name or the password is wrong.',
  wrong_password: 'The service gave a token and then did not accept it. Ask whoever runs it.',
  wrong_token: 'This token is not accepted: it may have run out, or be meant for another service.',
  wrong_browser: 'The name or the password is wrong.',
};

/** An error as { text, field, retrySeconds, signIn }: what is said, where, and what follows. */
export function explained(error) {
  if (error instanceof Lost) {
    return { text: 'The connection was lost. Nothing is gone: your prompt and your pictures are still here. Try again.' };
  }
  if (!(error instanceof Refused)) {
    return { text: 'Something went wrong in this page. Your pictures are still here; if it happens again, reload it.' };
  }
  if (error.status === 401) {
    return { text: 'You are not signed in any more. Your prompt and your pictures are kept.', signIn: true };
  }
  if (error.status === 400 && FIELDS.has(error.param)) {
    return { text: sentence(error.message.replace(`${error.param}: `, '')), field: error.param };
  }
  return { text: words(error), retrySeconds: error.retrySeconds };
}

function words(error) {
  const said = WORDS[error.code] ?? (error.status < 500 && error.message ? sentence(error.message) : serverFailed());
  // Where waiting helps there is nothing to report.
  const reported = error.status >= 500 && !error.retrySeconds && error.requestId;
  return reported ? `${said} If it stays so, report it with this number: ${error.requestId}` : said;
}

function serverFailed() {
  return 'The service failed. Your prompt is kept; try again in a moment.';
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
