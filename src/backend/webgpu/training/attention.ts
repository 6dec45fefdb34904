/**
 * The backward pass of attention, without a matrix of probabilities in memory. With
 * p = softmax(scale * q k) and out = p v: dv = p dout, dp = dout v, ds = scale p (dp - dout out),
 * dq = ds k, dk = ds q. A first kernel finds each row's softmax; two others compute p and ds anew, one for
 * the rows' own gradients, one for those of keys and values, so that each number has one writer.
 */

import type { Buffer } from "../../backend.ts";
import type {
  AttentionBackwardParams,
  LatentAttentionBackwardParams,
} from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import { unrolled } from "../kernel.ts";
import type { OpContext } from "../ops/context.ts";
import { type Accesses, kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import { fillValues } from "./rows.ts";

/** Threads of a workgroup; each has one of the rows that go by. */
const LANES = 64;
/** Numbers of workgroup memory that rows held may take. */
const HELD = 3072;

/** Vectors of rows: that of a row and head begins at `row * stride + head * each + offset`. */
interface Vectors {
  readonly memory: GPUBuffer;
  readonly stride: number;
  readonly each: number;
  readonly offset: number;
}

/** Vectors whose products add up: to scores (of queries and keys), or to dp (of gradients and values). */
interface Pair {
  readonly dim: number;
  readonly query: Vectors;
  readonly key: Vectors;
}

interface Attention {
  /** Parts of the scores. */
  readonly parts: readonly Pair[];
  /** The gradient of the output, and the values. */
  readonly value: Pair;
  readonly out: Vectors;
  /** Of each part: where gradients of queries go. */
  readonly queryGradients: readonly Vectors[];
  /** Of each part, then of the value: where those of keys go; what has one place is added up there. */
  readonly keyGradients: readonly Vectors[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly scale: number;
  readonly window: number | undefined;
  readonly positions: Buffer;
  readonly rows: number;
}

export function attentionBackward(context: OpContext, params: AttentionBackwardParams): void {
  const { heads, kvHeads, scale, window, positions, rows } = params;
  const of = (buffer: Buffer, count: number): Vectors => ({
    memory: bufferOf(buffer).memory,
    stride: buffer.width,
    each: buffer.width / count,
    offset: 0,
  });
  backward(context, {
    parts: [{
      dim: params.q.width / heads,
      query: of(params.q, heads),
      key: of(params.k, kvHeads),
    }],
    value: {
      dim: params.v.width / kvHeads,
      query: of(params.outGradient, heads),
      key: of(params.v, kvHeads),
    },
    out: of(params.out, heads),
    queryGradients: [of(params.qGradient, heads)],
    keyGradients: [of(params.kGradient, kvHeads), of(params.vGradient, kvHeads)],
    ...{ heads, kvHeads, scale, window, positions, rows },
  });
}

export function latentAttentionBackward(
  context: OpContext,
  params: LatentAttentionBackwardParams,
): void {
  const { tokens, heads, nopeDim, latentDim, scale, positions, rows } = params;
  const ropeDim = tokens.width - latentDim;
  const of = (buffer: Buffer, count: number, offset = 0): Vectors => ({
    memory: bufferOf(buffer).memory,
    stride: buffer.width,
    each: buffer.width / count,
    offset,
  });
  const queries = bufferOf(params.qGradient).memory;
  fillValues(context, queries, { count: rows * params.q.width, value: 0 });
  const latent = of(tokens, 1);
  const latentGradient = of(params.tokensGradient, 1);
  backward(context, {
    parts: [
      { dim: latentDim, query: of(params.latentQuery, heads), key: latent },
      { dim: ropeDim, query: of(params.q, heads, nopeDim), key: of(tokens, 1, latentDim) },
    ],
    value: { dim: latentDim, query: of(params.outGradient, heads), key: latent },
    out: of(params.out, heads),
    queryGradients: [
      of(params.latentQueryGradient, heads),
      of(params.qGradient, heads, nopeDim),
    ],
    keyGradients: [latentGradient, of(params.tokensGradient, 1, latentDim), latentGradient],
    ...{ heads, kvHeads: 1, scale, window: undefined, positions, rows },
  });
}

function backward(context: OpContext, attention: Attention): void {
  const { rows, heads } = attention;
  // Of each row and head: the logarithm of the sum of powers, and dout out.
  const stats = context.scratch("attention's softmax", rows * heads * 8);
  statistics(context, attention, stats);
  gradients(context, attention, { stats, of: "queries" });
  gradients(context, attention, { stats, of: "keys" });
}

type Names = Readonly<Record<string, string>>;

const at = ({ stride, each, offset }: Vectors, row: string, head: string) =>
  `${row} * ${stride}u + ${head} * ${each}u + ${offset}u`;

/** The pairs of scores and of values as arrays, `q0`, `k0`, ... , `q_value`, `k_value`. */
function pairsOf({ parts, value }: Attention): { name: string; pair: Pair; score: boolean }[] {
  return [
    ...parts.map((pair, i) => ({ name: String(i), pair, score: true })),
    { name: "_value", pair: value, score: false },
  ];
}

function readsOf(attention: Attention): Record<string, ReturnType<typeof reads>> {
  return Object.fromEntries(
    pairsOf(attention).flatMap(({ name, pair }) => [
      [`q${name}`, reads(pair.query.memory)],
      [`k${name}`, reads(pair.key.memory)],
    ]),
  );
}

/** WGSL of the first row that `row` sees. */
function firstOf(names: Names, attention: Attention, row: string): string {
  const start = `${row} - u32(${names.positions}[${row}])`;
  const { window } = attention;
  return window === undefined
    ? start
    : `max(${start}, max(${row}, ${window - 1}u) - ${window - 1}u)`;
}

/** A workgroup for each row and head; a thread has every LANES-th key. */
function statistics(context: OpContext, attention: Attention, stats: GPUBuffer): void {
  const { parts, value, out, heads, kvHeads, scale, positions, rows } = attention;
  const width = parts.reduce((sum, { dim }) => sum + dim, 0);
  const starts = parts.map((_, i) => parts.slice(0, i).reduce((sum, { dim }) => sum + dim, 0));
  const arrays: Accesses<string> = {
    ...readsOf(attention),
    ...{ positions: reads(positions), out: reads(out.memory), stats: writes(stats) },
  };
  context.run(kernel({
    label: "attention softmax",
    arrays,
    params: { rows, scale: { f32: scale } },
    workgroups: rows * heads,
    threads: LANES,
    declare: () =>
      `${totalMemory(LANES)}
var<workgroup> held: array<f32, ${width}>;`,
    body: (names) => `
  let row = workgroup / ${heads}u;
  let head = workgroup % ${heads}u;
  if (row >= params.rows) { return; }
  let kv_head = head / ${heads / kvHeads}u;
${
      unrolled(parts.length, (p) =>
        `  for (var c = lane; c < ${parts[p].dim}u; c += ${LANES}u) {
    held[${starts[p]}u + c] = ${names[`q${p}`]}[${at(parts[p].query, "row", "head")} + c];
  }`)
    }
  workgroupBarrier();
  var most = -3e38;
  var sum = 0.0;
  for (var key = ${firstOf(names, attention, "row")} + lane; key <= row; key += ${LANES}u) {
    var score = 0.0;
${
      unrolled(parts.length, (p) =>
        `    {
      let base = ${at(parts[p].key, "key", "kv_head")};
      for (var c = 0u; c < ${parts[p].dim}u; c++) {
        score = fma(held[${starts[p]}u + c], ${names[`k${p}`]}[base + c], score);
      }
    }`)
    }
    score *= params.scale;
    let larger = max(most, score);
    sum = fma(sum, exp(most - larger), exp(score - larger));
    most = larger;
  }
${
      total("largest", {
        threads: LANES,
        value: "most",
        combine: (a, b) => `max(${a}, ${b})`,
      })
    }
${total("powers", { threads: LANES, value: "sum * exp(most - largest)" })}
  var product = 0.0;
  for (var c = lane; c < ${value.dim}u; c += ${LANES}u) {
    product = fma(${names.out}[${at(out, "row", "head")} + c],
      ${names.q_value}[${at(value.query, "row", "head")} + c], product);
  }
${total("mean", { threads: LANES, value: "product" })}
  if (lane == 0u) {
    ${names.stats}[workgroup * 2u] = largest + log(powers);
    ${names.stats}[workgroup * 2u + 1u] = mean;
  }`,
  }));
}

/**
 * A workgroup holds some neighbouring rows, of queries or of keys, and those that they meet go by, a thread
 * each; then each thread adds up some of the columns of the gradients of what is held.
 */
function gradients(
  context: OpContext,
  attention: Attention,
  { stats, of }: { stats: GPUBuffer; of: "queries" | "keys" },
): void {
  const { heads, kvHeads, scale, window, positions, rows } = attention;
  const isQueries = of === "queries";
  const pairs = pairsOf(attention);
  const group = heads / kvHeads;
  const width = pairs.reduce((sum, { pair }) => sum + pair.dim, 0);
  const held = width * 4 <= HELD ? 4 : width * 2 <= HELD ? 2 : 1;
  const starts = pairs.map((_, i) => pairs.slice(0, i).reduce((sum, p) => sum + p.pair.dim, 0));
  const side = (pair: Pair, mine: boolean) => mine === isQueries ? pair.query : pair.key;
  const arrayOf = (name: string, mine: boolean) => `${mine === isQueries ? "q" : "k"}${name}`;
  // What is added up: columns of what goes by, times ds or p.
  const sums = isQueries
    ? attention.queryGradients.map((to, i) => ({ ...pairs[i], to, factor: "slopes" }))
    : pairs.map((pair, i) => ({
      ...pair,
      to: attention.keyGradients[i],
      factor: pair.score ? "slopes" : "weights",
    }));
  const outs: (typeof sums)[] = [];
  for (const sum of sums) {
    const { memory, offset } = sum.to;
    const same = outs.find(([{ to }]) => to.memory === memory && to.offset === offset);
    if (same === undefined) outs.push([sum]);
    else same.push(sum);
  }
  const arrays: Accesses<string> = {
    ...readsOf(attention),
    ...{ positions: reads(positions), stats: reads(stats) },
    ...Object.fromEntries(outs.map(([{ to }], i) => [`out${i}`, writes(to.memory)])),
  };
  const perLane = (dim: number) => Math.ceil(dim / LANES);
  const mineHead = isQueries ? "head" : "kv_head";
  const otherHead = isQueries ? "kv_head" : "head";
  const blocks = Math.ceil(rows / held);
  const load = (names: Names) =>
    pairs.map(({ name, pair }, i) =>
      `  for (var i = lane; i < ${held * pair.dim}u; i += ${LANES}u) {
    let row = min(first + i / ${pair.dim}u, params.rows - 1u);
    held[${held * starts[i]}u + i] =
      ${names[arrayOf(name, true)]}[${at(side(pair, true), "row", mineHead)} + i % ${pair.dim}u];
  }`
    ).join("\n");
  const products = (names: Names) =>
    pairs.map(({ name, pair, score }, i) => {
      const sum = score ? "score" : "slope";
      return `      {
        let base = ${at(side(pair, false), "other", otherHead)};
        for (var c = 0u; c < ${pair.dim}u; c++) {
          let value = ${names[arrayOf(name, false)]}[base + c];
${
        unrolled(held, (h) =>
          `          ${sum}${h} = fma(held[${
            held * starts[i] + h * pair.dim
          }u + c], value, ${sum}${h});`)
      }
        }
      }`;
    }).join("\n");
  const query = isQueries ? "mine" : "other";
  const key = isQueries ? "other" : "mine";
  /** Of held row h with the one that goes by. */
  const finish = (names: Names, h: number) =>
    `      {
        let mine = first + ${h}u;
        var weight = 0.0;
        var slope = 0.0;
        if (mine < params.rows && ${key} <= ${query} && ${key} >= ${
      firstOf(names, attention, query)
    }) {
          let stat = (${query} * ${heads}u + head) * 2u;
          weight = exp(score${h} * params.scale - ${names.stats}[stat]);
          slope = params.scale * weight * (slope${h} - ${names.stats}[stat + 1u]);
        }
        weights[${h * LANES}u + lane] = weight;
        slopes[${h * LANES}u + lane] = slope;
      }`;
  const accumulate = (names: Names) =>
    outs.map((list, o) =>
      list.map(({ name, pair, factor }) =>
        unrolled(perLane(pair.dim), (j) =>
          `    if (lane + ${j * LANES}u < ${pair.dim}u) {
      for (var i = 0u; i < ${LANES}u; i++) {
        let other = base + i;
        if (other > last) { break; }
        let value = ${names[arrayOf(name, false)]}[${
            at(side(pair, false), "other", otherHead)
          } + lane + ${j * LANES}u];
${
            unrolled(held, (h) =>
              `        sum${o}_${j}_${h} = fma(${factor}[${
                h * LANES
              }u + i], value, sum${o}_${j}_${h});`)
          }
      }
    }`)
      ).join("\n")
    ).join("\n");
  const inner = (names: Names) => `
    for (var base = start; base <= last; base += ${LANES}u) {
      ${
    isQueries
      ? ""
      : `// Later rows are of later sequences${
        window === undefined ? "" : ", or see none of these keys"
      }.
      if (${firstOf(names, attention, "base")} > end) { break; }`
  }
      let other = min(base + lane, params.rows - 1u);
${unrolled(held, (h) => `      var score${h} = 0.0; var slope${h} = 0.0;`)}
${products(names)}
${unrolled(held, (h) => finish(names, h))}
      workgroupBarrier();
${accumulate(names)}
      workgroupBarrier();
    }`;
  const eachOut = (text: (o: number, j: number, h: number) => string) =>
    outs.map(([{ pair }], o) =>
      unrolled(perLane(pair.dim), (j) => unrolled(held, (h) => text(o, j, h)))
    ).join("\n");
  context.run(kernel({
    label: `attention gradients of ${of}`,
    arrays,
    params: { rows, blocks, scale: { f32: scale } },
    workgroups: blocks * (isQueries ? heads : kvHeads),
    threads: LANES,
    declare: () => `
var<workgroup> held: array<f32, ${held * width}>;
var<workgroup> weights: array<f32, ${held * LANES}>;
var<workgroup> slopes: array<f32, ${held * LANES}>;`,
    body: (names) => `
  let ${mineHead} = workgroup / params.blocks;
  let first = workgroup % params.blocks * ${held}u;
  if (${mineHead} >= ${isQueries ? heads : kvHeads}u) { return; }
  let end = min(first + ${held - 1}u, params.rows - 1u);
  ${isQueries ? `let kv_head = head / ${group}u;` : ""}
${load(names)}
  workgroupBarrier();
${eachOut((o, j, h) => `  var sum${o}_${j}_${h} = 0.0;`)}
  ${
      isQueries
        ? `let start = ${firstOf(names, attention, "first")};
  let last = end;
  {`
        : `let start = first;
  let last = params.rows - 1u;
  for (var head = kv_head * ${group}u; head < (kv_head + 1u) * ${group}u; head++) {`
    }${inner(names)}
  }
${
      eachOut((o, j, h) => {
        const [{ to, pair }] = outs[o];
        return `  if (first + ${h}u < params.rows && lane + ${j * LANES}u < ${pair.dim}u) {
    ${names[`out${o}`]}[${at(to, `(first + ${h}u)`, mineHead)} + lane + ${
          j * LANES
        }u] = sum${o}_${j}_${h};
  }`;
      })
    }`,
  }));
}
