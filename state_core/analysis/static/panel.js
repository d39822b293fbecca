// What the explorer says of the chosen token and edge: why each edge is there, block by block, and
// where the word that is expected next comes from.

class Panel {
  constructor(explorer) {
    this.explorer = explorer;
    this.list = element("div", { class: "list" });
    this.said = element("div", { class: "said" });
    this.provenance = element("div", { class: "provenance", role: "status" });
    this.root = element("div", {}, this.provenance, element("div", { class: "panel" }, this.list, this.said));
  }

  get data() { return this.explorer.data; }

  describe() {
    const { chosen, edge, drawn } = this.explorer;
    this.provenance.replaceChildren(...(edge ? this.why(edge) : []));
    if (chosen === null) {
      this.list.replaceChildren(element("p", { class: "note" },
        "Each arc joins a token (right end) to an earlier one that it looks at (left end). Click an arc or a token."));
      this.said.replaceChildren();
      return;
    }
    const edges = [...drawn].sort((a, b) => b.weight - a.weight);
    this.list.replaceChildren(
      element("h3", {}, `“${word(this.data.tokens[chosen])}”, token ${chosen}, looks at`), this.legend(),
      edges.length ? element("div", { class: "scroll" }, this.table(edges))
        : element("p", { class: "note" }, "No edges of the kinds shown."));
    this.said.replaceChildren(...this.data.members.flatMap((reading) => this.prediction(reading)));
  }

  legend() {
    return element("div", { class: "legend" }, ...this.data.blocks.map((block, b) =>
      element("span", { title: block.about }, this.blockMark(b), block.label)));
  }

  table(edges) {
    const titles = ["where", "back", "weight", "made of", "why"];
    return element("table", {},
      element("tr", {}, ...titles.map((title, n) => element("th", n > 2 ? { class: "left" } : {}, title))),
      ...edges.map((edge) => this.row(edge)));
  }

  row(edge) {
    const { tokens } = this.data, pick = () => this.explorer.choose(edge.i, edge);
    return element("tr", {
      tabindex: 0, "data-edge": `${edge.i} ${edge.j}`, class: edge === this.explorer.edge ? "edge picked" : "edge",
      onclick: pick, onkeydown: (event) => { if (event.key === "Enter") pick(); },
    },
    element("td", { class: "where" }, element("span", { class: "around" }, this.around(edge.j - 3, edge.j)),
      element("b", {}, shown(tokens[edge.j])), element("span", { class: "around" }, this.around(edge.j + 1, edge.j + 3))),
    element("td", {}, `−${edge.i - edge.j}`), element("td", {}, signed(edge.weight, "")),
    element("td", { class: "left" }, this.bar(edge)),
    element("td", { class: "left" }, this.mark(edge), this.reason(edge)));
  }

  // One edge whole: every block, and that they add up.
  why(edge) {
    const { tokens, blocks, members } = this.data, found = this.sidesOf(edge);
    const given = blocks.map((_, b) => b).filter((b) => found.some((e) => e?.parts[b]));
    const sums = found.map((e) => e?.parts.reduce((a, b) => a + b, 0));
    const cell = (value) => element("td", {}, value === undefined ? "–" : signed(value));
    const heads = members.length > 1 ? element("tr", {}, element("th", {}), ...members.map(({ name }) => element("th", {}, name)), element("th", {})) : "";
    return [
      element("h3", {}, `“${word(tokens[edge.i])}” (${edge.i}) looks at “${word(tokens[edge.j])}” (${edge.j}), ${edge.i - edge.j} back`),
      ...found.flatMap((e, n) => this.facts(e, n)),
      element("div", { class: "scroll" }, element("table", { class: "blocks" }, heads,
        ...given.map((b) => element("tr", {}, element("td", {}, this.blockMark(b), blocks[b].label),
          ...found.map((e) => cell(e?.parts[b])), element("td", { class: "left note" }, blocks[b].about))),
        element("tr", { class: "sum" }, element("td", {}, "together"), ...sums.map(cell),
          element("td", { class: "left note" }, "the weight, up to rounding")))),
    ];
  }

  // The edge in each reading of the view; undefined where it is not.
  sidesOf(edge) {
    if (!this.data.sides) return [edge];
    if (edge.side === ONLY_SECOND) return [undefined, edge];
    return [edge, edge.other ?? undefined];
  }

  facts(edge, n) {
    const { members, tokens } = this.data, named = members.length > 1 ? `${members[n].name}: ` : "";
    if (!edge) return [element("p", {}, `${named}there is no such edge`)];
    const gate = edge.gate === null ? "" : `, gate ${edge.gate.toFixed(2)}`;
    const vote = edge.vote === null ? "" : `; it votes for “${word(tokens[edge.j + 1])}” with ${percent(edge.vote)} of the next word's probability`;
    return [element("p", {}, named, this.kindMark(edge.kind), `${this.data.kinds[edge.kind]}, ${this.reason(edge)}, weight ${signed(edge.weight, "")}${gate}${vote}`)];
  }

  tip(edge) {
    const { tokens, blocks } = this.data;
    return [
      element("div", {}, element("b", {}, word(tokens[edge.i])), " looks at ", element("b", {}, word(tokens[edge.j])), `, ${edge.i - edge.j} tokens back`),
      element("div", {}, this.mark(edge), this.reason(edge)),
      element("div", {}, `weight ${signed(edge.weight)}  `, this.bar(edge)),
      ...edge.parts.map((part, b) => part ? element("div", {}, this.blockMark(b), `${signed(part)}  ${blocks[b].label}`) : ""),
    ];
  }

  reason({ i, j, kind, rank }) {
    if (kind === SEQUENTIAL) return i === j ? "every token looks at itself" : `inside the window, ${i - j} back`;
    if (kind === SINK) return "one of the first tokens, which every token looks at";
    if (kind === SHORTCUT) return "a shortcut across the text";
    if (kind === RULE) return "the registered edge rule chose it";
    if (kind === SEMANTIC) return `no. ${rank} in similarity`;
    return `came after “${word(this.data.tokens[j - 1])}”, no. ${rank}`;
  }

  swatch(colour) { return element("span", { class: "swatch", style: `background:${colour}` }); }
  mark(edge) { return this.swatch(this.explorer.colour(edge)); }
  kindMark(kind) { return this.swatch(`var(--${this.data.kinds[kind]})`); }
  blockMark(b) { return this.swatch(this.explorer.blockColours[b]); }

  // Contributions side by side from the middle line: positive to the right, negative to the left.
  bar({ parts }) {
    const { negative, positive } = this.data.extent, unit = 100 / (negative + positive);
    const zero = negative * unit, bar = element("span", { class: "bar" });
    let right = zero, left = zero;
    parts.forEach((part, b) => {
      const width = unit * Math.abs(part);
      if (part < 0) left -= width;
      bar.append(element("i", { style: `left:${part < 0 ? left : right}%;width:${width}%;background:${this.explorer.blockColours[b]}` }));
      if (part > 0) right += width;
    });
    bar.append(element("i", { class: "zero", style: `left:${zero}%` }));
    return bar;
  }

  around(from, to) {
    return shown(this.data.tokens.slice(Math.max(0, from), Math.max(0, to)).join(""));
  }

  prediction(reading) {
    const next = reading.next?.[this.explorer.chosen];
    if (!next) return [];
    const whose = this.data.members.length > 1 ? `${reading.name} expects` : "and expects";
    const actual = next.actual === null ? [] : [element("p", { class: "note" },
      `What came: “${word(next.actual)}”, given ${percent(next.p_actual)}.`)];
    return [
      element("h3", {}, `${whose} “${word(next.word)}” next (${percent(next.p)})`),
      ...next.sources.map(([share, j, kind]) => element("div", {},
        `${percent(share)} from `, ...(j === null ? [kind === null ? "the vocabulary head" : "memory of what was read before"] : [this.kindMark(kind),
          `“${this.around(j - 2, j + 1)}`, element("b", {}, shown(this.data.tokens[j + 1])), `”, ${this.explorer.chosen - j} back`]))),
      ...actual, ...this.attribution(reading)];
  }

  // All of the prediction: votes, and the vocabulary head's share by its parts.
  attribution(reading) {
    const told = this.explorer.attributions?.get(reading);
    if (!told) return [];
    if (told.error) return [element("p", { class: "problem" }, told.error)];
    const line = (name, share, style) => element("tr", { class: style }, element("td", {}, this.partName(name)), element("td", {}, percent(share)));
    const whole = told.groups.reduce((sum, [, share]) => sum + share, 0);
    return [element("table", { class: "attribution" },
      ...told.groups.flatMap(([name, share, parts]) => [line(name, share, "group"), ...parts.map(([part, x]) => line(part, x, "part"))]),
      line("together", whole, "sum"))];
  }

  partName(name) {
    const to = /^edge to (\d+)$/.exec(name), names = { vocabulary: "the vocabulary head", pointer: "votes of edges", memory: "memory", embed: "the token and its state" };
    return to ? `“${word(this.data.tokens[Number(to[1]) + 1])}” after “${word(this.data.tokens[Number(to[1])])}” (${to[1]})` : names[name] ?? name;
  }
}
