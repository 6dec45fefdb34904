/**
 * What the kernels for products of integers share: what a block of weights with a block of activations
 * adds to a sum. Products of integers are summed exactly; the order in which blocks are added is that of
 * `products.ts`, so that an output has the same bits whichever kernel computed it.
 */

import { unrolled } from "../kernel.ts";
import type { GpuWeight } from "../memory.ts";
import { INTEGERS_COMMON } from "../weights/integers.ts";
import { DECODE_COMMON } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { type IntegerBits, type Integers, recordVectors } from "./quantize.ts";

/** How products with these are computed as those of integers; undefined where they are not. */
export function integersFor(
  { activations, packedDot }: Pick<OpContext, "activations" | "packedDot">,
  matrices: readonly { readonly weight: GpuWeight }[],
): Integers | undefined {
  if (activations === "f32") return undefined;
  if (matrices.some(({ weight }) => weight.format.integers === undefined)) return undefined;
  return { bits: activations === "q8" ? 8 : 16, packedDot };
}

/** WGSL of `dot_4`, the sum of the products of two words' signed bytes. */
function dotFour(packedDot: boolean): string {
  return packedDot
    ? `fn dot_4(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }`
    : `fn byte_of(word: u32, i: u32) -> i32 { return extractBits(bitcast<i32>(word), 8u * i, 8u); }
fn dot_4(a: u32, b: u32) -> i32 {
  return ${unrolled(4, (i) => `byte_of(a, ${i}u) * byte_of(b, ${i}u)`, " + ")};
}`;
}

/**
 * WGSL of `NAME_raw` and `NAME_ints` for these matrices, and of `NAME_add(ints, record, start)`: `start` and
 * the products of a block. Records are read from `source`.
 */
export function integerMatrices(
  matrices: readonly { name: string; weight: GpuWeight }[],
  { bits, packedDot }: Integers,
  source: "x" | "records" = "x",
): string {
  const own = matrices.map(({ name, weight: { format, cols } }) =>
    format.decode(name, cols) + format.integers!.code(name, cols) +
    addBlock(`${name}_add`, format.integers!)
  );
  return `${DECODE_COMMON}${INTEGERS_COMMON}
${dotFour(packedDot)}${records(bits, source)}${own.join("")}`;
}

/**
 * WGSL of `Record`, a block of activations, of `record_at(at)`, which reads one from `source`, and of
 * `dot_halves`, the products of its halves with those of weights.
 */
function records(bits: IntegerBits, source: string): string {
  const vectors = recordVectors(bits);
  const dot = (w: string, x: string) =>
    "xyzw".split("").map((c) => `dot_4(${w}.${c}, ${x}.${c})`).join(" + ");
  const both = (w: string, high: string, low: string) =>
    bits === 8 ? dot(w, high) : `256 * (${dot(w, high)}) + (${dot(w, low)})`;
  return `
struct Record { ${unrolled(vectors - 1, (i) => `v${i}: vec4<u32>`, ", ")}, factors: vec4<f32> }
fn record_at(at: u32) -> Record {
  let first = at * ${vectors}u;
  return Record(${
    unrolled(vectors - 1, (i) => `${source}[first + ${i}u]`, ", ")
  }, bitcast<vec4<f32>>(${source}[first + ${vectors - 1}u]));
}
fn dot_halves(w: Ints, r: Record) -> vec2<i32> {
  return vec2<i32>(${both("w.a", "r.v0", "r.v2")}, ${both("w.b", "r.v1", "r.v3")});
}`;
}

function addBlock(
  name: string,
  { halves, offsets }: { halves: boolean; offsets: boolean },
): string {
  const lines = halves
    ? [
      "sum = fma(f32(products.x), w.scale.x * r.factors.x, sum);",
      "sum = fma(f32(products.y), w.scale.y * r.factors.x, sum);",
      ...(offsets
        ? [
          "sum = fma(w.offset.x, r.factors.y, sum);",
          "sum = fma(w.offset.y, r.factors.z, sum);",
        ]
        : []),
    ]
    : [
      "sum = fma(f32(products.x + products.y), w.scale.x * r.factors.x, sum);",
      ...(offsets ? ["sum = fma(w.offset.x, r.factors.w, sum);"] : []),
    ];
  return `
fn ${name}(w: Ints, r: Record, start: f32) -> f32 {
  let products = dot_halves(w, r);
  var sum = start;
  ${lines.join("\n  ")}
  return sum;
}`;
}
