// The waiting jobs of the queue, and the dead letters.

import { ask, session } from './api.js';
import { byId, bytes, confirmed, h, moment, notice, number, plural, span } from './dom.js';

const REFRESH_MS = 2000;
const PAGE = 100;

export function makeJobs() {
  const tiles = h('dl', { class: 'tiles' });
  const why = h('p', { class: 'hint', hidden: true });
  const lists = { queued: makeList('queued', 'Waiting', 'Nothing waits: every accepted write is applied.'), dead: makeList('dead', 'Dead letters', 'No dead letters: no write was given up.') };
  byId('jobs').append(h('div', { class: 'title' }, h('h2', null, 'Queue')), tiles, why, lists.queued.section, lists.dead.section);

  /** Retries or deletes dead letters, and shows the rest. */
  async function act(method, path, query, done) {
    try {
      const answer = await ask(method, path, { query, headers: { 'Content-Type': 'application/json' } });
      notice(done(answer));
    } catch (error) {
      notice(error.message, true);
    }
    await refresh();
  }

  const retry = (id) => act('POST', `v1/jobs/${id}/retry`, {}, () => 'Queued again as a new job');
  const forget = async (id) => {
    if (await confirmed('Forget this dead letter?', 'Its write is dropped for good.', 'Forget')) act('DELETE', `v1/jobs/${id}`, {}, () => 'Forgotten');
  };
  const retryAll = () => act('POST', 'v1/jobs/retry', { status: 'dead' }, ({ retried }) => `${plural(retried, 'job')} queued again`);
  const forgetAll = async () => {
    if (await confirmed('Forget all dead letters?', 'Their writes are dropped for good.', 'Forget all')) {
      act('DELETE', 'v1/jobs', { status: 'dead' }, ({ forgotten }) => `${plural(forgotten, 'dead letter')} forgotten`);
    }
  };

  function makeList(status, title, none) {
    const isDead = status === 'dead';
    const body = h('tbody');
    const heads = isDead ? ['Key', 'Write', 'Reason', 'Tries', 'Given up', ''] : ['Key', 'Write', 'Accepted', 'Job'];
    const table = h('table', null, h('thead', null, h('tr', null, ...heads.map((name) => h(name ? 'th' : 'td', { scope: name && 'col' }, name)))), body);
    const empty = h('p', { class: 'hint' }, none);
    const next = h('button', { onclick: () => { list.cursor = list.after; refresh(); } }, 'Next');
    const first = h('button', { onclick: () => { list.cursor = undefined; refresh(); } }, 'First');
    const all = isDead ? [h('button', { id: 'retry-all', onclick: () => retryAll() }, 'Retry all'), h('button', { id: 'forget-all', class: 'danger', onclick: () => forgetAll() }, 'Forget all')] : [];
    const section = h('section', { 'aria-label': title, id: `jobs-${status}`, tabindex: '-1' },
      h('div', { class: 'title' }, h('h3', null, title), ...all), empty, h('div', { class: 'scroll' }, table), h('p', { class: 'actions' }, first, next));
    const shown = new Map();

    function row(job) {
      const key = h('td', null, job.key ? h('a', { href: `#key=${encodeURIComponent(job.key)}`, class: 'code' }, job.key) : '');
      if (!isDead) return h('tr', null, key, h('td', null, job.op ?? ''), h('td', { class: 'figure' }, moment(job.accepted_at)), h('td', { class: 'code quiet' }, job.id));
      const buttons = session.access?.write ? [
        h('button', { onclick: () => retry(job.id), 'aria-label': `Retry ${job.op} of ${job.key}` }, 'Retry'),
        h('button', { onclick: () => forget(job.id), 'aria-label': `Forget ${job.op} of ${job.key}`, class: 'danger' }, 'Forget')] : [];
      return h('tr', null, key, h('td', null, job.op ?? ''), h('td', { class: 'reason' }, job.error?.detail ?? ''),
        h('td', { class: 'figure' }, number(job.attempts ?? 0)), h('td', { class: 'figure' }, moment(job.dead_at)), h('td', { class: 'buttons' }, ...buttons));
    }

    const list = {
      section,
      cursor: undefined,
      after: undefined,
      async refresh() {
        const { jobs, cursor } = await ask('GET', 'v1/jobs', { query: { status, limit: PAGE, cursor: list.cursor } });
        if (!jobs.length && list.cursor) {
          list.cursor = undefined;
          return list.refresh();
        }
        list.after = cursor;
        // Remaining rows keep their elements, and thereby the focus.
        const kept = new Map(jobs.map((job) => [job.id, shown.get(job.id) ?? row(job)]));
        const rows = [...kept.values()];
        if (rows.length !== body.rows.length || rows.some((element, at) => element !== body.rows[at])) {
          for (const [id, element] of shown) {
            if (kept.has(id)) continue;
            // Keeps keyboard users inside the list.
            if (element.contains(document.activeElement)) section.focus({ preventScroll: true });
            element.remove();
          }
          rows.forEach((element, at) => { if (body.rows[at] !== element) body.insertBefore(element, body.rows[at] ?? null); });
        }
        shown.clear();
        for (const [id, element] of kept) shown.set(id, element);
        table.hidden = !jobs.length;
        empty.hidden = !!jobs.length;
        first.hidden = !list.cursor;
        next.hidden = !cursor;
        for (const button of all) button.hidden = !jobs.length || !session.access?.write;
        return jobs.length;
      },
      clear() { shown.clear(); body.replaceChildren(); },
    };
    return list;
  }

  function tile(id, name, value, isBad) {
    return h('div', { class: isBad ? 'tile bad' : 'tile', id }, h('dt', null, name), h('dd', null, value));
  }

  async function refreshQueue() {
    if (session.access.prefix) {
      why.textContent = `This token reaches keys that begin with “${session.access.prefix}”: only their jobs are shown.`;
      why.hidden = false;
      tiles.hidden = true;
      return undefined;
    }
    const queue = await ask('GET', 'v1/queue');
    why.hidden = true;
    tiles.hidden = false;
    const age = queue.oldest_age_seconds;
    tiles.replaceChildren(tile('tile-jobs', 'Waiting jobs', number(queue.jobs)), tile('tile-age', 'Oldest has waited', age === null ? '–' : span(age)),
      tile('tile-bytes', 'Size', bytes(queue.bytes)), tile('tile-dead', 'Dead letters', number(queue.dead), queue.dead > 0));
    return queue.dead;
  }

  let timer;
  let isShown = false;
  let number_ = 0;
  async function refresh() {
    clearTimeout(timer);
    const mine = ++number_;
    if (session.access) {
      try {
        const dead = await refreshQueue();
        if (isShown) await Promise.all([lists.queued.refresh(), lists.dead.refresh()]);
        const badge = byId('dead-count');
        badge.hidden = !dead;
        badge.textContent = dead ? number(dead) : '';
        badge.title = dead ? plural(dead, 'dead letter') : '';
      } catch (error) {
        if (isShown && error.status) notice(error.message, true);
      }
    }
    if (mine !== number_) return;
    timer = setTimeout(() => (document.hidden ? later() : refresh()), isShown ? REFRESH_MS : 5 * REFRESH_MS);
  }
  const later = () => document.addEventListener('visibilitychange', refresh, { once: true });

  return {
    show(isVisible) { isShown = isVisible; refresh(); },
    /** Starts again with another token. */
    restart() { lists.queued.clear(); lists.dead.clear(); refresh(); },
  };
}
