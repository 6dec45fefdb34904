/**
 * The generator of a sequence: xoshiro128** (Blackman and Vigna 2018), integer arithmetic only, so a
 * seed gives the same numbers on every machine.
 */

/** 64 random bits, as two unsigned words. */
export interface RandomBits {
  readonly high: number;
  readonly low: number;
}

/** xoshiro128** with its state filled from a seed by the splitmix32 finaliser. */
export class Xoshiro128 {
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

  /** A number in [0, 1) with 53 random bits. */
  next(): number {
    const { high, low } = this.draw();
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  }

  /** The next 64 random bits. */
  draw(): RandomBits {
    const high = this.nextUint32();
    return { high, low: this.nextUint32() };
  }

  /** What `draw` will give after so many other draws; none of them counts as drawn. */
  peek({ skip, count }: { skip: number; count: number }): RandomBits[] {
    const state = this.#state.slice();
    for (let i = 0; i < skip; i++) this.draw();
    const bits = Array.from({ length: count }, () => this.draw());
    this.#state.set(state);
    return bits;
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
