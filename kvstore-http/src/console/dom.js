// Elements, dialogs, and formats of numbers and times. No text ever becomes markup.

export const byId = (id) => document.getElementById(id);

/** Creates an element: attributes, `on…` listeners, and children that may be absent. */
export function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const NUMBER = new Intl.NumberFormat('en');
export const number = (value) => NUMBER.format(value);
export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? '' : 's'}`;

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ['KiB', 'MiB', 'GiB'];
  let unit = -1;
  do { count /= 1024; unit += 1; } while (count >= 1024 && unit < units.length - 1);
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** Formats a duration: `3 d 04:05:06`, `4:05`, `12 s`. */
export function span(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (value) => String(value).padStart(2, '0');
  const [d, hour, min, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d) return `${d} d ${two(hour)}:${two(min)}:${two(s)}`;
  if (hour) return `${hour}:${two(min)}:${two(s)}`;
  return min ? `${min}:${two(s)}` : `${s} s`;
}

export const clock = (date) => date.toLocaleTimeString('en-GB');
export const moment = (text) => text.replace('T', ' ').replace(/(\.\d+)?Z$/, ' UTC');

let noticeTimer;
/** Shows a message at the lower edge for a while; screen readers announce it. */
export function notice(text, isError = false) {
  const box = byId('notice');
  box.textContent = text;
  box.className = isError ? 'error shown' : 'shown';
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { box.className = ''; }, isError ? 8000 : 3500);
}

/** Asks for confirmation of an irreversible action; returns true if confirmed. */
export function confirmed(title, text, action) {
  const dialog = byId('confirm');
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-yes').textContent = action;
  dialog.showModal();
  byId('confirm-no').focus();
  return new Promise((resolve) => {
    const end = (isMeant) => { dialog.close(); resolve(isMeant); };
    byId('confirm-yes').onclick = () => end(true);
    byId('confirm-no').onclick = () => end(false);
    // Closed with Escape.
    dialog.oncancel = (event) => { event.preventDefault(); end(false); };
  });
}
