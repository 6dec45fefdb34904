/**
 * A recorded forward pass as segments, each a list of ops that run in one bank, and the writer of their
 * words. The kernels' interpreter (`kernels/src/plan/`) reads the fields in the order in which
 * `recorder.ts` writes them; an op is: opcode, length in words, then its fields.
 */

import type { Buffer, Plan } from "../backend.ts";
import type { Bank } from "./bank.ts";
import type { WasmBuffer, WasmExperts } from "./memory.ts";

/** Numbers of the ops. */
export const OPCODES = {
  embed: 1,
  rmsNorm: 2,
  linear: 3,
  rotate: 4,
  attention: 5,
  gather: 6,
  headLinear: 7,
  rotateLatent: 8,
  latentAttention: 9,
  gate: 10,
  experts: 11,
  /** Not recorded but put in, see `crash.ts`. */
  fault: 12,
  add: 13,
} as const;

/** Rows of a buffer that go from one bank to another before a segment runs. */
export interface Transfer {
  readonly from: { readonly bank: Bank; readonly address: number };
  readonly to: { readonly bank: Bank; readonly address: number };
  readonly bytes: number;
}

/** Experts that must be brought in before a segment runs, and who says which. */
export interface ExpertDemand {
  readonly experts: WasmExperts;
  readonly expertIds: Buffer;
  readonly rows: number;
  readonly topK: number;
  /** The next layer's gate on the present hidden state, where its experts are paged too. */
  ahead: LookAhead | null;
}

/** A gate that is computed before its time, to know which experts to fetch. */
export interface LookAhead {
  readonly experts: WasmExperts;
  readonly expertIds: WasmBuffer;
  readonly segment: Segment;
}

export interface Segment {
  readonly bank: Bank;
  readonly transfers: readonly Transfer[];
  readonly words: Uint32Array<ArrayBuffer>;
  readonly ops: number;
  /** The segment is one experts op whose experts are paged. */
  readonly demand: ExpertDemand | null;
}

export interface WasmPlan extends Plan {
  readonly segments: readonly Segment[];
  /** It multiplies matrices by single rows only, so its time is that of reading weights. */
  readonly decodes: boolean;
  /** Buffers that it leaves in another bank than the first, and buffers that it expects in the first. */
  readonly homes: ReadonlyMap<WasmBuffer, Bank>;
  readonly expected: ReadonlySet<WasmBuffer>;
}

/**
 * Cuts a recording into segments and moves buffers between banks: each op says in which bank it runs
 * and what it reads and writes there. Buffers that the host has written are in the first bank.
 */
export class SegmentWriter {
  readonly #first: Bank;
  readonly #segments: Segment[] = [];
  /** The banks in which each buffer's present content lies. */
  readonly #valid = new Map<WasmBuffer, Set<Bank>>();
  readonly #expected = new Set<WasmBuffer>();
  readonly #written = new Set<WasmBuffer>();
  #bank: Bank | null = null;
  #words: number[] = [];
  #ops = 0;
  #transfers: Transfer[] = [];
  #length = 0;
  readonly #float = new Float32Array(1);
  readonly #bits = new Uint32Array(this.#float.buffer);

  constructor(first: Bank) {
    this.#first = first;
  }

  /** The bank in which the next op runs. */
  enter(bank: Bank): void {
    if (this.#bank === bank) return;
    this.#cut(null);
    this.#bank = bank;
  }

  /** A bank that holds the buffer's content. */
  bankOf(buffer: Buffer): Bank {
    const [bank] = this.#banksOf(buffer as WasmBuffer);
    return bank;
  }

  /** Address of a buffer whose first `rows` rows the present op reads. */
  read(of: Buffer, rows: number): number {
    const buffer = of as WasmBuffer;
    const bank = this.#here();
    const banks = this.#banksOf(buffer);
    if (!banks.has(bank)) {
      const [from] = banks;
      // Ops recorded already may write it, so what moves is what they leave.
      if (this.#ops > 0) this.#cut(null);
      this.#bank = bank;
      this.#transfers.push({
        from: { bank: from, address: buffer.in(from) },
        to: { bank, address: buffer.in(bank) },
        bytes: rows * buffer.width * 4,
      });
      banks.add(bank);
    }
    return buffer.in(bank);
  }

  /** Address of a buffer that the present op writes. */
  write(of: Buffer): number {
    const buffer = of as WasmBuffer;
    const bank = this.#here();
    this.#valid.set(buffer, new Set([bank]));
    this.#written.add(buffer);
    return buffer.in(bank);
  }

  /** Address of a buffer that the present op reads and writes. */
  update(buffer: Buffer, rows: number): number {
    this.read(buffer, rows);
    return this.write(buffer);
  }

  /** Writes the op whose buffers have been asked for. */
  op(opcode: number, rows: number, fields: readonly number[]): void {
    this.#words.push(opcode, fields.length + 3, rows, ...fields);
    this.#ops += 1;
    this.#length += 1;
  }

  /** As `op`, in a segment of its own that waits for experts to be brought in. */
  demandOp(
    demand: ExpertDemand,
    op: { opcode: number; fields: readonly number[] },
  ): void {
    const bank = this.#here();
    // What the op reads from elsewhere has cut the recording already.
    if (this.#ops > 0) this.#cut(null);
    this.#bank = bank;
    this.op(op.opcode, demand.rows, op.fields);
    this.#cut(demand);
    this.#bank = bank;
  }

  /** The bits of a float32 as a word. */
  f32(value: number): number {
    this.#float[0] = value;
    return this.#bits[0];
  }

  finish(decodes: boolean): WasmPlan {
    this.#cut(null);
    const homes = new Map<WasmBuffer, Bank>();
    for (const buffer of this.#written) homes.set(buffer, this.bankOf(buffer));
    return {
      length: this.#length,
      segments: this.#segments,
      decodes,
      homes,
      expected: this.#expected,
    };
  }

  #here(): Bank {
    if (this.#bank === null) throw new Error("an op has been recorded without a bank");
    return this.#bank;
  }

  #banksOf(buffer: WasmBuffer): Set<Bank> {
    let banks = this.#valid.get(buffer);
    if (banks === undefined) {
      banks = new Set([this.#first]);
      this.#valid.set(buffer, banks);
      this.#expected.add(buffer);
    }
    return banks;
  }

  #cut(demand: ExpertDemand | null): void {
    if (this.#bank !== null && this.#ops > 0) {
      this.#segments.push({
        bank: this.#bank,
        transfers: this.#transfers,
        words: Uint32Array.from(this.#words),
        ops: this.#ops,
        demand,
      });
      this.#transfers = [];
    }
    this.#words = [];
    this.#ops = 0;
    this.#bank = null;
  }
}
