/**
 * The generator of a sequence: xoshiro128** (Blackman and Vigna 2018), integer arithmetic only, so a
 * seed gives the same numbers on every machine.
 */

/** Where draws come from. */
export interface RandomSource {
  /** A number in [0, 1) with 53 random bits. */
  next(): number;
}

/** xoshiro128** with its state filled from a seed by the splitmix32 finaliser. */
export class Xoshiro128 implements RandomSource {
  readonly #state = new Int32Array(4);

  /** `seed` may be any safe integer; all its bits count. */
  constructor(seed: number) {
    const low = seed | 0;
    const high = Math.floor(seed / 2 ** 32) | 0;
    // Two chained fills, so that seeds which differ in one half only share no state word.
    let mixer = low;
    for (let i = 0; i < 4; i++) {
      mixer = (mixer + 0x9e3779b9) | 0;
      this.#state[i] = scramble(mixer);
    }
    mixer = high ^ this.#state[3];
    for (let i = 0; i < 4; i++) {
      mixer = (mixer + 0x9e3779b9) | 0;
      this.#state[i] ^= scramble(mixer);
    }
    // The all-zero state is the one fixed point of the generator.
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1;
  }

  /** The next 32 random bits, unsigned. */
  nextUint32(): number {
    const s = this.#state;
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotateLeft(s[3], 11);
    return result;
  }

  next(): number {
    const high = this.nextUint32() >>> 5;
    const low = this.nextUint32() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }
}

/** A seed that nobody chose: 53 bits from the platform's secure source. */
export function drawSeed(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 2 ** 32 + low;
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

function scramble(value: number): number {
  let z = value;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}
