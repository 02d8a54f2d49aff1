// The API as this page uses it: calls with the visitor's token, conditional writes followed to
// their outcome, and changes as they happen.

const STORED_TOKEN = 'kvstore-token';

/** The visitor's token and its access ({write, prefix}; null without a known token). */
export const session = {
  access: null,
  get token() { return sessionStorage.getItem(STORED_TOKEN); },
  set token(text) {
    if (text) sessionStorage.setItem(STORED_TOKEN, text);
    else sessionStorage.removeItem(STORED_TOKEN);
  },
  /** Called when the server no longer knows the token. */
  refused() {},
};

/** An error answer, or the lack of any answer (status 0). */
export class Problem extends Error {
  constructor(status, detail, body = {}) {
    super(detail);
    this.status = status;
    this.body = body;
  }
}

const DECODER = new TextDecoder('utf-8', { ignoreBOM: true });
const url = (path, query) => {
  const target = new URL(path, document.baseURI);
  target.hash = '';
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== '') target.searchParams.set(name, value);
  }
  return target;
};

function request(method, target, headers, body, signal) {
  const all = { ...headers };
  if (session.token) all.Authorization = `Bearer ${session.token}`;
  return fetch(target, { method, headers: all, body, signal, cache: 'no-store' });
}

async function problemOf(reply) {
  const text = await reply.text();
  let body = {};
  try { body = JSON.parse(text); } catch { /* Something on the way answered. */ }
  if (reply.status === 401) session.refused();
  const reasons = body.errors?.map(({ msg }) => msg).join('; ');
  return new Problem(reply.status, reasons || body.detail || `The server answered ${reply.status}`, body);
}

/** Sends a request; returns {status, headers, text} with the unchanged body. */
export async function call(method, path, { query, headers, body, signal } = {}) {
  let reply;
  let text;
  try {
    reply = await request(method, url(path, query), headers, body, signal);
    if (!reply.ok) throw await problemOf(reply);
    text = DECODER.decode(await reply.arrayBuffer());
  } catch (error) {
    if (error instanceof Problem || error.name === 'AbortError') throw error;
    throw new Problem(0, 'The server cannot be reached');
  }
  return { status: reply.status, headers: reply.headers, text };
}

/** Sends a request whose answer holds no stored values; returns the parsed answer. */
export const ask = async (method, path, options) => JSON.parse((await call(method, path, options)).text);

const pathOf = (key) => `v1/kv/${key.split('/').map(encodeURIComponent).join('/')}`;

/** Returns {key, text, etag, expiresAt} with the text as stored; null if the key is absent. */
export async function read(key, signal) {
  try {
    const { text, headers } = await call('GET', pathOf(key), { signal });
    const left = headers.get('X-TTL');
    // Computed from the remaining time, so that a wrong local clock does not matter.
    const expiresAt = left === null ? null : performance.now() + Number(left) * 1000;
    return { key, text, etag: headers.get('ETag'), expiresAt };
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** Creates an idempotency key, under which a write can be repeated without a second effect. */
export function newIdempotencyKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `"${Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('')}";window=600`;
}

/**
 * Writes `key`, or deletes it without a text, if it still has the version `etag` (null: if it is
 * absent). Returns true if that succeeded and false if the key has changed; calls `queued` if the
 * write takes longer.
 */
export async function write({ key, etag, text, ttl, idempotencyKey, queued }) {
  const headers = { 'Idempotency-Key': idempotencyKey, Prefer: 'wait=5', 'Content-Type': 'application/json' };
  if (etag === null) headers['If-None-Match'] = '*';
  else headers['If-Match'] = etag;
  const method = text === undefined ? 'DELETE' : 'PUT';
  try {
    const reply = await call(method, pathOf(key), { headers, body: text, query: { ttl } });
    if (reply.status !== 202) return true;
    queued();
    const job = JSON.parse(reply.text).job_id;
    for (;;) {
      const { status, error } = await ask('GET', `v1/jobs/${job}`, { query: { wait: 20 } });
      if (status === 'succeeded') return true;
      if (status !== 'queued') throw new Problem(error.type === '/problems/precondition-failed' ? 412 : 500, error.detail);
    }
  } catch (error) {
    if (error.status === 412) return false;
    throw error;
  }
}

/** Parses server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let event = { data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        yield { ...event, data: event.data.join('\n') };
        event = { data: [] };
        continue;
      }
      const at = line.indexOf(':');
      const text = line.slice(at + 1).replace(/^ /, '');
      if (at < 0) continue;
      const field = line.slice(0, at);
      if (field === 'data') event.data.push(text);
      else if (field) event[field] = text;
    }
  }
}

/**
 * Follows the changes under `prefix` until `signal` aborts, and reconnects automatically.
 * `place.since` holds the id to start after, and is kept up to date. Calls
 * `changed({kind, key, etag})` for each change, `state(text)` when the connection changes, and
 * `reset()` when changes may have been missed, so that everything must be read again.
 */
export async function follow({ prefix, place, signal, changed, state, reset }) {
  let pause = 2000;
  let isBehind = false;
  while (!signal.aborted) {
    try {
      const headers = { Accept: 'text/event-stream' };
      if (place.since) headers['Last-Event-ID'] = place.since;
      const reply = await request('GET', url('v1/watch', { prefix }), headers, undefined, signal);
      if (!reply.ok) throw await problemOf(reply);
      state('live');
      if (isBehind) reset();
      isBehind = false;
      for await (const { event, id, data, retry } of events(reply.body)) {
        if (id !== undefined) place.since = id;
        if (retry) pause = Number(retry) || pause;
        if (event === 'reset') reset();
        else if (data && event !== 'synced') changed({ kind: event, ...JSON.parse(data) });
      }
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
      if (error.status === 403) return state('off');
      if (error.status === 410) {
        // The changes after that id are no longer kept.
        place.since = undefined;
        isBehind = true;
        continue;
      }
    }
    if (signal.aborted) return;
    state('lost');
    await new Promise((resolve) => { setTimeout(resolve, pause); });
  }
}
