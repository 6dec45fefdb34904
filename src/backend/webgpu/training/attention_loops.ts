/** Parts of the loops of attention's backward pass, in WGSL. */

import { unrolled } from "../kernel.ts";
import {
  AHEAD,
  type Attention,
  COLUMNS,
  EACH,
  fours,
  MINE,
  OTHERS,
  type Out,
  QUADS,
  roundsOf,
  SECOND,
  STAGED,
  STRIDE,
  type Sum,
  THREADS,
} from "./attention_layout.ts";

export function declareSums(o: number, dim: number): string {
  return unrolled(
    roundsOf(dim),
    (r) => unrolled(4, (i) => `  var sum${o}_${r}_${i} = vec4<f32>();`),
  );
}

/** WGSL for each sum of a thread: of round r, own i. */
export function eachSum(
  outs: readonly Out[],
  text: (o: number, r: number, i: number) => string,
): string {
  return outs.map(({ dim }, o) => unrolled(roundsOf(dim), (r) => unrolled(4, (i) => text(o, r, i))))
    .join("\n");
}

/** WGSL of where query `n` of the head of keys lies, as arguments. */
export function queryAt(n: string, { heads, kvHeads }: Attention): string {
  const group = heads / kvHeads;
  return group === 1 ? `${n}, kv_head` : `${n} / ${group}u, kv_head * ${group}u + ${n} % ${group}u`;
}

/** WGSL that leaves `TO0` .. of the thread's own with the others: `TOj` is of other `column + COLUMNS j`. */
export function products(
  to: string,
  { dim, mine, other }: {
    dim: number;
    /** WGSL of columns 4 c .. of one's own `m` of the tile, and of other `o`. */
    mine: (m: string, c: string) => string;
    other: (o: string, c: string) => string;
  },
): string {
  return `
    for (var c0 = 0u; c0 < ${fours(dim)}u; c0 += ${STAGED}u) {
      for (var i = lane; i < ${MINE * STAGED}u; i += ${THREADS}u) {
        let c = c0 + i % ${STAGED}u;
        var four = vec4<f32>();
        if (c < ${fours(dim)}u) { four = ${mine(`(i / ${STAGED}u)`, "c")}; }
        room[i / ${STAGED}u * ${STRIDE}u + i % ${STAGED}u] = four;
      }
      for (var i = lane; i < ${OTHERS * STAGED}u; i += ${THREADS}u) {
        let c = c0 + i % ${STAGED}u;
        var four = vec4<f32>();
        if (c < ${fours(dim)}u) { four = ${other(`(i / ${STAGED}u)`, "c")}; }
        room[${MINE * STRIDE}u + i / ${STAGED}u * ${STRIDE}u + i % ${STAGED}u] = four;
      }
      workgroupBarrier();
      for (var c = 0u; c < ${STAGED}u; c++) {
${unrolled(4, (i) => `        let m${i} = room[(quad * 4u + ${i}u) * ${STRIDE}u + c];`)}
${
    unrolled(EACH, (j) =>
      `        let o${j} = room[(${MINE + j * COLUMNS}u + column) * ${STRIDE}u + c];`)
  }
${
    [..."xyzw"].map((x) =>
      `        let of_${x} = vec4<f32>(m0.${x}, m1.${x}, m2.${x}, m3.${x});
${unrolled(EACH, (j) => `        ${to}${j} = fma(of_${x}, vec4<f32>(o${j}.${x}), ${to}${j});`)}`
    ).join("\n")
  }
      }
      workgroupBarrier();
    }`;
}

/** WGSL that adds the others' vectors, times what `room` has of them, to the sums; others up to `there`. */
export function accumulate(
  outs: readonly Out[],
  vector: (sum: Sum, o: string, c: string) => string,
): string {
  const one = (o: string) =>
    outs.map(({ dim, sums }, out) =>
      sums.map((sum) =>
        unrolled(roundsOf(dim), (r) =>
          `        {
          let four = ${vector(sum, o, `min(column + ${r * COLUMNS}u, ${fours(dim) - 1}u)`)};
${
            unrolled(4, (i) =>
              `          sum${out}_${r}_${i} = fma(vec4<f32>(${sum.factor}.${
                "xyzw"[i]
              }), four, sum${out}_${r}_${i});`)
          }
        }`)
      ).join("\n")
    ).join("\n");
  const hasWeights = outs.some(({ sums }) => sums.some(({ factor }) => factor === "weight"));
  return `
    for (var o0 = 0u; o0 < there; o0 += ${AHEAD}u) {
${
    unrolled(AHEAD, (a) =>
      `      {
        let o = o0 + ${a}u;
        let slope = room[o * ${QUADS}u + quad];
        ${hasWeights ? `let weight = room[${SECOND}u + o * ${QUADS}u + quad];` : ""}
${one("o")}
      }`)
  }
    }
    workgroupBarrier();`;
}

/** WGSL that writes what a thread has of its own i. */
export function store(
  outs: readonly Out[],
  i: number,
  { place, factor }: { place: string; factor?: string },
): string {
  return outs.map(({ dim }, o) =>
    unrolled(roundsOf(dim), (r) =>
      `      if (column + ${r * COLUMNS}u < ${fours(dim)}u) {
        write_out${o}(${place}, column + ${r * COLUMNS}u, ${
        factor === undefined ? "" : `${factor} * `
      }sum${o}_${r}_${i});
      }`)
  ).join("\n");
}
