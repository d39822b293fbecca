// The explorer of a token graph. Markup: <div class="explorer" data-graph="ID">; the script element
// of that ID holds what state_core/analysis/explorer.py wrote:
//   tokens  the text of each token            kinds   names of the kinds of edges
//   blocks  [{name, label, source}]           k       the most semantic edges of a token
//   rows    per token: [[j, kind, weight, rank, contribution of each block…], …]
//   next    per token: {word, p, actual, p_actual, sources: [[share, j, kind]…]}, or null
// Text reaches the page through textContent and fillText only.
"use strict";

const STEPS = [13, 20], SLANT = -55 * Math.PI / 180, LABELS = 64, MARGIN = 30;
const [SEQUENTIAL, SEMANTIC, SUCCESSOR, SINK, SHORTCUT, RULE] = [0, 1, 2, 3, 4, 5];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") node.style.cssText = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const shown = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
const percent = (x) => x >= 0.995 ? "100 %" : x >= 0.0995 ? `${Math.round(100 * x)} %` : `${(100 * x).toFixed(1)} %`;
const signed = (x, plus = "+") => (x < 0 ? "−" : plus) + Math.abs(x).toFixed(3);

class Explorer {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(document.getElementById(root.dataset.graph).textContent);
    this.on = this.data.kinds.map((_, kind) => kind === SEMANTIC || kind === SUCCESSOR);
    this.ranks = Math.min(2, this.data.k || 1);
    this.chosen = null;
    this.hovered = null;
    this.edges = this.listEdges();
    this.drawn = [];
    this.recolour();
    this.build();
    this.fit();
    this.choose(root.dataset.chosen ? Number(root.dataset.chosen) : null);
  }

  listEdges() {
    const edges = [];
    this.data.rows.forEach((row, i) => row.forEach(([j, kind, weight, rank, ...parts]) =>
      edges.push({ i, j, kind, weight, rank, parts })));
    return edges;
  }

  // Where everything goes. The canvas is as wide as its viewport and is drawn anew on scrolling, so
  // that a text of thousands of tokens costs no more memory than a sentence.
  build() {
    const { tokens, kinds } = this.data;
    const counts = kinds.map((_, kind) => this.edges.filter((e) => e.kind === kind).length);
    const toggles = kinds.map((name, kind) => counts[kind] === 0 ? "" : this.toggle(name, kind, counts[kind]));
    this.slider = element("input", {
      type: "range", min: 1, max: Math.max(1, this.data.k), value: this.ranks,
      "aria-label": "semantic edges shown per token",
      oninput: () => { this.ranks = Number(this.slider.value); this.update(); },
    });
    this.count = element("span");
    this.reset = element("button", { type: "button", onclick: () => this.choose(null) }, "all tokens");
    this.canvas = element("canvas", { role: "img", "aria-label": "Arc diagram of the token graph; the list below holds the same edges" });
    this.spacer = element("div", { style: "height:0" });
    this.stage = element("div", { class: "stage" }, this.canvas, this.spacer);
    this.text = element("div", { class: "text", tabindex: 0, "aria-label": "The text; arrow keys move between tokens" });
    this.spans = tokens.map((token, i) => element("span", { "data-token": i }, token));
    this.text.append(...this.spans);
    this.list = element("div", { class: "list" });
    this.said = element("div", { class: "said" });
    this.tip = element("div", { class: "tip", hidden: true });
    this.root.replaceChildren(
      element("div", { class: "controls" }, ...toggles,
        element("label", { hidden: !this.data.k }, "nearest ", this.slider, " ", this.count), this.reset),
      this.stage, this.text, element("div", { class: "panel" }, this.list, this.said));
    document.body.append(this.tip);
    this.listen();
  }

  toggle(name, kind, count) {
    const box = element("input", { type: "checkbox", "data-kind": name });
    box.checked = this.on[kind];
    const label = element("label", { class: this.on[kind] ? "" : "off" }, box,
      element("span", { class: "swatch", style: `background:var(--${name})` }), `${name} `,
      element("span", { class: "note" }, count.toLocaleString("en")));
    box.addEventListener("change", () => {
      this.on[kind] = box.checked;
      label.classList.toggle("off", !box.checked);
      this.update();
    });
    return label;
  }

  listen() {
    this.stage.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.fit()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.recolour(); this.update(); });
    this.canvas.addEventListener("mousemove", (event) => this.hover(event));
    this.canvas.addEventListener("mouseleave", () => this.hover(null));
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.text.addEventListener("click", (event) => {
      const token = event.target.dataset?.token;
      if (token !== undefined) this.choose(Number(token) === this.chosen ? null : Number(token));
    });
    this.text.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") this.choose(null);
      if (!step) return;
      event.preventDefault();
      const next = this.chosen === null ? 0 : this.chosen + step;
      this.choose(Math.min(Math.max(next, 0), this.data.tokens.length - 1));
    });
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.ink = colour("ink"); this.muted = colour("muted");
    this.kindColours = this.data.kinds.map(colour);
    // Blocks of one source share its hue and differ in lightness.
    const seen = {};
    this.blockColours = this.data.blocks.map(({ source }) => {
      const nth = seen[source] = (seen[source] ?? -1) + 1;
      return `color-mix(in oklab, var(--${source}), var(--paper) ${nth * 22}%)`;
    });
  }

  visible(edge) {
    if (!this.on[edge.kind]) return false;
    if (this.chosen !== null) return edge.i === this.chosen;
    return !(edge.kind === SEMANTIC || edge.kind === SUCCESSOR) || edge.rank <= this.ranks;
  }

  choose(token) {
    this.chosen = token;
    this.hovered = null;
    if (token !== null) {
      const x = this.x(token), { scrollLeft, clientWidth } = this.stage;
      if (x < scrollLeft + 40 || x > scrollLeft + clientWidth - 40) this.stage.scrollLeft = x - clientWidth / 2;
      const { offsetTop } = this.spans[token], { scrollTop, clientHeight } = this.text;
      if (offsetTop < scrollTop || offsetTop > scrollTop + clientHeight - 30) this.text.scrollTop = offsetTop - clientHeight / 2;
    }
    this.update();
  }

  update() {
    this.drawn = this.edges.filter((edge) => this.visible(edge));
    // Thickness spans the weights of the semantic edges in view.
    const weights = this.drawn.filter((e) => e.kind === SEMANTIC).map((e) => e.weight);
    this.low = weights.reduce((a, b) => Math.min(a, b), 1);
    this.high = weights.reduce((a, b) => Math.max(a, b), this.low);
    this.count.textContent = this.chosen === null ? `${this.ranks} of ${this.data.k}` : "all of this token";
    this.slider.disabled = this.chosen !== null;
    this.reset.disabled = this.chosen === null;
    this.draw();
    this.shade();
    this.describe();
  }

  // A sentence fills the width; a longer text scrolls.
  fit() {
    const room = (this.stage.clientWidth - MARGIN) / this.data.tokens.length;
    this.step = Math.min(Math.max(room, STEPS[0]), STEPS[1]);
    this.spacer.style.width = `${this.data.tokens.length * this.step + MARGIN}px`;
    this.draw();
  }

  x(token) { return (token + 0.5) * this.step + MARGIN; }

  height(edge) {
    // The square root leaves room for both short and long arcs.
    return 14 + (this.base - 24) * Math.sqrt((edge.i - edge.j) / Math.max(1, this.span));
  }

  strength(edge) {
    if (edge.kind === SEQUENTIAL || edge.kind === SINK) return 0.1;
    const s = (edge.weight - this.low) / Math.max(1e-6, this.high - this.low);
    return Math.min(1, Math.max(0, s));
  }

  draw() {
    const width = this.stage.clientWidth, n = this.data.tokens.length;
    this.span = Math.max(...this.drawn.map((e) => e.i - e.j), 24);
    this.base = Math.min(300, 90 + 26 * Math.sqrt(this.span));
    const height = this.base + LABELS, ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * ratio, height: height * ratio });
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = this.pen = this.canvas.getContext("2d"), left = this.stage.scrollLeft;
    pen.scale(ratio, ratio);
    pen.translate(-left, 0);
    const order = [...this.drawn].sort((a, b) => this.strength(a) - this.strength(b));
    for (const edge of order) {
      if (this.x(edge.i) < left || this.x(edge.j) > left + width) continue;
      this.arc(edge, edge === this.hovered);
    }
    const first = Math.max(0, Math.floor((left - MARGIN) / this.step)), last = Math.min(n, Math.ceil((left + width) / this.step) + 5);
    const related = new Set(this.drawn.flatMap((e) => this.chosen === null ? [] : [e.j]));
    for (let i = first; i < last; i++) this.label(i, related);
  }

  arc(edge, strong) {
    const pen = this.pen, s = this.strength(edge), middle = (this.x(edge.i) + this.x(edge.j)) / 2;
    const radius = Math.max((this.x(edge.i) - this.x(edge.j)) / 2, 4);
    pen.beginPath();
    pen.ellipse(middle, this.base, radius, this.height(edge), 0, Math.PI, 2 * Math.PI);
    pen.strokeStyle = strong ? this.ink : this.kindColours[edge.kind];
    pen.globalAlpha = strong ? 1 : this.chosen !== null ? 0.35 + 0.65 * s : 0.14 + 0.66 * s * s;
    pen.lineWidth = (strong ? 1 : 0) + 0.6 + 3 * s * s;
    pen.stroke();
    pen.globalAlpha = 1;
  }

  label(i, related) {
    const pen = this.pen;
    pen.save();
    pen.translate(this.x(i) + 4, this.base + 12);
    pen.rotate(SLANT);
    pen.textAlign = "right";
    pen.font = `${i === this.chosen ? "600 " : ""}12px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif`;
    pen.fillStyle = this.ink;
    pen.globalAlpha = this.chosen === null || i === this.chosen || related.has(i) ? 1 : 0.4;
    const text = shown(this.data.tokens[i]).trim() || "␣";
    pen.fillText(text.length > 11 ? text.slice(0, 10) + "…" : text, 0, 0);
    pen.restore();
  }

  // The arc under the pointer: how far is the point from the ellipse, measured along its radius?
  edgeAt(x, y) {
    let best = null, least = 5;
    for (const edge of this.drawn) {
      const radius = Math.max((this.x(edge.i) - this.x(edge.j)) / 2, 4);
      const dx = x - (this.x(edge.i) + this.x(edge.j)) / 2, dy = y - this.base;
      if (dy > 0 || Math.abs(dx) > radius + 5) continue;
      const norm = Math.hypot(dx / radius, dy / this.height(edge)), distance = Math.hypot(dx, dy);
      const off = norm ? Math.abs(distance - distance / norm) : Infinity;
      if (off < least) [best, least] = [edge, off];
    }
    return best;
  }

  hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event ? event.clientX - box.left + this.stage.scrollLeft : 0, y = event ? event.clientY - box.top : 0;
    const edge = event ? this.edgeAt(x, y) : null;
    this.canvas.style.cursor = edge || (event && y > this.base) ? "pointer" : "default";
    if (edge !== this.hovered) { this.hovered = edge; this.draw(); }
    this.tip.hidden = !edge;
    if (!edge) return;
    this.tip.replaceChildren(
      element("div", {}, element("b", {}, shown(this.data.tokens[edge.i]).trim()), " looks at ",
        element("b", {}, shown(this.data.tokens[edge.j]).trim()), `, ${edge.i - edge.j} tokens back`),
      element("div", {}, this.kindMark(edge.kind), this.reason(edge)),
      element("div", {}, `weight ${signed(edge.weight)}  `, this.bar(edge)),
      ...edge.parts.map((part, b) => [part, b]).filter(([part]) => part).map(([part, b]) =>
        element("div", {}, this.blockMark(b), `${signed(part)}  ${this.data.blocks[b].label}`)));
    const { offsetWidth: w, offsetHeight: h } = this.tip;
    this.tip.style.left = `${Math.max(8, Math.min(event.clientX + 16, innerWidth - w - 12))}px`;
    this.tip.style.top = `${event.clientY + 18 + h > innerHeight ? event.clientY - h - 12 : event.clientY + 18}px`;
  }

  click(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left + this.stage.scrollLeft, y = event.clientY - box.top;
    const edge = this.edgeAt(x, y);
    // Labels hang to the left below their token.
    const token = edge ? edge.i : Math.round((x - 4 - MARGIN + Math.max(0, y - this.base - 12) / Math.tan(-SLANT)) / this.step - 0.5);
    if (y <= this.base && !edge) return this.choose(null);
    if (token >= 0 && token < this.data.tokens.length) this.choose(token === this.chosen ? null : token);
  }

  reason({ i, j, kind, rank }) {
    if (kind === SEQUENTIAL) return i === j ? "every token looks at itself" : `inside the window, ${i - j} back`;
    if (kind === SINK) return "one of the first tokens, which every token looks at";
    if (kind === SHORTCUT) return "a shortcut across the text";
    if (kind === RULE) return "the registered edge rule chose it";
    if (kind === SEMANTIC) return `no. ${rank} in similarity`;
    return `came after “${shown(this.data.tokens[j - 1]).trim() || "␣"}”, no. ${rank}`;
  }

  kindMark(kind) { return element("span", { class: "swatch", style: `background:var(--${this.data.kinds[kind]})` }); }
  blockMark(b) { return element("span", { class: "swatch", style: `background:${this.blockColours[b]}` }); }

  // Contributions side by side from the middle line: positive to the right, negative to the left.
  bar({ parts }) {
    const { negative, positive } = this.data.extent, unit = 100 / (negative + positive);
    const zero = negative * unit, bar = element("span", { class: "bar" });
    let right = zero, left = zero;
    parts.forEach((part, b) => {
      const width = unit * Math.abs(part);
      if (part < 0) left -= width;
      bar.append(element("i", { style: `left:${part < 0 ? left : right}%;width:${width}%;background:${this.blockColours[b]}` }));
      if (part > 0) right += width;
    });
    bar.append(element("i", { class: "zero", style: `left:${zero}%` }));
    return bar;
  }

  shade() {
    this.spans.forEach((span, i) => {
      span.className = i === this.chosen ? "chosen" : "";
      span.style.background = "";
    });
    if (this.chosen === null) return;
    for (const edge of [...this.drawn].sort((a, b) => this.strength(a) - this.strength(b))) {
      if (edge.j === this.chosen) continue;
      const share = Math.round(12 + 40 * this.strength(edge));
      this.spans[edge.j].style.background = `color-mix(in srgb, var(--${this.data.kinds[edge.kind]}) ${share}%, transparent)`;
    }
  }

  describe() {
    if (this.chosen === null) {
      this.list.replaceChildren(element("p", { class: "note" },
        "Each arc joins a token (right end) to an earlier one that it looks at (left end). Hover over an arc, or click a token."));
      this.said.replaceChildren();
      return;
    }
    const edges = [...this.drawn].sort((a, b) => b.weight - a.weight);
    const legend = element("div", { class: "legend" }, ...this.data.blocks.map((block, b) =>
      element("span", { title: block.about }, this.blockMark(b), block.label)));
    const rows = edges.map((edge) => element("tr", {},
      element("td", { class: "where" }, element("span", { class: "around" }, this.around(edge.j - 3, edge.j)),
        element("b", {}, shown(this.data.tokens[edge.j])),
        element("span", { class: "around" }, this.around(edge.j + 1, edge.j + 3))),
      element("td", {}, `−${edge.i - edge.j}`), element("td", {}, signed(edge.weight, "")),
      element("td", { style: "text-align:left" }, this.bar(edge)),
      element("td", { style: "text-align:left" }, this.kindMark(edge.kind), this.reason(edge))));
    const word = shown(this.data.tokens[this.chosen]).trim() || "␣";
    this.list.replaceChildren(
      element("h3", {}, `“${word}”, token ${this.chosen}, looks at`), legend,
      edges.length ? element("div", { class: "scroll" }, element("table", {},
        element("tr", {}, ...["where", "back", "weight", "made of", "why"].map((title, i) =>
          element("th", i > 2 ? { style: "text-align:left" } : {}, title))), ...rows))
        : element("p", { class: "note" }, "No edges of the kinds shown."));
    this.said.replaceChildren(...this.prediction(this.data.next?.[this.chosen]));
  }

  around(from, to) {
    return shown(this.data.tokens.slice(Math.max(0, from), Math.max(0, to)).join(""));
  }

  prediction(next) {
    if (!next) return [];
    const actual = next.actual === null ? [] : [element("p", { class: "note" },
      `What came: “${shown(next.actual).trim() || "↵"}”, given ${percent(next.p_actual)}.`)];
    return [
      element("h3", {}, `and expects “${shown(next.word).trim() || "↵"}” next (${percent(next.p)})`),
      ...next.sources.map(([share, j, kind]) => element("div", {},
        `${percent(share)} from `, ...(j === null ? ["the vocabulary head"] : [this.kindMark(kind),
          `“${this.around(j - 2, j + 1)}`, element("b", {}, shown(this.data.tokens[j + 1])), `”, ${this.chosen - j} back`]))),
      ...actual];
  }
}

for (const root of document.querySelectorAll(".explorer")) root.explorer = new Explorer(root);
