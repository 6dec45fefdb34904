/**
 * Puts samples together to sequences of one length. Where a sample begins and ends is kept, so that none
 * attends to another: which sample a token is of, and, from that, its position in it.
 */

import type { Sample } from "./encode.ts";

/** `length` tokens of one or more samples, and padding behind them. */
export interface PackedSequence {
  readonly ids: Int32Array;
  /** 1 where the token is to be predicted from those before it in its sample. */
  readonly targets: Uint8Array;
  /** Which of the sequence's samples a token is of, from 0; -1 for padding. */
  readonly samples: Int32Array;
}

export interface PackStatistics {
  samples: number;
  sequences: number;
  /** Tokens of samples, those among them that count towards the loss, and padding. */
  tokens: number;
  targets: number;
  padding: number;
  /** Conversations left out, since they are longer than a sequence; texts that were cut in pieces. */
  overlong: number;
  cut: number;
}

export interface PackerOptions {
  /** Tokens of a sequence. */
  readonly length: number;
  readonly padToken: number;
  readonly emit: (sequence: PackedSequence) => void;
}

/** Sequences that are kept open for samples that still fit. */
const OPEN_SEQUENCES = 64;

interface OpenSequence {
  readonly samples: Sample[];
  used: number;
}

export class Packer {
  readonly statistics: PackStatistics = {
    samples: 0,
    sequences: 0,
    tokens: 0,
    targets: 0,
    padding: 0,
    overlong: 0,
    cut: 0,
  };
  readonly #options: PackerOptions;
  readonly #open: OpenSequence[] = [];

  constructor(options: PackerOptions) {
    this.#options = options;
  }

  /** Adds a sample where it leaves the least room; the oldest sequence is given out if none has any. */
  add(sample: Sample): void {
    const { length } = this.#options;
    if (sample.ids.length <= length) this.#place(sample);
    else if (sample.kind === "chat") this.statistics.overlong++;
    else {
      this.statistics.cut++;
      for (let from = 0; from < sample.ids.length; from += length) {
        const targets = sample.targets.slice(from, from + length);
        targets[0] = 0;
        this.#place({ ...sample, ids: sample.ids.slice(from, from + length), targets });
      }
    }
  }

  #place(sample: Sample): void {
    const { length } = this.#options;
    const size = sample.ids.length;
    let best: OpenSequence | null = null;
    for (const open of this.#open) {
      if (open.used + size <= length && (best === null || open.used > best.used)) best = open;
    }
    if (best === null) {
      if (this.#open.length === OPEN_SEQUENCES) this.#emit(this.#open.shift()!);
      this.#open.push(best = { samples: [], used: 0 });
    }
    best.samples.push(sample);
    best.used += size;
    this.statistics.samples++;
    this.statistics.tokens += size;
    if (best.used === length) {
      this.#open.splice(this.#open.indexOf(best), 1);
      this.#emit(best);
    }
  }

  #emit(open: OpenSequence): void {
    const { length, padToken, emit } = this.#options;
    const ids = new Int32Array(length).fill(padToken);
    const targets = new Uint8Array(length);
    const samples = new Int32Array(length).fill(-1);
    let at = 0;
    for (const [i, sample] of open.samples.entries()) {
      ids.set(sample.ids, at);
      targets.set(sample.targets, at);
      samples.fill(i, at, at + sample.ids.length);
      at += sample.ids.length;
    }
    this.statistics.sequences++;
    this.statistics.padding += length - at;
    this.statistics.targets += targets.reduce((sum, target) => sum + target, 0);
    emit({ ids, targets, samples });
  }

  /** Gives out what is open, oldest first. */
  finish(): void {
    for (const open of this.#open.splice(0)) this.#emit(open);
  }
}

/** Each token's place in its own sample; 0 for padding. */
export function positionsOf({ samples }: Pick<PackedSequence, "samples">): Int32Array {
  const positions = new Int32Array(samples.length);
  for (let i = 1; i < samples.length; i++) {
    const goesOn = samples[i] >= 0 && samples[i] === samples[i - 1];
    positions[i] = goesOn ? positions[i - 1] + 1 : 0;
  }
  return positions;
}

/** The samples of a sequence again, without padding. */
export function samplesOf(
  sequence: PackedSequence,
): { ids: Int32Array; targets: Uint8Array }[] {
  const { ids, targets, samples } = sequence;
  const found: { ids: Int32Array; targets: Uint8Array }[] = [];
  for (let from = 0; from < samples.length && samples[from] >= 0;) {
    let to = from + 1;
    while (to < samples.length && samples[to] === samples[from]) to++;
    found.push({ ids: ids.subarray(from, to), targets: targets.subarray(from, to) });
    from = to;
  }
  return found;
}
