// What a reader sees of a page: text that is hard to read, what sticks out, what the keyboard does not reach.
// Loaded into a page by browser.py; every function answers with what is wrong, in words.
(() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const ink = canvas.getContext('2d', {willReadFrequently: true});
  const colours = new Map();
  /** [red, green, blue, alpha] of any CSS colour. */
  const rgba = colour => {
    if (!colours.has(colour)) {
      ink.clearRect(0, 0, 1, 1);
      ink.fillStyle = colour;
      ink.fillRect(0, 0, 1, 1);
      const d = ink.getImageData(0, 0, 1, 1).data;
      colours.set(colour, [d[0], d[1], d[2], d[3] / 255]);
    }
    return colours.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]);
  const luminance = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (ink, back) => {
    const a = luminance(over(ink, back)), b = luminance(back);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const shown = e => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
  const named = e => `${e.tagName.toLowerCase()}.${e.getAttribute('class') || ''} ` +
    (e.getAttribute('aria-label') || e.textContent).trim().replace(/\s+/g, ' ').slice(0, 40);

  /** What of an element may show that it has the focus. */
  const frame = e => {
    const style = getComputedStyle(e);
    const outline = style.outlineStyle === 'none' || !parseFloat(style.outlineWidth) ? '' : style.outline;
    return [outline, style.boxShadow, style.borderColor, style.backgroundColor].join('; ');
  };

  /** The colour behind an element of HTML: the backgrounds of all that it lies in. */
  const behind = (element, known) => {
    if (!element) return [255, 255, 255, 1];
    if (!known.has(element)) {
      const below = behind(element.parentElement, known);
      known.set(element, over(rgba(getComputedStyle(element).backgroundColor), below));
    }
    return known.get(element);
  };

  /** The colour of a shape's inside, with its opacities. */
  const fill = shape => {
    const style = getComputedStyle(shape);
    if (style.fill === 'none') return [0, 0, 0, 0];
    const [r, g, b, a] = rgba(style.fill);
    let alpha = a * parseFloat(style.fillOpacity);
    for (let e = shape; e.tagName !== 'svg'; e = e.parentElement) alpha *= parseFloat(getComputedStyle(e).opacity);
    return [r, g, b, alpha];
  };

  /** The colours behind a text of a drawing, at its two ends and in the middle: the shapes drawn before it. */
  const drawnBehind = (text, known) => {
    const svg = text.ownerSVGElement, page = behind(svg, known), box = text.getBoundingClientRect();
    const before = [...svg.querySelectorAll('rect, path, circle, ellipse, polygon')].filter(
      shape => shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING && !shape.closest('defs, marker'));
    return [0.1, 0.5, 0.9].map(part => {
      const x = box.left + part * box.width, y = box.top + box.height / 2;
      return before.reduce((below, shape) => {
        const around = shape.getBoundingClientRect();
        if (x < around.left || x > around.right || y < around.top || y > around.bottom) return below;
        const point = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
        return shape.isPointInFill(point) ? over(fill(shape), below) : below;
      }, page);
    });
  };

  const looks = {
    /** Text against what is behind it, by WCAG 2: colours -> ratio, where, what; one example of each pair. */
    contrast(selector = 'body') {
      const found = {}, known = new Map();
      const judge = (element, words, colour, backs) => {
        const style = getComputedStyle(element), size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
        for (const back of backs) {
          const r = ratio(colour, back);
          if (r < (large ? 3 : 4.5)) {
            const key = [colour, back].map(c => c.map(v => Math.round(100 * v) / 100).join(' ')).join(' on ');
            found[key] = `${r.toFixed(2)} ${named(element)}: ${words.trim().slice(0, 40)}`;
          }
        }
      };
      const skip = 'script, style, .sr-only, .visually-hidden, .headerlink, .cm-editor, .jp-ThemedContainer-hidden';
      for (const root of document.querySelectorAll(selector)) {
        const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let n = walk.nextNode(); n; n = walk.nextNode()) {
          const e = n.parentElement;
          if (!n.data.trim() || e.closest(skip) || !shown(e)) continue;
          const text = e.closest('text');
          if (!text) judge(e, n.data, rgba(getComputedStyle(e).color), [behind(e, known)]);
          else if (text.ownerSVGElement) judge(text, n.data, fill(e), drawnBehind(text, known));
        }
        for (const e of root.querySelectorAll('input, select, textarea, button'))
          if (shown(e) && !e.closest(skip)) judge(e, e.value, rgba(getComputedStyle(e).color), [behind(e, known)]);
      }
      return found;
    },

    /** What sticks out of a box to its right, and is in no box inside it that scrolls (or hides) and may: ``own``.
     *  In a box of ``tables`` that scrolls tables may stick out as well. */
    wide(selector = 'body', own = '*', tables = '.none') {
      const out = [], scrolls = e => getComputedStyle(e).overflowX !== 'visible';
      for (const box of document.querySelectorAll(selector)) {
        if (!box.checkVisibility()) continue;
        const limit = box.getBoundingClientRect().left + box.clientLeft + box.clientWidth + 1;
        const free = box.matches(tables) && scrolls(box);
        for (const e of box.querySelectorAll('*')) {
          if (!e.checkVisibility() || e.ownerSVGElement || e.closest('.sidebar-drawer, .toc-drawer')) continue;
          const right = e.getBoundingClientRect().right;
          if (right <= limit || (free && e.closest('table'))) continue;
          let p = e.parentElement;
          while (p !== box && !(p.matches(own) && scrolls(p))) p = p.parentElement;
          if (p === box) out.push(`${named(e)}: ${Math.round(right)} of ${Math.round(limit)}`);
        }
      }
      return out.slice(0, 8);
    },

    /** What a reader without a mouse wants to reach. */
    controls(root = document) {
      const all = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"], [contenteditable=true]';
      return [...root.querySelectorAll(all)].filter(e => !e.disabled && shown(e));
    },

    /** From now on: remember which of the controls now on show get the focus, and whether the reader sees it. */
    watch(root = document) {
      document.activeElement.blur();
      looks.wanted = new Map(looks.controls(root).map(e => [e, frame(e)]));
      looks.seen = new Map();
      return looks.wanted.size;
    },

    /** Controls that the focus has not come to, or came to unseen. */
    missed() {
      return [...looks.wanted.keys()].filter(e => !looks.seen.get(e))
        .map(e => `${looks.seen.has(e) ? 'unseen' : 'not reached'}: ${named(e)}`).slice(0, 8);
    },
  };
  document.addEventListener('focusin', ({target}) => {
    const seen = frame(target) !== looks.wanted?.get(target) && target.getBoundingClientRect().width > 0;
    looks.seen?.set(target, seen);
  });
  window.looks = looks;
})();
