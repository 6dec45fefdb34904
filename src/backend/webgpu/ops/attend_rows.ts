/**
 * Attention of a row and some of the heads that share keys: a workgroup takes a segment at a time, a
 * thread a token's scores, then eight values of the sum of a page. Serves rows that have their
 * sequences for themselves, as in decoding.
 */

import { DOT_EIGHT } from "../weights/format.ts";
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
  SEGMENT_TOKENS,
  sinkBindings,
  SOFTMAX,
  type Split,
  tilePredicate,
} from "./softmax.ts";

/** Threads of a workgroup, one for each token of a segment. */
const THREADS = SEGMENT_TOKENS;
/** Bytes of workgroup memory for queries, scores and sums of pages; the rest is for a few numbers. */
const ROOM_BYTES = 15 * 1024;
/** Units of keys that a thread has under way at once, and tokens whose values it has. */
const KEYS_AHEAD = 4;
const VALUES_AHEAD = 8;
/** Scores of a page that a thread has under way. */
const SCORES_AHEAD = 16;
/** Scores from page to page: threads that read one of each page read different banks. */
const PAGE_STRIDE = PAGE_TOKENS + 1;
const HEAD_STRIDE = SEGMENT_PAGES * PAGE_STRIDE;

/** How the work on a row is shared out among workgroups and their threads. */
interface RowShape {
  /** Heads of a workgroup, and workgroups that share a head of the cache. */
  readonly heads: number;
  readonly chunks: number;
  /** Workgroups of a row and a segment. */
  readonly workgroups: number;
  /** Threads of eight values and a page take heads `slot`, `slot + headSlots` and so on, `headsEach`. */
  readonly headSlots: number;
  readonly headsEach: number;
  /** Heads whose pages' sums lie in workgroup memory at once; divides `headSlots`. */
  readonly foldHeads: number;
}

/** Heads of one workgroup: fewer where rows are so few that most of a large GPU would idle. */
function maxHeads({ rows, kvHeads }: Attention): number {
  if (rows * kvHeads <= 2) return 2;
  return rows * kvHeads <= 16 ? 4 : 8;
}

export function rowShape(attention: Attention): RowShape {
  const { kvHeads, value } = attention;
  const group = attention.heads / kvHeads;
  const queryBytes = queryUnits(attention) * 32;
  const foldBytes = SEGMENT_PAGES * unitsOf(value.dim) * 32;
  const scoreBytes = HEAD_STRIDE * 4;
  let most = Math.min(maxHeads(attention), group);
  const fits = (heads: number) =>
    Math.max(heads * queryBytes, foldBytes) + heads * scoreBytes <= ROOM_BYTES;
  while (most > 1 && !fits(most)) most--;
  const chunks = Math.ceil(group / most);
  const heads = Math.ceil(group / chunks);
  const slots = Math.max(1, Math.floor(THREADS / (SEGMENT_PAGES * unitsOf(value.dim))));
  const headsEach = Math.ceil(heads / slots);
  const headSlots = Math.ceil(heads / headsEach);
  let foldHeads = headSlots;
  const room = Math.max(heads * queryBytes, ROOM_BYTES - heads * scoreBytes);
  while (headSlots % foldHeads !== 0 || foldHeads * foldBytes > room) foldHeads--;
  return { heads, chunks, workgroups: kvHeads * chunks, headSlots, headsEach, foldHeads };
}

export function attendRows(
  attention: Attention,
  { tileRows, split }: { tileRows: number; split: Split | null },
): Dispatch {
  const { rows, heads, kvHeads, value } = attention;
  const shape = rowShape(attention);
  const { chunks, workgroups } = shape;
  const group = heads / kvHeads;
  const units = queryUnits(attention);
  const fold = shape.foldHeads * SEGMENT_PAGES * unitsOf(value.dim) * 2;
  const H = shape.heads;
  return {
    label: attention.label,
    bindings: [
      ...attentionBindings(attention),
      ...(split === null ? [...sinkBindings(attention), outBinding(attention)] : [
        { name: "sums", buffer: split.sums, type: "array<vec4<f32>>", write: true },
        { name: "stats", buffer: split.stats, type: "array<vec2<f32>>", write: true },
      ]),
    ],
    params: {
      ...attentionParams(attention),
      slots: split?.slots ?? 1,
      segments: split?.segments ?? 0,
    },
    workgroups: rows * workgroups * (split?.slots ?? 1),
    code: `${readQueriesAndKeys(attention)}${SOFTMAX}${tilePredicate(tileRows)}
const HEADS = ${H}u;
// Queries, then sums of pages of some heads.
var<workgroup> room: array<vec4<f32>, ${Math.max(H * units * 2, fold)}>;
// Scores, then weights.
var<workgroup> scores: array<f32, ${H * HEAD_STRIDE}>;
// Of each head and page.
var<workgroup> largest: array<f32, ${H * SEGMENT_PAGES}>;
var<workgroup> totals: array<f32, ${H * SEGMENT_PAGES}>;
// What sums of earlier pages are worth beside those of a page.
var<workgroup> keeps: array<f32, ${H * SEGMENT_PAGES}>;
${split === null ? running(attention, H) : apart(attention)}
${DOT_EIGHT}
// The largest score of a head in the first so many pages of the segment.
fn peak_of(h: u32, pages: u32) -> f32 {
  var peak = LOWEST;
  ${
      unrolled(
        SEGMENT_PAGES,
        (page) =>
          `if (pages > ${page}u) { peak = max(peak, largest[h * ${SEGMENT_PAGES}u + ${page}u]); }`,
      )
    }
  return peak;
}
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let chunk = workgroup % ${workgroups}u;
  let slot = workgroup / ${workgroups}u % params.slots;
  let row = workgroup / (${workgroups}u * params.slots);
  if (row >= params.rows || is_tile(row)) { return; }
  let kv_head = chunk / ${chunks}u;
  let first_head = kv_head * ${group}u + chunk % ${chunks}u * HEADS;
  // The last workgroup of a group may have fewer.
  let count = min(HEADS, (kv_head + 1u) * ${group}u - first_head);
  let end = u32(positions[row]) + 1u;
  let begin = first_seen(end - 1u);
  let first_segment = begin / ${SEGMENT_TOKENS}u;
  for (
    var segment = first_segment + slot;
    segment * ${SEGMENT_TOKENS}u < end;
    segment += params.slots
  ) {
    let start = segment * ${SEGMENT_TOKENS}u;
    ${scoring(attention, H)}
    ${weighing(H)}
    ${adding(attention, shape)}
    ${keepStats(attention, { isSplit: split !== null })}
  }
  ${split === null ? finish(attention, shape) : ""}
}`,
  };
}

/** Scores of all tokens, a thread each, the largest of each page, and then their weights. */
function scoring(attention: Attention, heads: number): string {
  const units = queryUnits(attention);
  const add = (j: number) =>
    unrolled(heads, (h) => {
      const at = `${h * units * 2}u + (unit + ${j}u) * 2u`;
      return `s${h} = dot_8(Eight(room[${at}], room[${at} + 1u]), k${j}, s${h});`;
    });
  let first = 0;
  const loops = attention.parts.map(({ name, dim }) => {
    const [from, end] = [first, first + unitsOf(dim)];
    first = end;
    const load = (j: number) => `let k${j} = ${name}_8(slot, kv_head, unit - ${from}u + ${j}u);`;
    const loop = (start: number, stop: number, step: number) =>
      start === stop ? "" : `
      for (var unit = ${start}u; unit < ${stop}u; unit += ${step}u) {
        ${unrolled(step, load)}
        ${unrolled(step, add)}
      }`;
    const whole = end - (end - from) % KEYS_AHEAD;
    return loop(from, whole, KEYS_AHEAD) + loop(whole, end, 1);
  });
  const scoreAt = (h: number) => `scores[${h * HEAD_STRIDE}u + at]`;
  const store = (h: number) => `${scoreAt(h)} = select(LOWEST, s${h}, is_seen);`;
  const weigh = (h: number) =>
    `${scoreAt(h)} = select(0.0, power(s${h} - peak_of(${h}u, lane_page + 1u)), is_seen);`;
  return `for (var i = lane; i < ${heads * units}u; i += ${THREADS}u) {
      let head = first_head + min(i / ${units}u, count - 1u);
      let eight = queries_8(row, head, i % ${units}u);
      room[i * 2u] = eight.a;
      room[i * 2u + 1u] = eight.b;
    }
    workgroupBarrier();
    let token = start + lane;
    let is_seen = token >= begin && token < end;
    let lane_page = lane / ${PAGE_TOKENS}u;
    let at = lane + lane_page * ${PAGE_STRIDE - PAGE_TOKENS}u;
    ${unrolled(heads, (h) => `var s${h} = 0.0;`)}
    if (is_seen) {
      let slot = page_of(row, token / ${PAGE_TOKENS}u) + token % ${PAGE_TOKENS}u;${loops.join("")}
    }
    ${unrolled(heads, store)}
    workgroupBarrier();
    if (lane < ${heads * SEGMENT_PAGES}u) {
      var peak = LOWEST;
      ${overPage((score) => `peak = max(peak, ${score});`)}
      largest[lane] = peak;
    }
    workgroupBarrier();
    ${unrolled(heads, weigh)}
    workgroupBarrier();`;
}

/** Sums of weights of each page, token by token, and what earlier pages are worth beside it. */
function weighing(heads: number): string {
  return `if (lane < ${heads * SEGMENT_PAGES}u) {
      var total = 0.0;
      ${overPage((score) => `total += ${score};`)}
      totals[lane] = total;
      let h = lane / ${SEGMENT_PAGES}u;
      let page = lane % ${SEGMENT_PAGES}u;
      keeps[lane] = power(peak_of(h, page) - peak_of(h, page + 1u));
    }`;
}

/** WGSL that goes through the scores of a thread's head and page in order. */
function overPage(use: (score: string) => string): string {
  return `for (var i = 0u; i < ${PAGE_TOKENS}u; i += ${SCORES_AHEAD}u) {
        let from_here = lane * ${PAGE_STRIDE}u + i;
        ${unrolled(SCORES_AHEAD, (j) => use(`scores[from_here + ${j}u]`))}
      }`;
}

/** Sums of values of each page, token by token, and of the pages in order. */
function adding({ value }: Attention, shape: RowShape): string {
  const { heads, headSlots, headsEach, foldHeads } = shape;
  const units = unitsOf(value.dim);
  const quads = units * 2;
  const ahead = VALUES_AHEAD;
  const headOf = (j: number) => `min(${j * headSlots}u + head_slot, ${heads - 1}u)`;
  const rounds = unrolled(headsEach * (headSlots / foldHeads), (round) => {
    const j = Math.floor(round * foldHeads / headSlots);
    const first = round * foldHeads % headSlots;
    return `
    if (head_slot >= ${first}u && head_slot < ${first + foldHeads}u) {
      let at = ((head_slot - ${first}u) * ${SEGMENT_PAGES}u + page) * ${quads}u + unit * 2u;
      room[at] = a${j};
      room[at + 1u] = b${j};
    }
    workgroupBarrier();
    for (var i = lane; i < ${foldHeads * quads}u; i += ${THREADS}u) {
      let h = ${j * headSlots + first}u + i / ${quads}u;
      if (h < count) {
        var sum = vec4<f32>();
        for (var p = first_page; p < end_page; p++) {
          let next = room[(i / ${quads}u * ${SEGMENT_PAGES}u + p) * ${quads}u + i % ${quads}u];
          sum = fma(sum, vec4<f32>(keeps[h * ${SEGMENT_PAGES}u + p]), next);
        }
        store(row, first_head + h, h, i % ${quads}u, segment - first_segment, sum);
      }
    }
    workgroupBarrier();`;
  }, "");
  return `let unit = lane % ${units}u;
    let page = lane / ${units}u % ${SEGMENT_PAGES}u;
    let head_slot = lane / ${units * SEGMENT_PAGES}u;
    // Pages of the segment that the row sees, and the tokens it sees of the thread's page.
    let first_page = (max(begin, start) - start) / ${PAGE_TOKENS}u;
    let end_page = (min(end, start + ${SEGMENT_TOKENS}u) - start + ${
    PAGE_TOKENS - 1
  }u) / ${PAGE_TOKENS}u;
    let page_start = start + page * ${PAGE_TOKENS}u;
    let page_end = min(end, page_start + ${PAGE_TOKENS}u);
    ${unrolled(headsEach, (j) => `var a${j} = vec4<f32>(); var b${j} = vec4<f32>();`)}
    if (head_slot < ${headSlots}u && page >= first_page && page < end_page) {
      let page_slot = page_of(row, page_start / ${PAGE_TOKENS}u);
      // Tokens before the first that is seen weigh nothing.
      let first = max(begin, page_start) - page_start;
      for (var t = first - first % ${ahead}u; t < page_end - page_start; t += ${ahead}u) {
        let last = page_end - page_start - 1u;
        ${
    unrolled(ahead, (i) =>
      `let v${i} = ${value.name}_8(page_slot + min(t + ${i}u, last), kv_head, unit);`)
  }
        ${
    unrolled(headsEach, (j) => `
        {
          let at = ${headOf(j)} * ${HEAD_STRIDE}u + page * ${PAGE_STRIDE}u + t;${
      unrolled(ahead, (i) => `
          let w${i} = vec4<f32>(scores[at + ${i}u]);
          a${j} = fma(w${i}, v${i}.a, a${j});
          b${j} = fma(w${i}, v${i}.b, b${j});`, "")
    }
        }`, "")
  }
      }
    }
    workgroupBarrier();${rounds}`;
}

/** WGSL of `store` and of what it adds to, where a workgroup walks all segments of its row. */
function running(attention: Attention, heads: number): string {
  return `${merging(attention)}${outValues(attention.value)}
// Of each head and all segments so far: the largest score, the sum of weights.
var<workgroup> peaks: array<f32, ${heads}>;
var<workgroup> weights: array<f32, ${heads}>;
fn store(row: u32, head: u32, h: u32, quad: u32, segment: u32, sum: vec4<f32>) {
  let vector = row * ${attention.heads}u + head;
  var before = LOWEST;
  var value = vec4<f32>();
  if (segment > 0u) {
    before = peaks[h];
    value = out_at(vector, quad);
  }
  let here = peak_of(h, ${SEGMENT_PAGES}u);
  let peak = max(before, here);
  store_out(vector, quad, merged(value, power(before - peak), sum, power(here - peak)));
}`;
}

/** WGSL of `store` where segments are merged later. */
function apart({ heads, value }: Attention): string {
  return `
fn store(row: u32, head: u32, h: u32, quad: u32, segment: u32, sum: vec4<f32>) {
  let vector = (row * ${heads}u + head) * params.segments + segment;
  sums[vector * ${unitsOf(value.dim) * 2}u + quad] = sum;
}`;
}

/** The largest score of a segment and its sum of weights, by one thread a head. */
function keepStats(attention: Attention, { isSplit }: { isSplit: boolean }): string {
  const keep = isSplit
    ? `let vector = row * ${attention.heads}u + first_head + lane;
      stats[vector * params.segments + segment - first_segment] = vec2<f32>(here, total);`
    : `var before = LOWEST;
      var weight = 0.0;
      if (segment > first_segment) {
        before = peaks[lane];
        weight = weights[lane];
      }
      let peak = max(before, here);
      weights[lane] = fma(weight, power(before - peak), total * power(here - peak));
      peaks[lane] = peak;`;
  return `if (lane < count) {
      var total = 0.0;
      for (var p = first_page; p < end_page; p++) {
        total = fma(total, keeps[lane * ${SEGMENT_PAGES}u + p], totals[lane * ${SEGMENT_PAGES}u + p]);
      }
      let here = peak_of(lane, ${SEGMENT_PAGES}u);
      ${keep}
    }`;
}

/** Divides by the sums of weights; a thread finishes the values that it has stored. */
function finish({ heads, value }: Attention, shape: RowShape): string {
  const { headSlots, headsEach, foldHeads } = shape;
  const quads = unitsOf(value.dim) * 2;
  return `workgroupBarrier();
  for (var first = 0u; first < ${headSlots * headsEach}u; first += ${foldHeads}u) {
    for (var i = lane; i < ${foldHeads * quads}u; i += ${THREADS}u) {
      let h = first + i / ${quads}u;
      if (h < count) {
        let vector = row * ${heads}u + first_head + h;
        let value = out_at(vector, i % ${quads}u);
        store_out(vector, i % ${quads}u, finished(value, peaks[h], weights[h], first_head + h));
      }
    }
  }`;
}
