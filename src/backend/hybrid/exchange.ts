/**
 * Where rows lie on their way between the two sides. Mixtures of one shape share it, since one plan runs at
 * a time and its mixtures one after the other.
 */

import type { Buffer } from "../backend.ts";
import type { Sides } from "./experts.ts";

/** Of the buffers that a mixture works on. */
export interface ExchangeShape {
  readonly rows: number;
  readonly hidden: number;
  readonly topK: number;
}

export interface Exchange {
  /** On the device: i32 [rows, topK], the slots of chosen experts; f32 [rows, hidden], the host's sums. */
  readonly slots: Buffer;
  readonly sums: Buffer;
  /** On the host: what `experts` takes, and where it adds. */
  readonly host: {
    readonly x: Buffer;
    readonly expertIds: Buffer;
    readonly weights: Buffer;
    readonly out: Buffer;
  };
  /** In between: [rows, hidden] each, kept, since new arrays cost a page fault per 4 KiB. */
  readonly inputs: Float32Array;
  readonly outputs: Float32Array;
  /** [rows, hidden] of what changes no bit where it is added: negative zeros. */
  readonly nothing: Float32Array;
}

export class Exchanges {
  readonly #sides: Sides;
  readonly #known = new Map<string, Exchange>();

  constructor(sides: Sides) {
    this.#sides = sides;
  }

  /** The exchange for a shape, made now or before. */
  of(shape: ExchangeShape): Exchange {
    const { rows, hidden, topK } = shape;
    const key = `${rows} ${hidden} ${topK}`;
    let exchange = this.#known.get(key);
    if (exchange === undefined) {
      exchange = make(this.#sides, shape);
      this.#known.set(key, exchange);
    }
    return exchange;
  }
}

function make({ device, host }: Sides, { rows, hidden, topK }: ExchangeShape): Exchange {
  const states = { kind: "f32", rows, width: hidden } as const;
  const ids = { kind: "i32", rows, width: topK } as const;
  return {
    slots: device.createBuffer(ids),
    sums: device.createBuffer(states),
    host: {
      x: host.createBuffer(states),
      expertIds: host.createBuffer(ids),
      weights: host.createBuffer({ kind: "f32", rows, width: topK }),
      out: host.createBuffer(states),
    },
    inputs: new Float32Array(rows * hidden),
    outputs: new Float32Array(rows * hidden),
    nothing: new Float32Array(rows * hidden).fill(-0),
  };
}
