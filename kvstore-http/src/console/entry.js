// One entry, shown as formatted JSON or as the stored bytes. Edits and deletions apply only to the
// version that the visitor saw; if another client was faster, both versions are shown.

import { newIdempotencyKey, read, session, write } from './api.js';
import { byId, bytes, confirmed, h, notice, span } from './dom.js';
import { differences, fault, format, paint } from './json.js';

const UNITS = [['seconds', 1], ['minutes', 60], ['hours', 3600], ['days', 86400]];

/** Creates the pane in #entry; calls `closed()` on leaving it, and `saved(key)` after a write. */
export function makeEntry({ closed, saved }) {
  const pane = byId('entry');
  /** The key shown, and its entry as last read (null if absent). */
  let key;
  let entry = null;
  let isFormatted = true;
  /** The draft: {key, etag, before, text, kept}; the etag is null for a new entry. */
  let draft = null;
  let isWriting = false;
  let reading = null;
  let meanwhile;
  let deadline = null;

  const isDirty = () => !!draft && draft.text !== draft.before;
  const back = () => h('button', { class: 'back quiet', onclick: leave }, '‹ Keys');
  const name = (text) => h('h2', { class: 'code' }, text);
  function show(...children) {
    const hadFocus = pane.contains(document.activeElement);
    meanwhile = deadline = null;
    pane.replaceChildren(...children.filter(Boolean));
    if (hadFocus) pane.focus({ preventScroll: true });
  }

  async function mayLeave() {
    if (isWriting) return false;
    if (isDirty() && !await confirmed('Leave without saving?', `What you typed for “${draft.key}” would be lost.`, 'Leave')) return false;
    draft = null;
    return true;
  }

  async function leave() {
    if (!await mayLeave()) return;
    key = undefined;
    blank();
    closed();
  }

  function blank() {
    show(h('p', { class: 'hint blank' }, 'Choose a key to see its value.'));
  }

  // Viewing

  async function open(wanted) {
    key = wanted;
    reading?.abort();
    reading = new AbortController();
    try {
      entry = await read(wanted, reading.signal);
    } catch (error) {
      if (error.name !== 'AbortError') show(back(), name(wanted), h('p', { class: 'error', role: 'alert' }, error.message));
      return;
    }
    if (!draft && key === wanted) view();
  }

  function fact(title, value, attributes) {
    return h('div', null, h('dt', null, title), h('dd', attributes, value));
  }

  function view() {
    if (!entry) {
      show(back(), name(key), h('p', { class: 'hint', id: 'absent' }, 'There is no such key. It may have been deleted, or have expired.'),
        session.access?.write && h('p', { class: 'actions' }, h('button', { onclick: () => create(key) }, 'Create it')));
      return;
    }
    const value = h('pre', { id: 'value', tabindex: '0', 'aria-label': 'Value' });
    const modes = [['formatted', 'Formatted', true], ['stored', 'As stored', false]].map(([id, title, wanted]) =>
      h('button', { id, 'aria-pressed': String(isFormatted === wanted), onclick: () => { isFormatted = wanted; fill(); } }, title));
    function fill() {
      modes.forEach((button, at) => button.setAttribute('aria-pressed', isFormatted === !at));
      value.classList.toggle('stored', !isFormatted);
      paint(value, isFormatted ? format(entry.text) : entry.text);
    }
    const copy = h('button', {
      async onclick() {
        try {
          // Browsers offer it only on this machine or over TLS.
          await navigator.clipboard.writeText(entry.text);
          notice('Copied as stored');
        } catch {
          notice('The browser does not let this page copy', true);
        }
      },
    }, 'Copy');
    const may = session.access?.write;
    const timer = h('dd', { id: 'deadline' });
    show(back(), h('div', { class: 'title' }, name(entry.key),
      may && h('button', { id: 'edit', class: 'main', onclick: () => edit(entry) }, 'Edit'),
      may && h('button', { id: 'delete', class: 'danger', onclick: remove }, 'Delete')),
    h('dl', { class: 'facts' },
      fact('ETag', entry.etag, { class: 'code', id: 'etag' }),
      fact('Size', bytes(new TextEncoder().encode(entry.text).length), { class: 'figure' }),
      h('div', null, h('dt', null, entry.expiresAt ? 'Expires in' : 'Deadline'), timer)),
    h('div', { class: 'bar' }, h('div', { class: 'modes', role: 'group', 'aria-label': 'How the value is shown' }, ...modes), copy), value);
    deadline = timer;
    fill();
    tick();
  }

  function tick() {
    if (!deadline || !entry) return;
    const left = entry.expiresAt === null ? null : (entry.expiresAt - performance.now()) / 1000;
    deadline.textContent = left === null ? 'none' : span(left);
    if (left !== null && left < -1) {
      deadline = null;
      open(key);
    }
  }
  setInterval(tick, 1000);

  async function remove() {
    const seen = entry;
    if (!await confirmed('Delete this key?', `“${seen.key}” is deleted if it is still the version you see.`, 'Delete')) return;
    try {
      isWriting = true;
      const isDone = await write({ key: seen.key, etag: seen.etag, idempotencyKey: newIdempotencyKey(), queued });
      notice(isDone ? 'Deleted' : 'Not deleted: it was changed meanwhile. This is the new version.', !isDone);
      if (isDone) saved(seen.key);
    } catch (error) {
      notice(error.message, true);
    } finally {
      isWriting = false;
    }
    if (key === seen.key) open(key);
  }

  const queued = () => notice('Accepted. It waits in the queue until a worker applies it.');

  // Editing

  function edit(from) {
    const text = format(from.text);
    draft = { key: from.key, etag: from.etag, before: text, text, kept: from.expiresAt !== null };
    form();
  }

  function create(prefix) {
    key = undefined;
    draft = { key: prefix, etag: null, before: '', text: '', kept: false };
    form();
  }

  function form() {
    const isNew = draft.etag === null;
    const area = h('textarea', { id: 'text', spellcheck: 'false', 'aria-label': 'Value as JSON', 'aria-describedby': 'fault text-hint' });
    area.value = draft.text;
    const error = h('p', { class: 'error', id: 'fault', role: 'alert' });
    const field = isNew && h('input', { id: 'key', class: 'code', value: draft.key, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', oninput: () => { draft.key = field.value; } });
    const kinds = [draft.kept && ['keep', 'Keep the deadline'], ['never', 'No deadline'], ['after', 'Expires after']].filter(Boolean);
    const kind = h('select', { id: 'expiry', 'aria-label': 'Deadline', onchange: choose }, ...kinds.map(([value, title]) => h('option', { value }, title)));
    const amount = h('input', { id: 'amount', type: 'number', min: '1', value: '15', 'aria-label': 'Amount of time' });
    const unit = h('select', { 'aria-label': 'Unit of time' }, ...UNITS.map(([title, seconds]) => h('option', { value: seconds, selected: seconds === 60 }, title)));
    if (Number(draft.ttl)) {
      [kind.value, amount.value, unit.value] = ['after', draft.ttl, 1];
    } else if (draft.kept && 'ttl' in draft && !draft.ttl) kind.value = 'never';
    function choose() { amount.hidden = unit.hidden = kind.value !== 'after'; }
    const ttl = () => ({ keep: 'keep', never: undefined, after: String(Number(amount.value) * Number(unit.value)) }[kind.value]);
    let checking;
    area.addEventListener('input', () => {
      draft.text = area.value;
      clearTimeout(checking);
      checking = setTimeout(() => { error.textContent = (area.value && fault(area.value)) || ''; }, 300);
    });
    const submit = () => save(ttl(), error);
    pane.onkeydown = (event) => {
      if (draft && event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
    };
    const button = h('button', { id: 'save', class: 'main', onclick: submit }, isNew ? 'Create' : 'Save');
    const tidy = h('button', { onclick: () => { if (!fault(area.value)) area.value = draft.text = format(area.value); } }, 'Format');
    const cancel = h('button', { id: 'cancel', onclick: async () => {
      const to = key;
      if (!await mayLeave()) return;
      if (to === undefined) leave();
      else open(to);
    } }, 'Cancel');
    const banner = h('p', { class: 'banner', id: 'meanwhile', role: 'status', hidden: true }, 'Another client changed this key after you began. ',
      h('button', { onclick: compare }, 'Compare'));
    show(back(), isNew ? h('label', { class: 'field' }, 'Key', field) : name(draft.key), banner, area, error,
      h('p', { class: 'hint', id: 'text-hint' }, 'White space between tokens is dropped when it is stored; everything else stays as you type it, digits included. Ctrl + Enter saves.'),
      h('div', { class: 'bar' }, kind, amount, unit), h('p', { class: 'actions' }, button, cancel, tidy));
    meanwhile = banner;
    choose();
    (isNew ? field : area).focus({ preventScroll: true });
  }

  async function save(ttl, error) {
    if (isWriting) return;
    const reason = fault(draft.text) ?? (draft.key ? undefined : 'A key is needed');
    error.textContent = reason ?? '';
    if (reason) return;
    // Repeating an unanswered write uses the same idempotency key, so it takes effect once.
    const sent = JSON.stringify([draft.key, draft.etag, draft.text, ttl]);
    draft.ttl = ttl;
    if (draft.sent !== sent) Object.assign(draft, { sent, idempotencyKey: newIdempotencyKey() });
    const mine = draft;
    isWriting = true;
    pane.setAttribute('aria-busy', 'true');
    let isDone;
    try {
      isDone = await write({ ...mine, ttl, queued });
    } catch (problem) {
      error.textContent = problem.message;
      if (problem.status !== 0 && problem.status !== 504) mine.sent = undefined;
      return;
    } finally {
      isWriting = false;
      pane.removeAttribute('aria-busy');
    }
    if (!isDone) {
      mine.sent = undefined;
      return compare();
    }
    notice(mine.etag === null ? 'Created' : 'Saved');
    draft = null;
    key = mine.key;
    saved(key);
    open(key);
  }

  // Concurrent edits

  async function compare() {
    let theirs;
    try {
      theirs = await read(draft.key);
    } catch (error) {
      return notice(error.message, true);
    }
    const theirText = theirs && format(theirs.text);
    const myText = fault(draft.text) ? draft.text : format(draft.text);
    const [left, right] = differences(theirText ?? '', myText);
    const side = (id, title, note, lines) => h('section', { id, 'aria-label': title }, h('h3', null, title), h('p', { class: 'hint' }, note),
      h('pre', { tabindex: '0' }, ...lines.map(({ text, differs }) => (differs ? h('mark', null, `${text}\n`) : `${text}\n`))));
    // The visitor has now seen the other version.
    const rebase = () => Object.assign(draft, { etag: theirs?.etag ?? null, kept: !!theirs?.expiresAt, before: theirText ?? '' });
    show(back(), name(draft.key),
      h('p', { class: 'banner', role: 'alert' }, theirs ? 'Another client changed this key while you were editing. Nothing is lost: choose what stays.' : 'Another client deleted this key while you were editing.'),
      h('div', { class: 'sides', id: 'conflict' },
        side('theirs', 'Stored now', theirs ? `ETag ${theirs.etag}` : 'deleted', theirs ? left : []),
        side('mine', 'Yours', 'not saved', theirs ? right : right.map(({ text }) => ({ text })))),
      h('p', { class: 'actions' },
        h('button', { id: 'again', class: 'main', onclick: () => { const to = draft.key; rebase(); form(); if (draft.etag !== null) key = to; } }, 'Edit yours again'),
        h('button', { id: 'overwrite', onclick: (event) => { rebase(); save(draft.ttl, event.target.parentElement.nextElementSibling); } }, theirs ? 'Replace it with yours' : 'Create it again with yours'),
        h('button', { id: 'discard', onclick: () => { const to = draft.key; draft = null; open(to); saved(to); } }, 'Discard yours')),
      h('p', { class: 'error', role: 'alert' }));
    byId('again').focus();
  }

  window.addEventListener('beforeunload', (event) => { if (isDirty()) event.preventDefault(); });
  blank();

  return {
    mayLeave,
    open,
    create,
    get key() { return key; },
    get isCreating() { return draft?.etag === null; },
    close() { key = undefined; draft = null; blank(); },
    /** Notes a change of the entry shown. */
    enter(changes) {
      const name_ = draft?.key ?? key;
      const last = changes.findLast((change) => change.key === name_);
      if (!last || isWriting || last.etag === (draft ? draft.etag : entry?.etag)) return;
      if (!draft) open(key);
      else if (draft.etag !== null && meanwhile) meanwhile.hidden = false;
    },
  };
}
