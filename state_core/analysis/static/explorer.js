// The explorer of a token graph. Markup: <div class="explorer" data-graph="ID">; the script element
// of that ID holds a list of one reading, or of two to compare (see readings.js).

const STEPS = [13, 20], SLANT = -55 * Math.PI / 180, LABELS = 64, MARGIN = 30;

class Explorer {
  // attribute: (number of a reading, token) → a promise of where the word after the token comes from.
  constructor(root, attribute = null) {
    this.root = root;
    this.attribute = attribute;
    this.tip = element("div", { class: "tip", hidden: true });
    document.body.append(this.tip);
    this.resized = new ResizeObserver(() => this.fit());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.recolour(); this.update(); });
  }

  load(readings, chosen = null) {
    this.views = viewsOf(readings);
    this.comparable = this.views.length !== 2;
    this.on = readings[0].kinds.map((_, kind) => kind === SEMANTIC || kind === SUCCESSOR);
    this.sidesOn = [false, true, true];
    this.blocksOff = new Set();
    this.byAttribution = false;
    this.ranks = 2;
    this.chosen = chosen;
    this.show(this.views.length - 1);
  }

  // One of the models, or their difference.
  show(view) {
    const before = this.data;
    this.data = this.views[view];
    this.hovered = this.edge = null;
    if (this.chosen !== null && before && this.chosen >= this.data.tokens.length) this.chosen = null;
    this.drawn = [];
    this.recolour();
    this.build();
    this.fit();
    this.choose(this.chosen);
  }

  // Where everything goes. The canvas is as wide as its viewport and is drawn anew on scrolling, so
  // that a text of thousands of tokens costs no more memory than a sentence.
  build() {
    const { tokens, k } = this.data;
    this.ranks = Math.min(this.ranks, k || 1);
    this.slider = element("input", {
      type: "range", min: 1, max: Math.max(1, k), value: this.ranks, "aria-label": "semantic edges shown per token",
      oninput: () => { this.ranks = Number(this.slider.value); this.update(); },
    });
    this.slider.value = this.ranks;
    this.count = element("span");
    this.reset = element("button", { type: "button", onclick: () => this.choose(null) }, "all tokens");
    this.canvas = element("canvas", { role: "img", "aria-label": "Arc diagram of the token graph; the list below holds the same edges" });
    this.spacer = element("div", { style: "height:0" });
    this.stage = element("div", { class: "stage" }, this.canvas, this.spacer);
    this.text = element("div", { class: "text", tabindex: 0, "aria-label": "The text; arrow keys move between tokens" });
    this.spans = tokens.map((token, i) => element("span", { "data-token": i }, token));
    this.text.append(...this.spans);
    this.panel = new Panel(this);
    this.root.replaceChildren(...this.switches(),
      element("div", { class: "controls" }, ...this.kindToggles(),
        element("label", { hidden: !k }, "nearest ", this.slider, " ", this.count), this.reset, ...this.shading()),
      ...this.blockToggles(), this.stage, this.text, this.panel.root);
    this.listen();
  }

  // Which model's graph, or what differs between two.
  switches() {
    if (this.views.length === 1) return [];
    const buttons = this.views.map((view, n) => element("button", {
      type: "button", "aria-pressed": String(view === this.data), onclick: () => this.show(n),
    }, view.name));
    const reason = this.comparable ? "" : element("span", { class: "note" }, "Their vocabularies cut the text differently, so that edges cannot be compared.");
    const sides = !this.data.sides ? [] : this.data.sides.map((name, side) => {
      const count = this.data.edges.filter((e) => e.side === side && this.on[e.kind]).length;
      return this.toggle(name, this.sideColour(side), count, { "data-side": side }, () => this.sidesOn[side], (on) => { this.sidesOn[side] = on; });
    });
    return [element("div", { class: "controls switches" }, ...buttons, reason, ...sides)];
  }

  kindToggles() {
    const { kinds, edges } = this.data, counts = kinds.map((_, kind) => edges.filter((e) => e.kind === kind).length);
    return kinds.map((name, kind) => counts[kind] === 0 ? "" : this.toggle(name, `var(--${name})`, counts[kind], { "data-kind": name },
      () => this.on[kind], (on) => { this.on[kind] = on; if (this.data.sides) this.show(this.views.indexOf(this.data)); }));
  }

  blockToggles() {
    const { blocks, edges } = this.data;
    if (blocks.length < 2) return [];
    const counts = blocks.map((_, b) => edges.filter((e) => e.most === b).length);
    const toggles = blocks.map(({ name, label }, b) => counts[b] === 0 ? "" : this.toggle(label, this.blockColours[b], counts[b], { "data-block": name },
      () => !this.blocksOff.has(name), (on) => { if (on) this.blocksOff.delete(name); else this.blocksOff.add(name); }));
    return [element("div", { class: "controls" }, element("span", { class: "note" }, "made mostly of"), ...toggles)];
  }

  shading() {
    if (!this.attribute) return [];
    const box = element("input", { type: "checkbox", "data-shade": "attribution" });
    box.checked = this.byAttribution;
    box.addEventListener("change", () => { this.byAttribution = box.checked; this.shade(); });
    return [element("label", {}, box, "colour the text by attribution")];
  }

  toggle(name, colour, count, attributes, get, set) {
    const box = element("input", { type: "checkbox", ...attributes });
    box.checked = get();
    const label = element("label", { class: get() ? "" : "off" }, box,
      element("span", { class: "swatch", style: `background:${colour}` }), `${name} `, element("span", { class: "note" }, number(count)));
    box.addEventListener("change", () => {
      set(box.checked);
      label.classList.toggle("off", !box.checked);
      this.update();
    });
    return label;
  }

  listen() {
    this.resized.disconnect();
    this.resized.observe(this.stage);
    this.stage.addEventListener("scroll", () => this.draw());
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
    if (!this.data) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.ink = colour("ink");
    this.kindColours = this.data.kinds.map(colour);
    this.sideColours = ["sequential", "ours", "theirs"].map(colour);
    // Blocks of one source share its hue and differ in lightness.
    const seen = {};
    this.blockColours = this.data.blocks.map(({ source }) => {
      const nth = seen[source] = (seen[source] ?? -1) + 1;
      return `color-mix(in oklab, var(--${source}), var(--paper) ${nth * 22}%)`;
    });
  }

  sideColour(side) { return `var(--${["sequential", "ours", "theirs"][side]})`; }
  colour(edge) { return this.data.sides ? this.sideColour(edge.side) : `var(--${this.data.kinds[edge.kind]})`; }
  pencil(edge) { return this.data.sides ? this.sideColours[edge.side] : this.kindColours[edge.kind]; }

  visible(edge) {
    if (!this.on[edge.kind] || this.blocksOff.has(this.data.blocks[edge.most]?.name)) return false;
    if (this.data.sides && !this.sidesOn[edge.side]) return false;
    if (this.chosen !== null) return edge.i === this.chosen;
    return !(edge.kind === SEMANTIC || edge.kind === SUCCESSOR) || edge.rank <= this.ranks;
  }

  choose(token, edge = null) {
    const moved = token !== this.chosen || !this.attributions;
    this.chosen = token;
    this.edge = edge;
    this.hovered = null;
    if (token !== null) {
      const x = this.x(token), { scrollLeft, clientWidth } = this.stage;
      if (x < scrollLeft + 40 || x > scrollLeft + clientWidth - 40) this.stage.scrollLeft = x - clientWidth / 2;
      const { offsetTop } = this.spans[token], { scrollTop, clientHeight } = this.text;
      if (offsetTop < scrollTop || offsetTop > scrollTop + clientHeight - 30) this.text.scrollTop = offsetTop - clientHeight / 2;
    }
    if (moved) this.askAttributions();
    this.update();
  }

  // Answers that come after another token was chosen are for nobody.
  async askAttributions() {
    const mine = this.attributions = new Map(), { chosen } = this;
    if (!this.attribute || chosen === null) return;
    const readings = this.views.filter(({ sides }) => !sides).map(({ members }) => members[0]);
    for (const reading of readings) {
      if (this.attributions !== mine) return;
      if (chosen >= reading.tokens.length) continue;
      const told = await this.attribute(readings.indexOf(reading), chosen).catch((error) => ({ error: error.message }));
      mine.set(reading, told);
      if (this.attributions === mine) { this.shade(); this.panel.describe(); }
    }
  }

  update() {
    this.drawn = this.data.edges.filter((edge) => this.visible(edge));
    if (this.edge && !this.drawn.includes(this.edge)) this.edge = null;
    // Thickness spans the weights of the semantic edges in view.
    const weights = this.drawn.filter((e) => e.kind === SEMANTIC).map((e) => e.weight);
    this.low = weights.reduce((a, b) => Math.min(a, b), 1);
    this.high = weights.reduce((a, b) => Math.max(a, b), this.low);
    this.count.textContent = this.chosen === null ? `${this.ranks} of ${this.data.k}` : "all of this token";
    this.slider.disabled = this.chosen !== null;
    this.reset.disabled = this.chosen === null;
    this.draw();
    this.shade();
    this.panel.describe();
  }

  // A sentence fills the width; a longer text scrolls.
  fit() {
    if (!this.data) return;
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
    this.span = this.drawn.reduce((most, e) => Math.max(most, e.i - e.j), 24);
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
      this.arc(edge, edge === this.hovered || edge === this.edge);
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
    pen.strokeStyle = strong ? this.ink : this.pencil(edge);
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
    const text = word(this.data.tokens[i]);
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
    this.tip.replaceChildren(...this.panel.tip(edge));
    const { offsetWidth: w, offsetHeight: h } = this.tip;
    this.tip.style.left = `${Math.max(8, Math.min(event.clientX + 16, innerWidth - w - 12))}px`;
    this.tip.style.top = `${event.clientY + 18 + h > innerHeight ? event.clientY - h - 12 : event.clientY + 18}px`;
  }

  click(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left + this.stage.scrollLeft, y = event.clientY - box.top;
    const edge = this.edgeAt(x, y);
    if (edge) return this.choose(edge.i, edge);
    if (y <= this.base) return this.choose(null);
    // Labels hang to the left below their token.
    const token = Math.round((x - 4 - MARGIN + Math.max(0, y - this.base - 12) / Math.tan(-SLANT)) / this.step - 0.5);
    if (token >= 0 && token < this.data.tokens.length) this.choose(token === this.chosen ? null : token);
  }

  shade() {
    this.spans.forEach((span, i) => {
      span.className = i === this.chosen ? "chosen" : "";
      span.style.background = "";
    });
    if (this.chosen === null) return;
    if (this.byAttribution) return this.shadeByAttribution();
    for (const edge of [...this.drawn].sort((a, b) => this.strength(a) - this.strength(b))) {
      if (edge.j !== this.chosen) this.tint(edge.j, this.colour(edge), 12 + 40 * this.strength(edge));
    }
  }

  // Of the first model in view: blue speaks for the word, ochre against it.
  shadeByAttribution() {
    const tokens = this.attributions?.get(this.data.members[0])?.tokens ?? {};
    const most = Object.values(tokens).reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    for (const [token, share] of Object.entries(tokens)) {
      if (Number(token) !== this.chosen && Math.abs(share) >= 0.02 * most) this.tint(token, `var(--${share > 0 ? "ours" : "theirs"})`, 10 + 50 * Math.abs(share) / most);
    }
  }

  tint(token, colour, share) {
    this.spans[token].style.background = `color-mix(in srgb, ${colour} ${Math.round(share)}%, transparent)`;
  }
}

for (const root of document.querySelectorAll(".explorer[data-graph]")) {
  const readings = JSON.parse(document.getElementById(root.dataset.graph).textContent);
  root.explorer = new Explorer(root);
  root.explorer.load(readings, root.dataset.chosen ? Number(root.dataset.chosen) : null);
}
