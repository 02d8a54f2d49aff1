// The changes during this visit, newest first.

import { byId, clock, h } from './dom.js';

const SHOWN_MAX = 200;
const WORDS = { set: 'set', delete: 'deleted', expire: 'expired' };

export function makeChanges() {
  const list = h('tbody');
  const empty = h('p', { class: 'hint' }, 'Nothing has changed since this page was opened.');
  const table = h('table', { hidden: true },
    h('thead', null, h('tr', null, ...['Time', 'Change', 'Key', 'ETag'].map((name) => h('th', { scope: 'col' }, name)))), list);
  let isPaused = false;
  const pause = h('button', {
    'aria-pressed': 'false',
    onclick() {
      isPaused = !isPaused;
      pause.setAttribute('aria-pressed', isPaused);
    },
  }, 'Pause');
  byId('changes').append(h('div', { class: 'title' }, h('h2', null, 'Changes'), pause),
    h('p', { class: 'hint' }, `As they become visible; the last ${SHOWN_MAX} are kept here.`), empty, h('div', { class: 'scroll' }, table));

  return {
    enter(changes) {
      if (isPaused || !changes.length) return;
      const now = clock(new Date());
      const rows = changes.slice(-SHOWN_MAX).reverse().map(({ kind, key, etag }) => h('tr', { class: kind },
        h('td', { class: 'figure' }, now), h('td', null, WORDS[kind] ?? kind),
        h('td', null, h('a', { href: `#key=${encodeURIComponent(key)}`, class: 'code' }, key)), h('td', { class: 'code figure' }, etag ?? '')));
      list.prepend(...rows);
      while (list.rows.length > SHOWN_MAX) list.lastElementChild.remove();
      table.hidden = false;
      empty.hidden = true;
    },
  };
}
