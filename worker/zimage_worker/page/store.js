// Keeps the session's pictures over a reload: in IndexedDB, because sessionStorage ends at 5 MB.
//
// Encrypted, with a key in sessionStorage: when the tab is closed the key is gone, and what is left on the
// disk is noise, which the next visit sweeps. Where the browser gives no cryptography (plain HTTP) or no
// database (private windows), the pictures live in memory alone. Why: docs/decisions/0151-pictures-of-a-session.md.

const PLACE = 'zimage.session';
const STORE = 'pictures';

let opened = open();

/** Nothing of this may stop a picture from being shown: what fails here is only not kept. */
async function attempt(work, otherwise) {
  try {
    const session = await opened;
    return session ? await work(session) : otherwise;
  } catch {
    return otherwise;
  }
}

/** Remember a picture: its facts and its blob. */
export function keep({ blob, ...facts }) {
  return attempt(async ({ database, id, key }) => {
    const iv = crypto.getRandomValues(new Uint8Array(12));
    const head = new TextEncoder().encode(JSON.stringify({ ...facts, type: blob.type }));
    const plain = await new Blob([new Uint32Array([head.length]), head, blob]).arrayBuffer();
    const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, key, plain);
    await done(pictures(database, 'readwrite').add({ session: id, iv, sealed }));
  });
}

/** This tab's pictures, oldest first. */
export function kept() {
  return attempt(async ({ database, id, key }) => {
    const rows = await done(pictures(database, 'readonly').index('session').getAll(id));
    return Promise.all(rows.map((row) => read(row, key)));
  }, []);
}

/** Forget this tab's pictures. The key goes first and at once: a reload must not bring back what is still being removed. */
export async function clear() {
  sessionStorage.removeItem(PLACE);
  const before = opened;
  opened = open();
  const old = await before;
  if (old) await removed(old.database, (session) => session === old.id).catch(() => {});
}

async function read({ iv, sealed }, key) {
  const plain = await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, key, sealed);
  const [length] = new Uint32Array(plain, 0, 1);
  const { type, ...facts } = JSON.parse(new TextDecoder().decode(new Uint8Array(plain, 4, length)));
  return { ...facts, blob: new Blob([new Uint8Array(plain, 4 + length)], { type }) };
}

/** The database and this tab's id and key; null where the browser has not got what it takes. */
async function open() {
  if (!globalThis.crypto?.subtle || !navigator.locks) return null;
  try {
    const { id, raw } = await session();
    const key = await crypto.subtle.importKey('raw', bytes(raw), 'AES-GCM', false, ['encrypt', 'decrypt']);
    const database = await connected();
    await sweep(database);
    return { database, id, key };
  } catch {
    return null;
  }
}

/** This tab's own. A duplicated tab has copied the other's, whose lock is held: it gets a new one. */
async function session() {
  const found = JSON.parse(sessionStorage.getItem(PLACE) ?? 'null');
  if (found && (await locked(found.id))) return found;
  const made = { id: crypto.randomUUID(), raw: hex(crypto.getRandomValues(new Uint8Array(32))) };
  await locked(made.id);
  sessionStorage.setItem(PLACE, JSON.stringify(made));
  return made;
}

/** Hold the lock of that name as long as this page lives; false where another tab holds it. */
function locked(id) {
  return new Promise((resolve) => {
    // The page before a reload may take a moment to let go.
    const signal = AbortSignal.timeout(1000);
    const held = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`${PLACE}.${id}`, { signal }, held).catch(() => resolve(false));
  });
}

/** Remove what belongs to tabs that are closed. */
async function sweep(database) {
  const { held } = await navigator.locks.query();
  const alive = new Set(held.map(({ name }) => name));
  await removed(database, (session) => !alive.has(`${PLACE}.${session}`));
}

/** By the index alone: the pictures themselves are not read. */
function removed(database, unwanted) {
  const store = pictures(database, 'readwrite');
  const request = store.index('session').openKeyCursor();
  return new Promise((resolve, reject) => {
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) {
        resolve();
        return;
      }
      if (unwanted(cursor.key)) store.delete(cursor.primaryKey);
      cursor.continue();
    };
  });
}

function connected() {
  const request = indexedDB.open('zimage', 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(STORE, { autoIncrement: true }).createIndex('session', 'session');
  };
  return done(request);
}

function pictures(database, mode) {
  return database.transaction(STORE, mode).objectStore(STORE);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function hex(array) {
  return [...array].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

function bytes(text) {
  return new Uint8Array(text.match(/../g).map((pair) => Number.parseInt(pair, 16)));
}
