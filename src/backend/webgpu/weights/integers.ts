/**
 * Quantised weights as integers, for products with activations that are rounded to integers too: a
 * number is `scale * n + offset` with n of eight bits, and sums of products of integers are exact.
 */

/** How a format's blocks are read as integers. */
export interface IntegerForm {
  /** Whether the halves of a block have scales of their own. */
  readonly halves: boolean;
  /** Whether there are offsets. */
  readonly offsets: boolean;
  /**
   * WGSL of `fn NAME_raw(row: u32, block: u32) -> NAME_Raw`, which only reads, and of
   * `fn NAME_ints(raw: NAME_Raw) -> Ints`.
   */
  code(name: string, cols: number): string;
}

/**
 * WGSL of `Ints`, a block of 32 numbers: eight words of four signed bytes each, values 4 i .. 4 i + 3 in
 * word i (`a` has the first four words), and scale and offset of either half. `packed_bytes` are such a word.
 */
export const INTEGERS_COMMON = `
struct Ints { a: vec4<u32>, b: vec4<u32>, scale: vec2<f32>, offset: vec2<f32> }
fn packed_bytes(values: vec4<f32>) -> u32 {
  let bytes = vec4<u32>(vec4<i32>(values)) & vec4<u32>(0xffu);
  return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}`;

/**
 * The form of a format whose `NAME_load` reads a block. `pair` is the WGSL that leaves in `low` and `high`
 * the bytes of values 8 j .. 8 j + 3 and 8 j + 4 .. 8 j + 7 of `block`; `scale` and `offset` are WGSL.
 */
export function integersOf(
  { pair, halves = false, scale, offset }: {
    pair: string;
    halves?: boolean;
    scale: string;
    offset?: string;
  },
): IntegerForm {
  const two = (value: string) => halves ? value : `vec2<f32>(${value})`;
  return {
    halves,
    offsets: offset !== undefined,
    code: (name) => `
alias ${name}_Raw = ${name}_Block;
fn ${name}_raw(row: u32, block: u32) -> ${name}_Raw { return ${name}_load(row, block); }
fn ${name}_pair(block: ${name}_Block, j: u32) -> vec2<u32> {${pair}
  return vec2<u32>(low, high);
}
fn ${name}_ints(block: ${name}_Raw) -> Ints {
  let first = vec4<u32>(${name}_pair(block, 0u), ${name}_pair(block, 1u));
  let second = vec4<u32>(${name}_pair(block, 2u), ${name}_pair(block, 3u));
  return Ints(first, second, ${two(scale)}, ${offset === undefined ? "vec2<f32>()" : two(offset)});
}`,
  };
}
