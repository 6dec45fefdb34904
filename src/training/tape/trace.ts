/** A forward pass taken down as nodes, and what buffers hold at each point of it. */

import type { Buffer, KvCache, LatentCache } from "../../backend/backend.ts";
import type { Node, Scope, Uses } from "./node.ts";
import type { GateTraining } from "./rules/mixture.ts";
import { type Change, Value } from "./value.ts";

/** How a trace finds what stands for a model's handles. */
export interface TraceOptions {
  /** The buffer in which the host's values lie, for one that no op has written. */
  located(buffer: Buffer): Buffer;
  /** Where the rows of an ids buffer are, sorted by id. */
  orderOf(ids: Buffer): Buffer;
  kvCache(cache: KvCache): KvCache;
  latentCache(cache: LatentCache): LatentCache;
  /** What is to be done about the gate that comes `index`-th. */
  gate(index: number): GateTraining;
}

export class Trace implements Scope {
  readonly options: TraceOptions;
  readonly nodes: Node[] = [];
  /** Of each node. */
  readonly uses: Uses[] = [];
  readonly #current = new Map<Buffer, Value>();

  constructor(options: TraceOptions) {
    this.options = options;
  }

  read(buffer: Buffer): Value {
    const known = this.#current.get(buffer);
    if (known !== undefined) return known;
    const fixed = this.options.located(buffer);
    const value = new Value(buffer, { fixed, handle: buffer });
    this.#current.set(buffer, value);
    return value;
  }

  write(buffer: Buffer, { rows, recipe }: { rows: number; recipe?: Value["recipe"] }): Value {
    const { kind, width } = buffer;
    const value = new Value({ kind, rows, width }, { handle: buffer, ...(recipe && { recipe }) });
    this.#current.set(buffer, value);
    return value;
  }

  put(buffer: Buffer, value: Value): void {
    this.#current.set(buffer, value);
  }

  change(buffer: Buffer): Change {
    const from = this.read(buffer);
    const to = from.twin();
    this.#current.set(buffer, to);
    return { from, to };
  }

  kvCache(cache: KvCache): KvCache {
    return this.options.kvCache(cache);
  }

  latentCache(cache: LatentCache): LatentCache {
    return this.options.latentCache(cache);
  }

  /** Gates so far. */
  get gates(): number {
    return this.uses.filter(({ gate }) => gate !== undefined).length;
  }

  add(node: Node, uses: Uses = { weights: [] }): void {
    this.nodes.push(node);
    this.uses.push(uses);
  }
}
