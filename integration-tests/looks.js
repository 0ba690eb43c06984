// What the tests of a page ask of how it looks, in the page itself.

// Colours.

function parse(color) {
  const [, kind, numbers] = /^(rgba?)\((.*)\)$/.exec(color) ?? [];
  if (!kind) throw new Error(`a colour of another kind: ${color}`);
  const [red, green, blue, alpha = 1] = numbers.split(/[ ,/]+/).map(Number);
  return { channels: [red, green, blue], alpha };
}

function over({ channels, alpha }, below) {
  return channels.map((value, index) => value * alpha + below[index] * (1 - alpha));
}

function luminance(channels) {
  const [red, green, blue] = channels.map((value) => value / 255).map(
    (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** The contrast of two opaque colours, by WCAG 2. */
function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

/** What is behind the content of an element: its background, upon those it lies on. */
function background(element) {
  if (!element) return [255, 255, 255];
  const style = getComputedStyle(element), below = background(element.parentElement);
  if (style.backgroundImage !== "none") throw new Error("a background with an image");
  const { channels, alpha } = parse(style.backgroundColor);
  return over({ channels, alpha: alpha * style.opacity }, below);
}

/** A colour of an element, upon what is behind it. */
function seen(element, color, below) {
  let { channels, alpha } = parse(color);
  for (let each = element; each; each = each.parentElement) alpha *= getComputedStyle(each).opacity;
  return over({ channels, alpha }, below);
}

function textNodes() {
  const nodes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    const isText = !parent.matches("script, style, noscript") && node.data.trim();
    if (isText && parent.checkVisibility({ visibilityProperty: true })) nodes.push(node);
  }
  return nodes;
}

const CONTROLS = "a, button, input, select, textarea, [tabindex]";

function controls() {
  return [...document.querySelectorAll(CONTROLS)].filter((each) => each.checkVisibility());
}

/** Each text that is visible, what is typed included, with its contrast. */
function textContrasts() {
  const texts = textNodes().map((node) => [node.data.trim(), node.parentElement]);
  const typed = controls().filter((each) => each.value).map((each) => [each.value, each]);
  return [...texts, ...typed].map(([text, element]) => {
    const below = background(element);
    return { text, contrast: contrast(seen(element, getComputedStyle(element).color, below), below) };
  });
}

/** Each control that can be used, with the contrast of its surface or edge with its surroundings. */
function controlContrasts() {
  return controls().filter((each) => each.matches("button, input") && each.ariaDisabled !== "true")
    .map((each) => {
      const outside = background(each.parentElement);
      const edge = seen(each, getComputedStyle(each).borderTopColor, outside);
      const shown = Math.max(contrast(edge, outside), contrast(background(each), outside));
      return { text: each.id || each.textContent, contrast: shown };
    });
}

/** The contrast of the outline of what has the focus, or 0 if none is seen. */
function focusContrast() {
  const element = document.activeElement, style = getComputedStyle(element);
  if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) return 0;
  const outside = background(element.parentElement);
  return contrast(seen(element, style.outlineColor, outside), outside);
}

// Places.

function clip(rect, element) {
  let { left, top, right, bottom } = rect;
  for (let each = element; each; each = each.parentElement) {
    if (getComputedStyle(each).overflow === "visible") continue;
    const box = each.getBoundingClientRect();
    left = Math.max(left, box.left);
    top = Math.max(top, box.top);
    right = Math.min(right, box.right);
    bottom = Math.min(bottom, box.bottom);
  }
  return { left, top, right, bottom };
}

/** The places of all lines of text and of all controls that no text is in. */
function places() {
  const found = [];
  for (const node of textNodes()) {
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const place = clip(rect, node.parentElement);
      const isThere = place.right - place.left > 1 && place.bottom - place.top > 1;
      if (isThere) found.push({ what: node.data.trim(), whole: rect, element: node.parentElement, ...place });
    }
  }
  for (const element of document.querySelectorAll("button, input, svg, .track")) {
    if (!element.checkVisibility()) continue;
    const rect = element.getBoundingClientRect();
    found.push({ what: element.id || element.className, whole: rect, element, ...clip(rect, element.parentElement) });
  }
  return found;
}

/** Pairs of what lies on one another, without being in one another. */
function overlaps() {
  const all = places();
  return all.flatMap((one, index) => all.slice(index + 1).filter((other) =>
    one.element !== other.element &&
    !one.element.contains(other.element) && !other.element.contains(one.element) &&
    Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1 &&
    Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 1,
  ).map((other) => [one.what, other.what]));
}

/** What is cut off at a side, by the window or by what it is in. */
function cutOff() {
  return places().filter(({ whole, left, right }) =>
    whole.left < Math.max(left, 0) - 1 ||
    whole.right > Math.min(right, document.documentElement.clientWidth) + 1,
  ).map(({ what }) => what);
}

/** Buttons and fields that are too small for a finger. */
function smallTargets(least) {
  return controls().filter((each) => each.matches("a, button, input")).filter((each) => {
    const { width, height } = each.getBoundingClientRect();
    return width < least || height < least;
  }).map((each) => each.id || each.textContent);
}
