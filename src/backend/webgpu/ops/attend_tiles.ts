/**
 * Attention of a tile: rows of one sequence and heads that share keys, as queries of one matrix. A
 * workgroup walks the pages that any of them sees; each is loaded once for all. Threads have a grid of
 * four queries by some tokens for scores, of four queries by eight values for sums.
 */

import { PAGE_TOKENS } from "../../backend.ts";
import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { unitsOf } from "./cells.ts";
import {
  type Attention,
  attentionBindings,
  attentionParams,
  merging,
  outBinding,
  outValues,
  queryUnits,
  readQueriesAndKeys,
  SEGMENT_PAGES,
  sinkBindings,
  SOFTMAX,
  tilePredicate,
} from "./softmax.ts";

const MAX_QUERIES = 32;
const MAX_THREADS = 256;
/** Queries of a thread. */
const QUADS = 4;
/** Units of queries and keys in workgroup memory at once, and vectors of four from row to row of them. */
const STAGED_UNITS = 4;
const STAGED_STRIDE = 2 * STAGED_UNITS + 1;
/** Tokens whose values a thread has under way at once. */
const VALUES_AHEAD = 4;
/** Scores or weights that a thread has under way; divides the least number of columns. */
const SCORES_AHEAD = 8;
/** Products of four queries and a token, in vectors of four, between two steps of a loop. */
const UNROLLED = 8;

export interface TileShape {
  /** Rows and heads of a tile; workgroups that share a head of the cache. */
  readonly rows: number;
  readonly heads: number;
  readonly chunks: number;
  /** Room for queries, a multiple of four; the last ones may be idle. */
  readonly queries: number;
  /** Threads that share four queries: one for each eight values, a power of two of them. */
  readonly columns: number;
}

export function tileShape({ heads, kvHeads, value }: Attention): TileShape {
  let columns = 8;
  while (columns < unitsOf(value.dim)) columns *= 2;
  const queries = Math.min(MAX_QUERIES, MAX_THREADS / columns * QUADS);
  const group = heads / kvHeads;
  const chunks = Math.ceil(group / queries);
  const each = Math.ceil(group / chunks);
  return { rows: Math.floor(queries / each), heads: each, chunks, queries, columns };
}

export function attendTiles(attention: Attention, shape: TileShape): Dispatch {
  const { rows, heads, kvHeads } = attention;
  const { queries, columns, chunks } = shape;
  const group = heads / kvHeads;
  const threads = queries / QUADS * columns;
  const room = (queries + PAGE_TOKENS) * STAGED_STRIDE;
  const tiles = Math.ceil(rows / shape.rows);
  return {
    label: `${attention.label}, tiles`,
    bindings: [
      ...attentionBindings(attention),
      ...sinkBindings(attention),
      outBinding(attention),
    ],
    params: { ...attentionParams(attention), tiles },
    workgroups: tiles * kvHeads * chunks,
    code: `${readQueriesAndKeys(attention)}${SOFTMAX}${tilePredicate(shape.rows)}
${merging(attention)}${outValues(attention.value)}
const HEADS = ${heads}u;
const GROUPS = ${queries / QUADS}u;
const COLUMNS = ${columns}u;
const KEYS = ${queries * STAGED_STRIDE}u;
// Some units of queries, then of keys. Later weights by token, then the columns' largest scores.
var<workgroup> room: array<vec4<f32>, ${room}>;
const COLUMN_PEAKS = ${PAGE_TOKENS}u * GROUPS;
// The largest scores of a page of four queries.
fn page_peaks(quad: u32) -> vec4<f32> {
  var peaks = vec4<f32>(LOWEST);
  for (var x = 0u; x < COLUMNS; x += ${SCORES_AHEAD}u) {
    ${
      unrolled(SCORES_AHEAD, (i) =>
        `peaks = max(peaks, room[COLUMN_PEAKS + (x + ${i}u) * GROUPS + quad]);`)
    }
  }
  return peaks;
}
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup / ${kvHeads * chunks}u >= params.tiles) { return; }
  // The last tiles have the most to do, so they start first.
  let first_row = (params.tiles - 1u - workgroup / ${kvHeads * chunks}u) * ${shape.rows}u;
  if (!is_tile(first_row)) { return; }
  let chunk = workgroup % ${kvHeads * chunks}u;
  let kv_head = chunk / ${chunks}u;
  let first_head = kv_head * ${group}u + chunk % ${chunks}u * ${shape.heads}u;
  let head_count = min(${shape.heads}u, (kv_head + 1u) * ${group}u - first_head);
  let row_count = min(${shape.rows}u, params.rows - first_row);
  // Pages that any row sees.
  var begin = 0xffffffffu;
  var end = 0u;
  for (var i = 0u; i < row_count; i++) {
    let position = u32(positions[first_row + i]);
    begin = min(begin, first_seen(position));
    end = max(end, position + 1u);
  }
  // This thread's queries.
  let column = lane / GROUPS;
  let quad = lane % GROUPS;
  var begins = vec4<u32>();
  var ends = vec4<u32>();
  var vectors = vec4<u32>();
  for (var i = 0u; i < 4u; i++) {
    let row = (i * GROUPS + quad) / ${shape.heads}u;
    let head = (i * GROUPS + quad) % ${shape.heads}u;
    if (row >= row_count || head >= head_count) { continue; }
    let position = u32(positions[first_row + row]);
    begins[i] = first_seen(position);
    ends[i] = position + 1u;
    vectors[i] = (first_row + row) * ${heads}u + first_head + head;
  }
  // Of all segments so far, and of the pages of this one: largest scores and, in threads of the first
  // column, sums of weights.
  var all_peaks = vec4<f32>(LOWEST);
  var peaks = vec4<f32>(LOWEST);
  var all_totals = vec4<f32>();
  var totals = vec4<f32>();
  ${unrolled(QUADS, (q) => `var a${q} = vec4<f32>(); var b${q} = vec4<f32>();`)}
  for (var page = begin / ${PAGE_TOKENS}u; page * ${PAGE_TOKENS}u < end; page++) {
    let page_slot = page_of(first_row, page);
    ${scoring(attention, shape)}
    ${weighing(shape)}
    ${adding(attention)}
    workgroupBarrier();
    let is_last = (page + 1u) * ${PAGE_TOKENS}u >= end;
    if (page % ${SEGMENT_PAGES}u == ${SEGMENT_PAGES - 1}u || is_last) {
      ${merge()}
    }
  }
  if (column == 0u) { room[quad] = all_totals; }
  workgroupBarrier();
  let sums = room[quad];
  ${unrolled(QUADS, finish)}
}`,
  };
}

const COMPONENTS = ["x", "y", "z", "w"];

/** Scores `s0`, `s1` and so on of the thread's queries with tokens `column`, `column + COLUMNS` and so on. */
function scoring(attention: Attention, { queries, columns, heads }: TileShape): string {
  const threads = queries / QUADS * columns;
  const tokens = PAGE_TOKENS / columns;
  const units = STAGED_UNITS;
  const stride = STAGED_STRIDE;
  const steps = Math.max(1, UNROLLED / tokens);
  const multiply = (step: number) =>
    `{
        let at = i + ${step}u;
        ${unrolled(QUADS, (q) => `let q${q} = room[(${q}u * GROUPS + quad) * ${stride}u + at];`)}
        ${unrolled(tokens, (t) => `let k${t} = room[${keyAt(t)} * ${stride}u + at];`)}
        ${COMPONENTS.map(addProducts).join("\n")}
      }`;
  const keyAt = (t: number) => `KEYS + (column + ${t * columns}u)`;
  const addProducts = (c: string) => `
        let of_${c} = vec4<f32>(q0.${c}, q1.${c}, q2.${c}, q3.${c});
        ${unrolled(tokens, (t) => `s${t} = fma(of_${c}, vec4<f32>(k${t}.${c}), s${t});`)}`;
  return `${unrolled(tokens, (i) => `var s${i} = vec4<f32>();`, " ")}
    for (var first = 0u; first < ${queryUnits(attention)}u; first += ${units}u) {
      for (var i = lane; i < ${queries * units}u; i += ${threads}u) {
        let q = i / ${units}u;
        let row = first_row + min(q / ${heads}u, row_count - 1u);
        let head = first_head + min(q % ${heads}u, head_count - 1u);
        let eight = queries_8(row, head, first + i % ${units}u);
        let at = q * ${stride}u + i % ${units}u * 2u;
        room[at] = eight.a;
        room[at + 1u] = eight.b;
      }
      for (var i = lane; i < ${PAGE_TOKENS * units}u; i += ${threads}u) {
        let eight = keys_8(page_slot + i / ${units}u, kv_head, first + i % ${units}u);
        let at = KEYS + i / ${units}u * ${stride}u + i % ${units}u * 2u;
        room[at] = eight.a;
        room[at + 1u] = eight.b;
      }
      workgroupBarrier();
      for (var i = 0u; i < ${2 * units}u; i += ${steps}u) {${unrolled(steps, multiply)}
      }
      workgroupBarrier();
    }
    let token = page * ${PAGE_TOKENS}u + column;
    ${
    unrolled(tokens, (t) => `
    let t${t} = vec4<u32>(token + ${t * columns}u);
    s${t} = select(vec4<f32>(LOWEST), s${t}, (t${t} >= begins) & (t${t} < ends));`, "")
  }`;
}

/** Weights of the page in workgroup memory, `keep` for the sums of earlier ones, and sums of weights. */
function weighing({ columns }: TileShape): string {
  const tokens = PAGE_TOKENS / columns;
  const largest = Array.from({ length: tokens }, (_, t) => `s${t}`)
    .reduce((most, score) => `max(${most}, ${score})`);
  return `room[COLUMN_PEAKS + column * GROUPS + quad] = ${largest};
    workgroupBarrier();
    let earlier = peaks;
    peaks = max(earlier, page_peaks(quad));
    let keep = power4(earlier - peaks);
    ${
    unrolled(tokens, (t) => `
    room[(column + ${t * columns}u) * GROUPS + quad] = select(
      vec4<f32>(),
      power4(s${t} - peaks),
      s${t} > vec4<f32>(LOWEST),
    );`, "")
  }
    workgroupBarrier();
    if (column == 0u) {
      var total = vec4<f32>();
      for (var t = 0u; t < ${PAGE_TOKENS}u; t += ${SCORES_AHEAD}u) {
        ${unrolled(SCORES_AHEAD, (i) => `total += room[(t + ${i}u) * GROUPS + quad];`)}
      }
      totals = fma(totals, keep, total);
    }`;
}

/** Sums of values of the page, token by token, and of the segment's pages. */
function adding({ value }: Attention): string {
  const ahead = VALUES_AHEAD;
  return `
    ${unrolled(QUADS, (q) => `var c${q} = vec4<f32>(); var d${q} = vec4<f32>();`)}
    let unit = min(column, ${unitsOf(value.dim) - 1}u);
    let count = min(${PAGE_TOKENS}u, end - page * ${PAGE_TOKENS}u);
    for (var t = 0u; t < count; t += ${ahead}u) {
      ${
    unrolled(ahead, (i) =>
      `let v${i} = ${value.name}_8(page_slot + min(t + ${i}u, count - 1u), kv_head, unit);`)
  }
      ${
    unrolled(ahead, (i) => `
      let w${i} = room[(t + ${i}u) * GROUPS + quad];
      ${
      unrolled(QUADS, (q) => `
      c${q} = fma(vec4<f32>(w${i}.${COMPONENTS[q]}), v${i}.a, c${q});
      d${q} = fma(vec4<f32>(w${i}.${COMPONENTS[q]}), v${i}.b, d${q});`, "")
    }`, "")
  }
    }
    ${
    unrolled(QUADS, (q) => `
    a${q} = fma(a${q}, vec4<f32>(keep.${COMPONENTS[q]}), c${q});
    b${q} = fma(b${q}, vec4<f32>(keep.${COMPONENTS[q]}), d${q});`, "")
  }`;
}

/** Merges the segment into the sums of all, which lie in `out`. */
function merge(): string {
  return `let before = all_peaks;
      all_peaks = max(before, peaks);
      let keep_all = power4(before - all_peaks);
      let take = power4(peaks - all_peaks);
      let is_first = before == vec4<f32>(LOWEST);
      ${
    unrolled(QUADS, (q) => {
      const c = COMPONENTS[q];
      const add = (values: string, quad: string) => `
        let ${values}_old = select(out_at(vectors.${c}, ${quad}), vec4<f32>(), is_first.${c});
        let ${values}_new = merged(${values}_old, keep_all.${c}, ${values}, take.${c});
        store_out(vectors.${c}, ${quad}, ${values}_new);`;
      return `if (begins.${c} < ends.${c}) {${add(`a${q}`, "column * 2u")}${
        add(`b${q}`, "column * 2u + 1u")
      }
      }
      a${q} = vec4<f32>();
      b${q} = vec4<f32>();`;
    })
  }
      all_totals = fma(all_totals, keep_all, totals * take);
      totals = vec4<f32>();
      peaks = vec4<f32>(LOWEST);`;
}

/** Divides one query's sums by its sum of weights. */
function finish(q: number): string {
  const c = COMPONENTS[q];
  const one = (quad: string) =>
    `store_out(vectors.${c}, ${quad}, finished(out_at(vectors.${c}, ${quad}), all_peaks.${c}, sums.${c}, head));`;
  return `if (begins.${c} < ends.${c}) {
    let head = vectors.${c} % HEADS;
    ${one("column * 2u")}
    ${one("column * 2u + 1u")}
  }`;
}
