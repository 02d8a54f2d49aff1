// JSON as text. Values are never parsed and serialized again: 1.0, 1e400 and numbers of 40 digits
// stay as they are stored.

const TOKEN = /[ \t\r\n]+|"(?:[^"\\]+|\\[^])*"|-?[0-9][0-9.eE+-]*|true|false|null|[{}[\],:]/y;

/** Maximum length of highlighted text, in characters: a span per token of a longer one is slow. */
const PAINTED_MAX = 100_000;

/** Returns the JSON syntax error of a text, or undefined. The parsed value is discarded. */
export function fault(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    return text.trim() ? error.message : 'A value is needed: any JSON, such as {"name": "Ada"} or 42';
  }
}

function* tokens(text) {
  TOKEN.lastIndex = 0;
  let match;
  while (TOKEN.lastIndex < text.length && (match = TOKEN.exec(text))) yield match[0];
}

/** Indents valid JSON, changing only white space between tokens. */
export function format(text) {
  const out = [];
  let depth = 0;
  let open = false;
  const line = () => out.push('\n', '  '.repeat(depth));
  for (const token of tokens(text)) {
    if (/^\s/.test(token)) continue;
    if (token === '}' || token === ']') {
      depth -= 1;
      if (!open) line();
      open = false;
      out.push(token);
      continue;
    }
    if (open) line();
    open = token === '{' || token === '[';
    out.push(token);
    if (open) depth += 1;
    else if (token === ',') line();
    else if (token === ':') out.push(' ');
  }
  return out.join('');
}

/** Puts a text into an element, with highlighted tokens unless there are too many. */
export function paint(element, text) {
  if (text.length > PAINTED_MAX) {
    element.textContent = text;
    return;
  }
  const parts = [];
  const all = [...tokens(text)];
  all.forEach((token, at) => {
    let kind;
    if (token[0] === '"') kind = all[at + 1] === ':' ? 'name' : 'text';
    else if (/^[-0-9]/.test(token)) kind = 'number';
    else if (/^[tfn]/.test(token)) kind = 'word';
    if (!kind) return parts.push(token);
    const part = document.createElement('span');
    part.className = kind;
    part.textContent = token;
    parts.push(part);
  });
  element.replaceChildren(...parts);
}

/** Returns the lines of two texts, marking those that the other text lacks. */
export function differences(left, right) {
  const [a, b] = [left.split('\n'), right.split('\n')];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const [n, m] = [a.length - start - end, b.length - start - end];
  const mark = (lines) => lines.map((text, at) => ({ text, differs: at >= start && at < lines.length - end }));
  const [marked, other] = [mark(a), mark(b)];
  // Longest common subsequence, unless its table would be large.
  if (n * m <= 1_000_000) {
    const width = m + 1;
    const best = new Uint32Array((n + 1) * width);
    for (let i = n - 1; i >= 0; i -= 1) {
      for (let j = m - 1; j >= 0; j -= 1) {
        best[i * width + j] = a[start + i] === b[start + j]
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < n && j < m;) {
      if (a[start + i] === b[start + j]) {
        marked[start + i].differs = other[start + j].differs = false;
        i += 1; j += 1;
      } else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i += 1;
      else j += 1;
    }
  }
  return [marked, other];
}
