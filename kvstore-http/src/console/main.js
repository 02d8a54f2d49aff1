// The page as a whole: the visitor's token, the current view, and the changes passed to all views.

import { ask, follow, session } from './api.js';
import { makeChanges } from './changes.js';
import { byId, notice } from './dom.js';
import { makeEntry } from './entry.js';
import { makeJobs } from './jobs.js';
import { makeTree } from './tree.js';

/** Changes are applied together, so that a thousand a second do not draw a thousand times. */
const ENTER_MS = 100;
/** From this many at once, reading the view again is cheaper. */
const ENTERED_MAX = 5000;
const LIVE = { live: 'Live', lost: 'Reconnecting', off: 'No live changes' };

const go = (hash) => { location.hash = hash; };
const hashOf = (key) => `key=${encodeURIComponent(key)}`;

const tree = makeTree((key) => go(hashOf(key)));
const entry = makeEntry({ closed: () => { go('data'); byId('tree').focus(); }, saved: (key) => go(hashOf(key)) });
const changes = makeChanges();
const jobs = makeJobs();

// Views

let route;
async function navigate() {
  const hash = location.hash.slice(1);
  if (hash === route || !session.access) return;
  const [name, text] = [hash.split('=', 1)[0], hash.slice(hash.indexOf('=') + 1)];
  const key = name === 'key' ? decoded(text) : undefined;
  const view = name === 'changes' || name === 'jobs' ? name : 'data';
  const isNew = name === 'new';
  const isShown = isNew ? entry.isCreating : key !== undefined && key === entry.key;
  if (view === 'data' && !isShown && !await entry.mayLeave()) {
    history.replaceState(null, '', `#${route}`);
    return;
  }
  // Returning from another view reopens the last entry.
  const data = byId('to-data');
  if (view === 'data') data.hash = 'data';
  else if (!byId('data').hidden && route) data.hash = route;
  route = hash;
  for (const section of document.querySelectorAll('main > section')) section.hidden = section.id !== view;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.id === `to-${view}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  jobs.show(view === 'jobs');
  if (view !== 'data') return;
  byId('data').classList.toggle('one', isNew || key !== undefined);
  tree.choose(key);
  if (isShown) return;
  if (isNew) entry.create(tree.prefix);
  else if (key === undefined) entry.close();
  else entry.open(key);
  // A narrow window shows one pane at a time.
  if (!byId('tree').checkVisibility()) byId('entry').focus();
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// Changes

let following;
/** The position after which changes are still to be received. */
let place = {};
let pending = [];
let entering;

function enter() {
  entering = undefined;
  const all = pending;
  pending = [];
  changes.enter(all);
  entry.enter(all);
  if (all.length > ENTERED_MAX) tree.again();
  else tree.enter(all);
}

function listen() {
  following?.abort();
  following = new AbortController();
  const { signal } = following;
  follow({
    prefix: session.access.prefix, place, signal,
    changed(change) {
      pending.push(change);
      entering ??= setTimeout(enter, ENTER_MS);
    },
    state(state) {
      if (signal.aborted) return;
      byId('live').textContent = LIVE[state];
      byId('live').className = state;
    },
    reset() {
      tree.again();
      if (entry.key !== undefined) entry.enter([{ key: entry.key }]);
    },
  });
}

// A browser has six connections per server for all tabs, so only visible ones listen.
document.addEventListener('visibilitychange', () => {
  if (!session.access) return;
  if (!document.hidden) return listen();
  following?.abort();
  byId('live').textContent = 'Paused';
  byId('live').className = '';
});

// Tokens

function askForToken(error) {
  byId('token-error').textContent = error ?? '';
  byId('token-forget').hidden = !session.token;
  byId('token-text').value = '';
  if (!byId('token-dialog').open) byId('token-dialog').showModal();
  byId('token-text').focus();
}

session.refused = () => {
  if (!session.access) return;
  session.access = null;
  following?.abort();
  askForToken('The token is not known here any more.');
};

byId('token').addEventListener('click', () => askForToken());
byId('token-dialog').firstElementChild.addEventListener('submit', async (event) => {
  event.preventDefault();
  session.token = byId('token-text').value.trim();
  await enterSession();
});
byId('token-forget').addEventListener('click', () => {
  session.token = null;
  location.reload();
});

async function enterSession() {
  let service;
  try {
    service = await ask('GET', '.', { headers: { Accept: 'application/json' } });
  } catch (error) {
    notice(error.message, true);
    setTimeout(enterSession, 2000);
    return;
  }
  session.access = service.access;
  if (!session.access) {
    askForToken(session.token ? 'This token is not known here.' : '');
    return;
  }
  byId('token-dialog').close();
  const { write, prefix } = session.access;
  byId('token').hidden = !session.token;
  byId('rights').hidden = write;
  byId('create').hidden = !write;
  byId('search').value = prefix;
  document.querySelector('h1').title = `version ${service.version}`;
  entry.close();
  jobs.restart();
  place = { since: await tree.show(prefix) };
  if (!document.hidden) listen();
  route = undefined;
  navigate();
}

// Search

let searching;
byId('search').addEventListener('input', ({ target }) => {
  clearTimeout(searching);
  searching = setTimeout(() => tree.show(target.value), 150);
});
byId('search').addEventListener('keydown', (event) => {
  if (event.key !== 'ArrowDown') return;
  event.preventDefault();
  byId('tree').focus();
});
byId('create').addEventListener('click', () => go('new'));
window.addEventListener('hashchange', navigate);
enterSession();
