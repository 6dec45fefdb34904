/**
 * A WebAssembly module that does nothing but read memory, or nothing but multiply: what a thread can
 * do at best in this runtime. Assembled here byte by byte, so that the benchmark has no binary.
 */

const I32 = 0x7f;
const V128 = 0x7b;

/** Accumulators of the multiplying loop: enough to hide the latency of its one instruction. */
const ACCUMULATORS = 12;
/** Multiply-adds of int8 in one turn of that loop. */
export const MACS_PER_TURN = ACCUMULATORS * 16;
/** Bytes read in one turn of the reading loop; lengths must be multiples of it. */
export const BYTES_PER_TURN = 128;

export interface Probe {
  /** Reads the first `bytes` bytes of the memory with 128-bit loads. */
  read(bytes: number): number;
  /** Runs `turns` turns of int8 multiply-adds; absent in the build without relaxed SIMD. */
  dot?(turns: number): number;
}

/** Unsigned LEB128. */
function leb(value: number): number[] {
  const bytes: number[] = [];
  do {
    const rest = value >>> 7;
    bytes.push((value & 0x7f) | (rest > 0 ? 0x80 : 0));
    value = rest;
  } while (value > 0);
  return bytes;
}

const sized = (bytes: number[]) => [...leb(bytes.length), ...bytes];
const vector = (items: number[][]) => [...leb(items.length), ...items.flat()];
const section = (id: number, bytes: number[]) => [id, ...sized(bytes)];
const text = (value: string) => sized([...new TextEncoder().encode(value)]);
const repeat = (count: number, make: (i: number) => number[]) =>
  Array.from({ length: count }, (_, i) => make(i)).flat();

const getLocal = (i: number) => [0x20, ...leb(i)];
const setLocal = (i: number) => [0x21, ...leb(i)];
const teeLocal = (i: number) => [0x22, ...leb(i)];
/** i32.const takes signed LEB128; two bytes hold every value below 2^13. */
const constant = (value: number) => [0x41, (value & 0x7f) | 0x80, value >>> 7];
const simd = (opcode: number) => [0xfd, ...leb(opcode)];
const load = (offset: number) => [...simd(0), 4, ...leb(offset)];
const OR = simd(80);
const XOR = simd(81);
const ADD_I32X4 = simd(174);
const RELAXED_DOT_ADD = simd(0x113);
const FIRST_LANE = [...simd(27), 0];
const LOOP = [0x03, 0x40];
const REPEAT_IF = [0x0d, 0];
const END = 0x0b;
const ADD = 0x6a;
const SUBTRACT = 0x6b;
const LESS_UNSIGNED = 0x49;

/** `read(bytes)`: local 1 is the address, locals 2 to 5 collect what was read. */
function readBody(): number[] {
  return [
    ...vector([[1, I32], [4, V128]]),
    ...LOOP,
    ...repeat(BYTES_PER_TURN / 16, (i) => [
      ...getLocal(2 + i % 4),
      ...getLocal(1),
      ...load(i * 16),
      ...OR,
      ...setLocal(2 + i % 4),
    ]),
    ...getLocal(1),
    ...constant(BYTES_PER_TURN),
    ADD,
    ...teeLocal(1),
    ...getLocal(0),
    LESS_UNSIGNED,
    ...REPEAT_IF,
    END,
    ...getLocal(2),
    ...repeat(3, (i) => [...getLocal(3 + i), ...OR]),
    ...FIRST_LANE,
    END,
  ];
}

/** `dot(turns)`: locals 1 and 2 are the factors, the rest are accumulators. */
function dotBody(): number[] {
  const lanes = (value: number) => [...simd(12), ...new Array(16).fill(value)];
  return [
    ...vector([[2 + ACCUMULATORS, V128]]),
    ...lanes(77),
    ...setLocal(1),
    ...lanes(5),
    ...setLocal(2),
    ...LOOP,
    ...repeat(ACCUMULATORS, (i) => [
      ...getLocal(1),
      ...getLocal(2),
      ...getLocal(3 + i),
      ...RELAXED_DOT_ADD,
      ...setLocal(3 + i),
    ]),
    // Changes a factor, so that no product can be taken out of the loop.
    ...getLocal(1),
    ...getLocal(2),
    ...XOR,
    ...setLocal(1),
    ...getLocal(0),
    ...constant(1),
    SUBTRACT,
    ...teeLocal(0),
    ...REPEAT_IF,
    END,
    ...getLocal(3),
    ...repeat(ACCUMULATORS - 1, (i) => [...getLocal(4 + i), ...ADD_I32X4]),
    ...FIRST_LANE,
    END,
  ];
}

/** The module's bytes; it imports its memory as `env.memory` and exports `read` and perhaps `dot`. */
export function probeModule({ relaxed }: { relaxed: boolean }): Uint8Array<ArrayBuffer> {
  const bodies = relaxed ? [readBody(), dotBody()] : [readBody()];
  const names = ["read", "dot"].slice(0, bodies.length);
  return new Uint8Array([
    ...[0, 97, 115, 109, 1, 0, 0, 0],
    ...section(1, vector([[0x60, 1, I32, 1, I32]])),
    ...section(2, vector([[...text("env"), ...text("memory"), 2, 0, 1]])),
    ...section(3, vector(bodies.map(() => [0]))),
    ...section(7, vector(names.map((name, i) => [...text(name), 0, i]))),
    ...section(10, vector(bodies.map(sized))),
  ]);
}

/** An instance over `memory`, with `dot` where the runtime has relaxed SIMD. */
export async function instantiateProbe(memory: WebAssembly.Memory): Promise<Probe> {
  const full = probeModule({ relaxed: true });
  const bytes = WebAssembly.validate(full) ? full : probeModule({ relaxed: false });
  const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } });
  return instance.exports as unknown as Probe;
}
