/**
 * How likely a token is, in integers. A token's distance from the best logit is counted in steps of
 * 2^-16 octaves of probability, and its weight is the integer that a table has for that many steps. So
 * sums depend on no order, and whoever subtracts, multiplies and rounds float32 numbers as IEEE 754 has
 * it, a GPU too, gets the same bits: a seed gives the same text everywhere. A weight is off by less than
 * 1.2e-5 of itself, or by half of the smallest.
 *
 * Numbers near float32's ends are kept out, since GPUs may flush the small ones and leave undefined what
 * the large ones come to: all that is computed with is 0 or between SMALLEST and LARGEST.
 */

/** Magnitudes below this count as 0. */
export const SMALLEST = 2 ** -60;
/** Magnitudes above this count as this. */
export const LARGEST = 2 ** 60;

/** Steps in which a weight halves. */
export const OCTAVE = 2 ** 16;
/** Steps from which on a weight is 0. */
export const STEPS = 32 * OCTAVE;
/** The weight of the most likely token. Sums of 2^22 of them are exact in JavaScript's numbers. */
export const BEST_WEIGHT = 2 ** 31;

/** Entries of each of the tables. */
const TABLE = 256;
/** What 1 is in the tables. */
const UNIT = 2 ** 26;

/**
 * 2^-(i / 256), then 2^-(i / 65536), for i from 0 to 255, in 2^-26: the product of an entry of each is the
 * weight within an octave.
 */
export const WEIGHT_TABLES = buildTables();

/** Made of products and square roots, which are exact to the last bit on every machine. */
function buildTables(): Uint32Array<ArrayBuffer> {
  const powers = new Float64Array(2 * TABLE).fill(1);
  let root = 0.5;
  for (let bit = TABLE * TABLE >> 1; bit > 0; bit >>= 1) {
    root = Math.sqrt(root);
    const [first, half] = bit >= TABLE ? [0, bit / TABLE] : [TABLE, bit];
    for (let i = 0; i < TABLE; i++) {
      if ((i & half) !== 0) powers[first + i] *= root;
    }
  }
  return Uint32Array.from(powers, (power) => Math.round(power * UNIT));
}

/** Weights by steps within the first octave. */
const OCTAVE_WEIGHTS = buildOctave();

function buildOctave(): Uint32Array {
  const scale = BEST_WEIGHT / UNIT / UNIT;
  return Uint32Array.from(
    { length: OCTAVE },
    (_, step) =>
      Math.floor(WEIGHT_TABLES[step >> 8] * WEIGHT_TABLES[TABLE + (step & 255)] * scale + 0.5),
  );
}

/** The weight of a token so many steps from the best; below STEPS, at least 1. */
export function weightOf(steps: number): number {
  const octaves = steps >>> 16;
  return (OCTAVE_WEIGHTS[steps & 0xffff] + ((1 << octaves) >>> 1)) >>> octaves;
}

/** A number as float32 within what is computed with; infinities and NaN stay. */
export function settled(value: number): number {
  const rounded = Math.fround(value);
  const magnitude = Math.abs(rounded);
  if (magnitude < SMALLEST) return 0;
  if (magnitude > LARGEST && magnitude < Infinity) return rounded > 0 ? LARGEST : -LARGEST;
  return rounded;
}

/** Steps per unit of logits at a temperature above 0. */
export function stepScale(temperature: number): number {
  return settled(Math.min(OCTAVE * Math.LOG2E / temperature, LARGEST));
}

/** The most steps at which a token is at least this share as likely as the best. */
export function farthestStep(minP: number): number {
  let near = 0;
  let far = STEPS;
  while (far - near > 1) {
    const middle = (near + far) >>> 1;
    if (weightOf(middle) >= minP * BEST_WEIGHT) near = middle;
    else far = middle;
  }
  return near;
}

/** floor(total * part / 2^bits), exactly. */
export function partOf(total: number, { part, bits }: { part: bigint; bits: bigint }): number {
  return Number((BigInt(total) * part) >> bits);
}
