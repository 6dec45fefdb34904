/** Which experts take which kind of token, and how evenly they are used. */

/** Kinds of tokens, by their text. */
export const TOKEN_CLASSES = ["digits", "operators", "words", "other", "control"] as const;

export type TokenClass = (typeof TOKEN_CLASSES)[number];

/** Spaces around it don't count; what has letters is a word, punctuation and bare spaces are other. */
export function tokenClass(text: string, { control }: { control: boolean }): TokenClass {
  if (control) return "control";
  const bare = text.trim();
  if (/^\p{N}+$/u.test(bare)) return "digits";
  if (/^[-+*\/=<>^%×÷·±−√≤≥≠]+$/u.test(bare)) return "operators";
  return /\p{L}/u.test(bare) ? "words" : "other";
}

export interface LayerSpecialisation {
  readonly layer: number;
  readonly experts: number;
  readonly topK: number;
  /** Choices of each expert. */
  readonly load: readonly number[];
  /** The busiest expert's load over the mean; 1 where all are used alike. */
  readonly maxOverMean: number;
  /** Experts that no token chose. */
  readonly unused: number;
  /** Bits that an expert's choice says of the token's class (mutual information); 0: nothing. */
  readonly bits: number;
  /** Of each class, how often it chose each expert. */
  readonly byClass: Readonly<Record<TokenClass, readonly number[]>>;
}

export interface Specialisation {
  /** Tokens of each class. */
  readonly tokens: Readonly<Record<TokenClass, number>>;
  readonly layers: readonly LayerSpecialisation[];
}

interface LayerShape {
  readonly layer: number;
  readonly experts: number;
  readonly topK: number;
}

/** Counts choices of tokens as they come. */
export class SpecialisationCounter {
  readonly #layers: readonly LayerShape[];
  readonly #tokens = forClasses(() => 0);
  readonly #counts: Record<TokenClass, Float64Array[]>;

  constructor(layers: readonly LayerShape[]) {
    this.#layers = layers;
    this.#counts = forClasses(() => layers.map(({ experts }) => new Float64Array(experts)));
  }

  /** Adds one token's choices: layer after layer, `topK` ids each, from `at` on. */
  add(kind: TokenClass, { experts, at }: { experts: ArrayLike<number>; at: number }): void {
    this.#tokens[kind]++;
    for (const [i, { topK }] of this.#layers.entries()) {
      for (let j = 0; j < topK; j++) this.#counts[kind][i][experts[at++]]++;
    }
  }

  summary(): Specialisation {
    const layers = this.#layers.map((shape, i): LayerSpecialisation => {
      const byClass = forClasses((kind) => [...this.#counts[kind][i]]);
      const load = Array.from(
        { length: shape.experts },
        (_, expert) => TOKEN_CLASSES.reduce((sum, kind) => sum + byClass[kind][expert], 0),
      );
      const mean = load.reduce((sum, count) => sum + count, 0) / shape.experts;
      return {
        ...shape,
        load,
        maxOverMean: mean > 0 ? Math.max(...load) / mean : 0,
        unused: load.filter((count) => count === 0).length,
        bits: mutualInformation(TOKEN_CLASSES.map((kind) => byClass[kind])),
        byClass,
      };
    });
    return { tokens: { ...this.#tokens }, layers };
  }
}

/** Of a table of counts: how many bits a row's and a column's index have in common. */
export function mutualInformation(table: readonly (readonly number[])[]): number {
  const rows = table.map((row) => row.reduce((sum, count) => sum + count, 0));
  const columns = table[0].map((_, i) => table.reduce((sum, row) => sum + row[i], 0));
  const all = rows.reduce((sum, count) => sum + count, 0);
  let bits = 0;
  for (const [i, row] of table.entries()) {
    for (const [j, count] of row.entries()) {
      if (count > 0) bits += count / all * Math.log2(count * all / (rows[i] * columns[j]));
    }
  }
  return Math.max(0, bits);
}

function forClasses<T>(make: (kind: TokenClass) => T): Record<TokenClass, T> {
  return Object.fromEntries(TOKEN_CLASSES.map((kind) => [kind, make(kind)])) as Record<
    TokenClass,
    T
  >;
}
