/**
 * What the kernels for products share: which rows of which matrices a dispatch computes, the order of
 * sums, and what becomes of a sum.
 *
 * A row's values come in blocks of 32. L sums share them: sum l adds blocks l, l + L, l + 2 L, .. value by
 * value, and then the sums are added in their order, from zero. L depends on the number of blocks alone,
 * and every kernel keeps to that order, so that an output has the same bits whichever computed it.
 * Neighbouring sums read neighbouring blocks, which is what memory is fast at, and a long row has more of
 * them, so that none takes long.
 */

import { unrolled } from "../kernel.ts";
import type { Binding, Dispatch } from "../kernel.ts";
import type { GpuWeight, WeightPart } from "../memory.ts";
import { blocksOf, DOT_EIGHT } from "../weights/format.ts";
import type { Integers } from "./quantize.ts";
import { partBindings } from "./weights.ts";

/** Storage buffers that a kernel may see on every adapter. */
const LEAST_BINDINGS = 8;

/** Rows of a matrix that lie in one buffer. */
export interface Matrix {
  readonly weight: GpuWeight;
  readonly part: WeightPart;
  /** Row of the part that the slice starts with. */
  readonly offset: number;
}

/** Rows of an output. With two matrices it is silu(first) * second. */
export interface Slice {
  readonly matrices: readonly Matrix[];
  /** Rows of the whole output that these are. */
  readonly firstRow: number;
  readonly rows: number;
  /** Width of the output. */
  readonly width: number;
  readonly out: GPUBuffer;
  readonly bias?: GPUBuffer;
  /** Adds to what is there. */
  readonly add?: boolean;
  readonly scale: number;
}

/** What all slices of a dispatch are multiplied with: `[rows, width]`. */
export interface Input {
  readonly x: GPUBuffer;
  readonly width: number;
  readonly rows: number;
  /** Values of a row that are multiplied; the matrices' columns. */
  readonly cols: number;
  /** Where `x` has records of integers (`quantize.ts`), or the kernel is to make them. */
  readonly integers?: Integers;
  /** Whether `x` has float32 still, of which the kernel makes records. */
  readonly unrounded?: boolean;
  /** Where `x` has halves (`half_rows.ts`), the factors of its blocks. */
  readonly factors?: GPUBuffer;
  /** Output rows that read the same values, and how far apart the next ones' are (`headLinear`). */
  readonly heads?: { readonly outDim: number; readonly stride: number };
  /** Storage buffers that a kernel may see; by default what every adapter has. */
  readonly maxBindings?: number;
}

/** Slices of an output: as many as its matrices have parts, where these are cut alike. */
export function slicesOf(
  weights: readonly GpuWeight[],
  output: Pick<Slice, "out" | "bias" | "add" | "scale">,
): Slice[] {
  const [{ rows: width }] = weights;
  const starts = new Set(weights.flatMap(({ parts }) => parts.map(({ firstRow }) => firstRow)));
  const sorted = [...starts].sort((a, b) => a - b);
  return sorted.map((firstRow, i) => {
    const matrices = weights.map((weight): Matrix => {
      const part = weight.parts.findLast((part) => part.firstRow <= firstRow)!;
      return { weight, part, offset: firstRow - part.firstRow };
    });
    return { ...output, matrices, firstRow, rows: (sorted[i + 1] ?? width) - firstRow, width };
  });
}

/** Puts slices into as few dispatches as their buffers allow; `shared` buffers are the input's. */
export function groupSlices(
  slices: readonly Slice[],
  { shared, maxBindings = LEAST_BINDINGS }: { shared: number } & Pick<Input, "maxBindings">,
): Slice[][] {
  const groups: Slice[][] = [];
  let room = 0;
  for (const slice of slices) {
    const needed = bindingsOf(slice, 0).length;
    const group = groups.at(-1);
    // A buffer that is written can be bound once.
    if (group === undefined || needed > room || group.some(({ out }) => out === slice.out)) {
      groups.push([slice]);
      room = maxBindings - shared - needed;
    } else {
      group.push(slice);
      room -= needed;
    }
  }
  return groups;
}

/** The buffers of slice i of a dispatch. */
export function bindingsOf({ matrices, bias, out }: Slice, i: number): Binding[] {
  return [
    ...matrices.flatMap(({ weight, part }, m) => partBindings(`w${i}${m}`, weight, part)),
    ...(bias ? [{ name: `bias${i}`, buffer: bias }] : []),
    { name: `out${i}`, buffer: out, write: true },
  ];
}

/** Parameters of slice i of a dispatch; `end` is the first tile of rows behind it. */
export function paramsOf(slice: Slice, i: number, end: number): Dispatch["params"] {
  const { matrices, firstRow, rows, width, scale } = slice;
  return {
    [`end${i}`]: end,
    [`rows${i}`]: rows,
    [`firstRow${i}`]: firstRow,
    [`width${i}`]: width,
    [`scale${i}`]: { f32: scale },
    ...Object.fromEntries(matrices.map(({ offset }, m) => [`offset${i}${m}`, offset])),
  };
}

/** Matrix M of every slice I, as it is named in a kernel. */
export function namedMatrices(slices: readonly Slice[]): { name: string; weight: GpuWeight }[] {
  return slices.flatMap(({ matrices }, i) =>
    matrices.map(({ weight }, m) => ({ name: `w${i}${m}`, weight }))
  );
}

/** WGSL of `wIM_8(row, unit)` for matrix M of every slice I. */
export function decoders(slices: readonly Slice[]): string {
  return namedMatrices(slices).map(({ name, weight: { format, cols } }) =>
    format.decode(name, cols)
  ).join("");
}

/**
 * WGSL of `finishI(token, row, sum)` or, for two matrices, `finishI(token, row, gate, up)`: writes one
 * value of slice I's output.
 */
export function finishers(slices: readonly Slice[]): string {
  return slices.map(({ matrices, bias, add }, i) => {
    const at = `let column = params.firstRow${i} + row;
  let at = token * params.width${i} + column;`;
    if (matrices.length === 2) {
      return `
fn finish${i}(token: u32, row: u32, gate: f32, up: f32) {
  ${at}
  let power = exp(-abs(gate));
  out${i}[at] = gate * (select(power, 1.0, gate >= 0.0) / (1.0 + power)) * up;
}`;
    }
    const sum = bias ? `(sum + bias${i}[column])` : "sum";
    return `
fn finish${i}(token: u32, row: u32, sum: f32) {
  ${at}
  out${i}[at] = ${add ? `fma(params.scale${i}, ${sum}, out${i}[at])` : `params.scale${i} * ${sum}`};
}`;
  }).join("");
}

/** WGSL statements, those of the slice to which row tile `tile` belongs. */
export function bySlice(slices: readonly Slice[], text: (i: number) => string): string {
  return slices.map((_, i) => `if (tile < params.end${i}) {\n${text(i)}\n}`).join(" else ");
}

/** WGSL statements, those of the slice with the number `slice`. */
export function bySliceNumber(slices: readonly Slice[], text: (i: number) => string): string {
  if (slices.length === 1) return text(0);
  const cases = slices.map((_, i) =>
    `${i === slices.length - 1 ? "default" : `case ${i}u`}: { ${text(i)} }`
  );
  return `switch (slice) { ${cases.join(" ")} }`;
}

/** WGSL of `finish_4(slice, token, row, endRow, sums)`, or with two vectors for two matrices. */
export function finishFour(slices: readonly Slice[]): string {
  const pair = slices[0].matrices.length === 2;
  const values = pair ? "a: vec4<f32>, b: vec4<f32>" : "a: vec4<f32>";
  const args = `token, row + j, a[j]${pair ? ", b[j]" : ""}`;
  return `
fn finish_4(slice: u32, token: u32, row: u32, endRow: u32, ${values}) {
  if (token >= params.rows) { return; }
  for (var j = 0u; j < min(4u, endRow - min(row, endRow)); j++) {
    ${bySliceNumber(slices, (i) => `finish${i}(${args});`)}
  }
}`;
}

/** Whether rows can be read sixteen bytes at a time, and whole blocks of them. */
export function isWhole({ width, cols, heads }: Input): boolean {
  return cols % 32 === 0 && width % 4 === 0 && (heads?.stride ?? 0) % 4 === 0;
}

/** The input as a kernel with `loadEight` reads it. */
export function inputBinding(input: Input): Binding {
  if (input.integers !== undefined && !input.unrounded) {
    return { name: "x", buffer: input.x, type: "array<vec4<u32>>" };
  }
  return { name: "x", buffer: input.x, type: isWhole(input) ? "array<vec4<f32>>" : "array<f32>" };
}

/** Sums that share a row's blocks: a power of two, of which some may have none. */
export function lanesOf(cols: number): number {
  const blocks = blocksOf(cols);
  const most = blocks <= 64 ? 16 : blocks <= 128 ? 32 : 64;
  let lanes = 1;
  while (lanes < most && lanes < blocks) lanes *= 2;
  return lanes;
}

/** Blocks that the longest of a row's sums has. */
export function laneBlocks(cols: number): number {
  return Math.ceil(blocksOf(cols) / lanesOf(cols));
}

/**
 * WGSL of `block_at(place)`: of a row's blocks, one sum's after the other's, number `place`, and which of
 * its sum's it is.
 */
export function blockOrder(cols: number): string {
  const blocks = blocksOf(cols);
  const lanes = lanesOf(cols);
  const [least, longer] = [Math.floor(blocks / lanes), blocks % lanes];
  const most = least + 1;
  const short = least === 0 ? "" : `
  let behind = place - ${longer * most}u;
  return vec2<u32>(${longer}u + behind / ${least}u + behind % ${least}u * ${lanes}u, behind % ${least}u);`;
  const long =
    `return vec2<u32>(place / ${most}u + place % ${most}u * ${lanes}u, place % ${most}u);`;
  return `fn block_at(place: u32) -> vec2<u32> {
  ${
    least === 0
      ? long
      : `${longer === 0 ? "" : `if (place < ${longer * most}u) { ${long} }`}${short}`
  }
}`;
}

/**
 * WGSL statements that add all blocks of sum `part` to the variables `sums`. `load(k)` is WGSL that asks
 * for what is needed of block `atK`, and `add(k)` adds it. Up to `ahead` blocks are asked for at once.
 */
export function overBlocks(
  { cols, ahead, sums, load, add }: {
    cols: number;
    ahead: number;
    sums: readonly string[];
    load: (k: number) => string;
    add: (k: number) => string;
  },
): string {
  const blocks = blocksOf(cols);
  const lanes = lanesOf(cols);
  const longest = laneBlocks(cols);
  const turn = (count: number) =>
    `${unrolled(count, (k) => `let at${k} = block + ${k * lanes}u;\n${load(k)}`)}
${unrolled(count, add)}`;
  if (longest <= ahead) {
    const last = longest - 1;
    const list = (text: (k: number) => string) => unrolled(last, text);
    const at = `part + ${last * lanes}u`;
    const some = blocks % lanes > 0;
    // A block beyond the last one is read where that one is, and not kept.
    return `    {
${list((k) => `let at${k} = part + ${k * lanes}u;\n${load(k)}`)}
let at${last} = ${some ? `min(${at}, ${blocks - 1}u)` : at};
${load(last)}
${list(add)}
${some ? sums.map((sum) => `let before_${sum} = ${sum};`).join("\n") : ""}
${add(last)}
${
      some
        ? sums.map((sum) => `${sum} = select(before_${sum}, ${sum}, ${at} < ${blocks}u);`).join(
          "\n",
        )
        : ""
    }
    }`;
  }
  return `    var block = part;
    for (; block + ${(ahead - 1) * lanes}u < ${blocks}u; block += ${ahead * lanes}u) {
${turn(ahead)}
    }
${
    blocks % (ahead * lanes) === 0 || ahead === 1
      ? ""
      : `    for (; block < ${blocks}u; block += ${lanes}u) {\n${turn(1)}\n    }`
  }`;
}

/** WGSL statements that add `value(l)`, a row's sums, to `total` in their order, `l` a WGSL expression. */
export function addLanes(cols: number, total: string, value: (l: string) => string): string {
  const lanes = lanesOf(cols);
  const step = Math.min(8, lanes);
  return `for (var l = 0u; l < ${lanes}u; l += ${step}u) {
${unrolled(step, (i) => `  ${total} += ${value(`(l + ${i}u)`)};`)}
}`;
}

/**
 * WGSL of `x_8(base, unit)`, eight values of a row from `base` on, zeros behind the last one, and of
 * `dot_8`, their sum in order.
 */
export function loadEight(whole: boolean, cols: number): string {
  const load = whole
    ? `let at = base / 4u + unit * 2u; return Eight(x[at], x[at + 1u]);`
    : `var eight: Eight;
  for (var j = 0u; j < 8u; j++) {
    let column = unit * 8u + j;
    if (column >= ${cols}u) { break; }
    if (j < 4u) { eight.a[j] = x[base + column]; } else { eight.b[j - 4u] = x[base + column]; }
  }
  return eight;`;
  return `
fn x_8(base: u32, unit: u32) -> Eight { ${load} }
${DOT_EIGHT}`;
}
