// The keys as a tree, grouped at `/`. Folders are read when they are opened, a page at a time, and
// only visible rows have elements, so a million keys cost no more than a hundred.

import { ask, session } from './api.js';
import { byId, bytes, h, notice, number, plural } from './dom.js';

const PAGE = 500;
const ROW_PIXELS = 30;
/** Maximum number of concurrent counts: a browser has six connections per server. */
const COUNTS_AT_ONCE = 2;
const COUNT_AGAIN_MS = 1000;

/** Compares keys in the server's order: by UTF-8 bytes, which is by code points. */
function compare(a, b) {
  const shorter = Math.min(a.length, b.length);
  let at = 0;
  while (at < shorter && a.charCodeAt(at) === b.charCodeAt(at)) at += 1;
  if (at === shorter) return a.length - b.length;
  const rank = (unit) => (unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit);
  return rank(a.charCodeAt(at)) - rank(b.charCodeAt(at));
}

const folder = (name, label, depth) => ({
  kind: 'folder', name, label, depth, isOpen: false, rows: null, count: undefined, isStale: true,
  cursors: [undefined], page: 0, next: undefined, reading: null,
});
const key = (listed, label, depth) => ({ kind: 'key', name: listed.key, label, depth, size: listed.size, expires: !!listed.expires_at });

/** Creates the tree in #tree; calls `opened(key)` for a chosen key. */
export function makeTree(opened) {
  const view = byId('tree');
  const sizer = view.firstElementChild;
  const slots = [];
  let root = folder('', '', 0);
  let rows = [];
  let current = 0;
  let chosen;
  let counting = 0;
  let recount;
  let isDrawing = false;
  const fresh = new Map();

  const base = (parent) => parent.name.slice(0, parent.name.lastIndexOf('/') + 1);

  function flatten(parent, out) {
    if (parent.page > 0) out.push({ kind: 'earlier', parent, depth: parent.depth });
    for (const [at, row] of (parent.rows ?? []).entries()) {
      row.parent = parent;
      row.at = at + 1;
      out.push(row);
      if (row.isOpen) flatten(row, out);
    }
    if (!parent.rows) out.push({ kind: 'wait', parent, depth: parent.depth });
    else if (parent.next) out.push({ kind: 'later', parent, depth: parent.depth });
  }

  function rebuild() {
    const at = rows[current];
    rows = [];
    flatten(root, rows);
    if (at) {
      const found = rows.findIndex((row) => row.name === at.name && row.kind === at.kind);
      if (found >= 0) current = found;
    }
    current = Math.min(current, Math.max(0, rows.length - 1));
    sizer.style.height = `${rows.length * ROW_PIXELS}px`;
    const isEmpty = root.rows && !rows.length;
    view.classList.toggle('empty', !!isEmpty);
    view.dataset.empty = root.name ? 'No key begins with this.' : 'No keys yet.';
    draw();
  }

  /** Reads the current page of a folder. */
  async function read(parent) {
    const reading = new AbortController();
    parent.reading?.abort();
    parent.reading = reading;
    try {
      const query = { prefix: parent.name, delimiter: '/', limit: PAGE, cursor: parent.cursors[parent.page], count: 1 };
      const page = await ask('GET', 'v1/kv', { query, signal: reading.signal });
      const known = new Map((parent.rows ?? []).filter((row) => row.kind === 'folder').map((row) => [row.name, row]));
      const start = base(parent).length;
      const folders = page.prefixes.map((name) => known.get(name) ?? folder(name, name.slice(start), parent.depth + 1));
      const keys = page.keys.map((listed) => key(listed, listed.key.slice(start), parent.depth + 1));
      parent.rows = [...folders, ...keys].sort((a, b) => compare(a.name, b.name));
      parent.next = page.cursor;
      parent.count = page.count;
      parent.isStale = false;
      rebuild();
      return page.as_of;
    } catch (error) {
      if (error.name === 'AbortError') return undefined;
      parent.rows ??= [];
      rebuild();
      notice(error.message, true);
      return undefined;
    }
  }

  async function turn(parent, by) {
    if (by > 0) parent.cursors[parent.page + 1] = parent.next;
    parent.page += by;
    parent.rows = null;
    await read(parent);
    const first = rows.findIndex((row) => row.parent === parent);
    if (first >= 0) move(first);
  }

  function toggle(row, isOpen = !row.isOpen) {
    if (row.isOpen === isOpen) return;
    row.isOpen = isOpen;
    if (isOpen) read(row);
    rebuild();
  }

  function activate(at) {
    const row = rows[at];
    if (!row) return;
    current = at;
    if (row.kind === 'folder') toggle(row);
    else if (row.kind === 'later') turn(row.parent, 1);
    else if (row.kind === 'earlier') turn(row.parent, -1);
    else if (row.kind === 'key') opened(row.name);
    draw();
  }

  function move(to) {
    current = Math.max(0, Math.min(rows.length - 1, to));
    const top = current * ROW_PIXELS;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + ROW_PIXELS > view.scrollTop + view.clientHeight) view.scrollTop = top + ROW_PIXELS - view.clientHeight;
    draw();
  }

  /** Counts the visible folders whose count is unknown or outdated. */
  function count(first, last) {
    for (let at = first; at < last && counting < COUNTS_AT_ONCE; at += 1) {
      const row = rows[at];
      if (row?.kind !== 'folder' || !row.isStale) continue;
      row.isStale = false;
      counting += 1;
      ask('GET', 'v1/kv', { query: { prefix: row.name, limit: 1, count: 1 } }).then(({ count: found }) => {
        row.count = found;
        if (found === 0 && row.parent?.rows) {
          row.parent.rows = row.parent.rows.filter((other) => other !== row);
          rebuild();
        }
      }).catch(() => { /* It stays without a count. */ }).finally(() => {
        counting -= 1;
        draw();
      });
    }
  }

  function slot(number) {
    slots[number] ??= sizer.appendChild(h('div', { id: `row-${number}`, role: 'treeitem' }, h('span', { class: 'label' }), h('span', { class: 'side' })));
    return slots[number];
  }

  const set = (element, name, value) => {
    if (value === undefined) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  };
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const TEXT = {
    earlier: () => [`Previous ${number(PAGE)}`, ''],
    later: ({ parent }) => [`Next ${number(PAGE)}`, `page ${number(parent.page + 1)}`],
    wait: () => ['Reading …', ''],
    folder: (row) => [row.label, row.count === undefined ? '' : number(row.count)],
    key: (row) => [row.label, row.size === undefined ? '' : bytes(row.size)],
  };

  function paint() {
    isDrawing = false;
    const first = Math.max(0, Math.floor(view.scrollTop / ROW_PIXELS) - 5);
    const last = Math.min(rows.length, first + Math.ceil(view.clientHeight / ROW_PIXELS) + 10);
    count(first, last);
    const now = performance.now();
    for (const [name, until] of fresh) if (until < now) fresh.delete(name);
    for (let at = first; at < last; at += 1) {
      const row = rows[at];
      const element = slot(at - first);
      element.hidden = false;
      element.dataset.at = at;
      element.style.transform = `translateY(${at * ROW_PIXELS}px)`;
      element.style.setProperty('--depth', row.depth - root.depth);
      const isOpen = row.kind === 'folder' ? row.isOpen : undefined;
      set(element, 'class', `row ${row.kind}${at === current ? ' current' : ''}${fresh.has(row.name) ? ' fresh' : ''}`);
      set(element, 'aria-level', row.depth + 1 - (row.kind === 'key' || row.kind === 'folder' ? 1 : 0));
      set(element, 'aria-setsize', row.parent.rows?.length);
      set(element, 'aria-posinset', row.at);
      set(element, 'aria-expanded', isOpen);
      set(element, 'aria-selected', row.kind === 'key' && row.name === chosen);
      set(element, 'title', row.name);
      const [label, side] = TEXT[row.kind](row);
      say(element.firstChild, label);
      say(element.lastChild, side);
    }
    for (let number_ = last - first; number_ < slots.length; number_ += 1) slots[number_].hidden = true;
    const active = current >= first && current < last ? `row-${current - first}` : undefined;
    set(view, 'aria-activedescendant', active);
    const under = root.name ? ` under “${root.name}”` : '';
    say(byId('total'), root.count === undefined ? '' : `${plural(root.count, 'key')}${under}`);
    if (fresh.size) setTimeout(draw, 1000);
  }

  function draw() {
    if (isDrawing) return;
    isDrawing = true;
    // Background tabs get no animation frames.
    if (document.hidden) setTimeout(paint, 200);
    else requestAnimationFrame(paint);
  }

  view.addEventListener('scroll', draw, { passive: true });
  new ResizeObserver(draw).observe(view);
  view.addEventListener('click', (event) => {
    const row = event.target.closest('[role=treeitem]');
    if (row) activate(Number(row.dataset.at));
  });
  view.addEventListener('keydown', (event) => {
    const row = rows[current];
    const page = Math.max(1, Math.floor(view.clientHeight / ROW_PIXELS) - 1);
    const parentAt = () => rows.findIndex((other) => other === row?.parent);
    const keys = {
      ArrowDown: () => move(current + 1),
      ArrowUp: () => move(current - 1),
      PageDown: () => move(current + page),
      PageUp: () => move(current - page),
      Home: () => move(0),
      End: () => move(rows.length - 1),
      Enter: () => activate(current),
      ' ': () => activate(current),
      ArrowRight: () => (row?.kind === 'folder' && !row.isOpen ? toggle(row, true) : move(current + 1)),
      ArrowLeft: () => (row?.kind === 'folder' && row.isOpen ? toggle(row, false) : move(Math.max(0, parentAt()))),
    };
    if (event.altKey || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  /** Applies a change to the shown part of a folder, and then to its subfolder with the key. */
  function enter(parent, change) {
    parent.isStale = true;
    if (!parent.rows) return;
    const start = parent.name.length;
    const slash = change.key.indexOf('/', start);
    const name = slash < 0 ? change.key : change.key.slice(0, slash + 1);
    let [low, high] = [0, parent.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(parent.rows[middle].name, name) < 0) low = middle + 1;
      else high = middle;
    }
    const row = parent.rows[low]?.name === name ? parent.rows[low] : undefined;
    if (row?.kind === 'folder') return enter(row, change);
    if (change.kind === 'set') {
      if (row) row.size = undefined;
      const isElsewhere = (low === 0 && parent.page > 0) || (low === parent.rows.length && parent.next);
      if (row || isElsewhere) return;
      const label = name.slice(base(parent).length);
      const added = slash < 0 ? key({ key: name }, label, parent.depth + 1) : folder(name, label, parent.depth + 1);
      parent.rows.splice(low, 0, added);
      // A folder that has grown well beyond a page is read again.
      if (parent.rows.length > 2 * PAGE) read(parent);
    } else if (row) parent.rows.splice(low, 1);
  }

  /** Occasionally refreshes a count that changes have outdated. */
  function countAgain() {
    recount ??= setTimeout(async () => {
      recount = undefined;
      if (!root.isStale) return;
      root.isStale = false;
      try {
        const { count: found } = await ask('GET', 'v1/kv', { query: { prefix: root.name, limit: 1, count: 1 } });
        root.count = found;
      } catch { /* The next change asks again. */ }
      draw();
    }, COUNT_AGAIN_MS);
  }

  return {
    /** Shows the keys with `prefix`; returns the position from which a watch misses nothing. */
    async show(prefix) {
      root.reading?.abort();
      root = folder(prefix.startsWith(session.access.prefix) ? prefix : session.access.prefix + prefix, '', 0);
      current = 0;
      view.scrollTop = 0;
      rebuild();
      return read(root);
    },
    get prefix() { return root.name; },
    /** Reads all open folders again. */
    again() {
      const all = [root];
      for (const row of rows) if (row.kind === 'folder') { row.isStale = true; if (row.isOpen) all.push(row); }
      return Promise.all(all.map(read));
    },
    enter(changes) {
      const until = performance.now() + 2000;
      for (const change of changes) {
        if (!change.key.startsWith(root.name)) continue;
        enter(root, change);
        fresh.set(change.key, until);
      }
      if (fresh.size > PAGE) fresh.clear();
      rebuild();
      countAgain();
    },
    choose(name) {
      chosen = name;
      const at = rows.findIndex((row) => row.kind === 'key' && row.name === name);
      if (at >= 0) current = at;
      draw();
    },
  };
}
