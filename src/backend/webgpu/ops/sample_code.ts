/**
 * WGSL that the kernels of sampling share. All of it is integers but for edits and for the distance from
 * the best logit, whose operations round as the CPU's do. 64-bit numbers are `vec2<u32>`, low word first.
 */

import { LARGEST, OCTAVE, SMALLEST } from "../../../sampling/weights.ts";
import { LANES } from "./choose_layout.ts";

function bitsOf(value: number): string {
  return `${new Uint32Array(Float32Array.of(value).buffer)[0]}u`;
}

/** A number as `settled` makes it, from the bits of a finite one. */
export const SETTLED = `
fn settled(bits: u32) -> f32 {
  let magnitude = bits & 0x7fffffffu;
  if (magnitude < ${bitsOf(SMALLEST)}) { return 0.0; }
  return bitcast<f32>((bits & 0x80000000u) | min(magnitude, ${bitsOf(LARGEST)}));
}`;

/** What an operation gave, rounded. Needs `params.zero`, which is 0. */
export const ROUNDED = `
// No compiler knows that number: so none makes one operation of two.
fn rounded(value: f32) -> u32 { return bitcast<u32>(value) ^ params.zero; }`;

export const WIDE = `
fn add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + u32(low < a.x));
}
fn less(a: vec2<u32>, b: vec2<u32>) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }
fn wide(value: u32) -> vec2<u32> { return vec2<u32>(value, 0u); }
fn product(a: u32, b: u32) -> vec2<u32> {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let one = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let two = (a & 0xffffu) * (b >> 16u) + (one & 0xffffu);
  return vec2<u32>(a * b, (a >> 16u) * (b >> 16u) + (one >> 16u) + (two >> 16u));
}
// The high half of the product: a times a fraction.
fn part(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let one = product(a.x, b.y);
  let two = product(a.y, b.x);
  let middle = add(add(wide(product(a.x, b.x).y), wide(one.x)), wide(two.x));
  return add(add(product(a.y, b.y), wide(one.y)), add(wide(two.y), wide(middle.y)));
}`;

/** `weightOf`. Needs `tables` and WIDE. */
export const WEIGHT = `
fn weight_of(step: u32) -> u32 {
  let exact = product(tables[(step >> 8u) & 255u], tables[256u + (step & 255u)]);
  let near = add(exact, wide(1u << 20u));
  let octaves = step / ${OCTAVE}u;
  return ((near.y << 11u) + (near.x >> 21u) + ((1u << octaves) >> 1u)) >> octaves;
}`;

/** The sum of the threads before; `sums[LANES - 1]` is that of all until the next call. Needs WIDE. */
export const PREFIX = `
var<workgroup> sums: array<vec2<u32>, ${LANES}>;
fn before(lane: u32, own: vec2<u32>) -> vec2<u32> {
  workgroupBarrier();
  sums[lane] = own;
  workgroupBarrier();
  for (var reach = 1u; reach < ${LANES}u; reach *= 2u) {
    var sum = sums[lane];
    if (lane >= reach) { sum = add(sum, sums[lane - reach]); }
    workgroupBarrier();
    sums[lane] = sum;
    workgroupBarrier();
  }
  if (lane == 0u) { return wide(0u); }
  return sums[lane - 1u];
}`;
export const ALL = `sums[${LANES - 1}]`;

/** Whether a sum that grows by `own` comes to what is sought. Needs WIDE. */
export const REACHES = `
fn reaches(goal: vec2<u32>, sum: vec2<u32>, own: vec2<u32>) -> bool {
  return less(sum, goal) && !less(add(sum, own), goal);
}`;
