// What the explorer shows: a reading, which is what one model makes of a text, or the difference of
// two. A reading is what state_core/analysis/explorer.py wrote:
//   name    of the model                      tokens  the text of each token
//   blocks  [{name, label, source, about}]    kinds   names of the kinds of edges
//   extent  of the bars                       k       the most semantic edges of a token
//   rows    per token: [[j, kind, weight, rank, gate, vote, contribution of each block…], …]
//   next    per token: {word, p, actual, p_actual, sources: [[share, j, kind]…]}, or null;
//           of a source j is null for the vocabulary head, and for memory, whose kind is −1

const [SEQUENTIAL, SEMANTIC, SUCCESSOR, SINK, SHORTCUT, RULE] = [0, 1, 2, 3, 4, 5];
const [IN_BOTH, ONLY_FIRST, ONLY_SECOND] = [0, 1, 2];

// A view: a reading with its edges as objects. `members` are the readings that it is of.
function viewOf(reading) {
  const edges = reading.rows.flatMap((row, i) => row.map(([j, kind, weight, rank, gate, vote, ...parts]) =>
    ({ i, j, kind, weight, rank, gate, vote, parts, most: strongest(parts) })));
  return { ...reading, edges, members: [reading], sides: null };
}

// All edges of two readings of the same tokens: in both, only in the first, only in the second. An
// edge in both is the first's, and has the second's as `other`.
function differenceOf(first, second) {
  const blocks = [...first.blocks, ...second.blocks.filter((b) => !first.blocks.some((a) => a.name === b.name))];
  const fitted = ({ blocks: own, edges }) => edges.map((edge) => {
    const parts = blocks.map(({ name }) => edge.parts[own.findIndex((b) => b.name === name)] ?? 0);
    return { ...edge, parts, most: strongest(parts) };
  });
  const key = ({ i, j }) => i * first.tokens.length + j;
  const ours = fitted(first), theirs = new Map(fitted(second).map((edge) => [key(edge), edge]));
  const edges = ours.map((edge) => {
    const other = theirs.get(key(edge)) ?? null;
    theirs.delete(key(edge));
    return { ...edge, other, side: other ? IN_BOTH : ONLY_FIRST };
  });
  edges.push(...[...theirs.values()].map((edge) => ({ ...edge, other: null, side: ONLY_SECOND })));
  return {
    ...first, blocks, edges: edges.sort((a, b) => a.i - b.i), name: "difference",
    k: Math.max(first.k, second.k), members: [...first.members, ...second.members],
    sides: ["in both", `only in ${first.name}`, `only in ${second.name}`],
    extent: {
      negative: Math.max(first.extent.negative, second.extent.negative),
      positive: Math.max(first.extent.positive, second.extent.positive),
    },
  };
}

function viewsOf(readings) {
  const views = readings.map(viewOf);
  if (views.length === 2 && sameTokens(...views)) views.push(differenceOf(...views));
  return views;
}

function sameTokens(a, b) {
  return a.tokens.length === b.tokens.length && a.tokens.every((token, i) => token === b.tokens[i]);
}

// The number of the block that gives most.
function strongest(parts) {
  return parts.reduce((best, part, b) => Math.abs(part) > Math.abs(parts[best]) ? b : best, 0);
}
