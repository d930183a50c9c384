// The page's straight line: form → order → events → stage → gallery. Everything else is a part of its own.

import { Api } from './api.js';
import { Credentials } from './credentials.js';
import { Form } from './form.js';
import { Gallery } from './gallery.js';
import { Notice, announce } from './notice.js';
import { SignIn } from './sign-in.js';
import { Stage } from './stage.js';

// A screen reader hears of the steps, but not more often than this.
const SPOKEN_EVERY_MS = 10_000;

const at = (id) => document.getElementById(id);
const credentials = new Credentials(document.querySelector('meta[name="sign-in"]').content.split(' ').filter(Boolean));
const api = new Api(credentials);
const form = new Form();
const stage = new Stage();
const notice = new Notice('notice', 'generate');
const gallery = new Gallery((picture) => (picture ? stage.show(picture) : stage.empty()));
const signIn = new SignIn(api, entered);

let running = null;
let spoken = 0;

/** Signed in, and the service has said what it serves. */
function entered(limits) {
  form.offer(limits);
  notice.clear();
  at('sign-out').hidden = !credentials.ours;
}

/** Ask what is served; where we are not known, ask to sign in. */
async function ready() {
  if (!credentials.known) {
    signIn.open();
    return false;
  }
  try {
    entered(await api.limits());
    return true;
  } catch (error) {
    failed(error);
    return false;
  }
}

async function generate() {
  if (running || notice.waiting) return;
  notice.clear();
  if (!form.limits && !(await ready())) return;
  const order = form.order();
  if (!order) return;
  running = new AbortController();
  began(form.size);
  try {
    await follow(order, running.signal);
  } catch (error) {
    if (error.name === 'AbortError') announce('Cancelled.');
    else failed(error);
  } finally {
    running = null;
    ended();
  }
}

/** Show each event of an order as it comes. */
async function follow(order, signal) {
  const [width, height] = order.size.split('x').map(Number);
  for await (const { name, content } of api.generate(order, signal)) {
    if (name === 'zimage.queued') place(content.position);
    if (name === 'zimage.progress') step(content, order.n);
    if (name === 'image_generation.partial_image') stage.preview(image(content));
    if (name === 'image_generation.completed') {
      const { seed, steps } = content;
      gallery.choose(gallery.add({ blob: image(content), prompt: order.prompt, seed, width, height, steps }));
      announce(`${order.n > 1 ? `Picture ${content.image + 1} of ${order.n}` : 'The picture'} is ready. Seed ${seed}.`);
    }
  }
}

function image({ b64_json: text, output_format: format }) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
}

/** 1 is next, 0 has the GPU. */
function place(position) {
  const text = ['Starting …', 'Waiting: you are next', `Waiting: ${position - 1} ahead of you`][Math.min(position, 2)];
  stage.say(text);
  announce(text);
}

function step({ step: done, steps, image: number }, count) {
  const text = count > 1 ? `Step ${done} of ${steps} · picture ${number + 1} of ${count}` : `Step ${done} of ${steps}`;
  stage.say(text);
  stage.progress(number * steps + done, steps * count);
  document.title = `${Math.floor((100 * (number * steps + done)) / (steps * count))} % · Z-Image`;
  if (Date.now() - spoken < SPOKEN_EVERY_MS) return;
  spoken = Date.now();
  announce(text);
}

function began(size) {
  spoken = Date.now();
  stage.begin(size);
  stage.say('Sending …');
  swap('generate', 'cancel');
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  at('frame').scrollIntoView({ block: 'nearest', behavior: calm ? 'auto' : 'smooth' });
}

function ended() {
  stage.end();
  gallery.choose(gallery.chosen);
  swap('cancel', 'generate');
  document.title = 'Z-Image';
}

/** One button in the place of the other; the focus goes along if it was there. */
function swap(from, to) {
  const focused = document.activeElement === at(from);
  at(to).hidden = false;
  if (focused) at(to).focus();
  at(from).hidden = true;
}

function failed(error) {
  const why = notice.show(error);
  if (why.field) form.refuse(why.field, why.text);
  if (!why.signIn) return;
  if (credentials.ways.length === 0) {
    notice.tell(`${why.text} Reload the page to sign in.`);
    return;
  }
  notice.clear();
  credentials.forget();
  signIn.open(why.text);
}

function signOut() {
  running?.abort();
  credentials.forget();
  gallery.clear();
  form.fill({ prompt: '', seed: '' });
  signIn.open('You are signed out.');
}

function listen() {
  at('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    generate();
  });
  at('prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) generate();
  });
  at('cancel').addEventListener('click', () => running?.abort());
  at('use-seed').addEventListener('click', () => {
    form.fill({ seed: gallery.chosen.seed });
    announce(`The next picture uses seed ${gallery.chosen.seed}.`);
  });
  at('use-all').addEventListener('click', () => {
    form.fill({ ...gallery.chosen, n: 1 });
    announce('Prompt, size, steps and seed of this picture are in the form.');
    at('prompt').focus();
  });
  at('sign-out').addEventListener('click', signOut);
  addEventListener('offline', () => notice.tell('There is no network at the moment. Nothing is lost.'));
  addEventListener('online', () => {
    notice.clear();
    if (!form.limits) ready();
  });
}

if (/Mac|iPhone|iPad/.test(navigator.platform)) at('keys').firstElementChild.textContent = '⌘';
listen();
await gallery.restore();
await ready();
