/** Turns op calls into the kernels' words; each op runs in the bank that holds its weights. */

import { UnsupportedOpError } from "../../errors.ts";
import type {
  ActivationPrecision,
  AddParams,
  AttentionParams,
  BatchBuffers,
  Buffer,
  EmbedParams,
  ExpertsParams,
  GatedLinearParams,
  GateParams,
  GatherRowsParams,
  HeadLinearParams,
  KvType,
  LatentAttentionParams,
  LinearParams,
  Norm,
  Ops,
  RmsNormParams,
  RotateAndCacheLatentParams,
  RotateAndCacheParams,
  Weight,
} from "../backend.ts";
import { type Bank, PRECISIONS } from "./bank.ts";
import type {
  WasmBuffer,
  WasmExperts,
  WasmKvCache,
  WasmLatentCache,
  WasmWeight,
} from "./memory.ts";
import {
  type ExpertDemand,
  type LookAhead,
  OPCODES,
  SegmentWriter,
  type WasmPlan,
} from "./plan.ts";

const EPILOGUES = { store: 0, accumulate: 1, silu: 2, clampedSwiglu: 3 } as const;
export const SCORES = { softmax: 0, sigmoid: 1, softmaxOfChosen: 2 } as const;
/** Numbers of the types of caches. */
const CELLS: Record<KvType, number> = { f32: 0, f16: 1, q8: 2 };
const MAX_OUTPUTS = 4;
/** Groups of experts that the gate's kernel can rank. */
const MAX_GROUPS = 256;
const GROUP_ROWS = 8;
/** Rows of a step up to which experts are fetched ahead; more rows choose most of them anyway. */
export const LOOK_AHEAD_ROWS = 4;

export interface RecorderOptions {
  readonly first: Bank;
  readonly activations: ActivationPrecision;
  /** Where a gate that is computed ahead leaves its results. */
  lookAheadBuffers(
    gate: GateParams,
    bank: Bank,
  ): { normed: WasmBuffer; expertIds: WasmBuffer; weights: WasmBuffer };
}

type Output = {
  weight: WasmWeight;
  bias?: Weight;
  out: Buffer;
  epilogue: keyof typeof EPILOGUES;
  scale: number;
};

export class PlanRecorder implements Ops {
  protected readonly writer: SegmentWriter;
  readonly #options: RecorderOptions;
  readonly #precision: number;
  /** The gates so far, by where they leave their choice, and the paged experts that ask for it. */
  readonly #gates = new Map<Buffer, GateParams>();
  readonly #demands: ExpertDemand[] = [];
  #decodes = true;

  constructor(options: RecorderOptions) {
    this.#options = options;
    this.writer = new SegmentWriter(options.first);
    this.#precision = PRECISIONS[options.activations];
  }

  finish(): WasmPlan {
    for (const [i, demand] of this.#demands.entries()) {
      const next = this.#demands[i + 1];
      if (next !== undefined) demand.ahead = this.#lookAhead(demand, next);
    }
    return this.writer.finish(this.#decodes);
  }

  embed({ table, ids, out, scale = 1, rows }: EmbedParams): void {
    const weight = matrixOf(table);
    const w = this.writer;
    w.enter(weight.bank);
    w.op(OPCODES.embed, rows, [weight.descriptor, w.read(ids, rows), w.write(out), w.f32(scale)]);
  }

  rmsNorm({ x, weight, eps, out, rows }: RmsNormParams): void {
    const w = this.writer;
    const bank = w.bankOf(x);
    w.enter(bank);
    const from = w.read(x, rows);
    w.op(OPCODES.rmsNorm, rows, [from, x.width, vectorIn(weight, bank), w.f32(eps), w.write(out)]);
  }

  gatherRows({ x, indices, out, rows }: GatherRowsParams): void {
    const w = this.writer;
    w.enter(w.bankOf(x));
    const [from, which] = [w.read(x, x.rows), w.read(indices, rows)];
    w.op(OPCODES.gather, rows * indices.width, [from, x.width, which, w.write(out)]);
  }

  add({ x, out, rows }: AddParams): void {
    const w = this.writer;
    w.enter(w.bankOf(out));
    w.op(OPCODES.add, rows, [w.read(x, rows), x.width, w.update(out, rows)]);
  }

  linear({ x, norm, outputs, rows }: LinearParams): void {
    const byBank = new Map<Bank, Output[]>();
    for (const { weight, bias, out, accumulate, scale = 1 } of outputs) {
      const matrix = matrixOf(weight);
      const list = byBank.get(matrix.bank) ?? [];
      byBank.set(matrix.bank, list);
      const epilogue = accumulate ? "accumulate" : "store";
      list.push({ weight: matrix, bias, out, epilogue, scale });
    }
    for (const list of byBank.values()) {
      this.#linear({ x, norm, outputs: list, rows, paired: false });
    }
  }

  gatedLinear({ x, norm, gate, up, out, rows }: GatedLinearParams): void {
    const outputs: Output[] = [
      { weight: matrixOf(gate), out, epilogue: "store", scale: 1 },
      { weight: matrixOf(up), out, epilogue: "silu", scale: 1 },
    ];
    if (outputs[0].weight.bank === outputs[1].weight.bank) {
      this.#linear({ x, norm, outputs, rows, paired: true });
      return;
    }
    for (const output of outputs) {
      this.#linear({ x, norm, outputs: [output], rows, paired: false });
    }
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    const { q, k, v, heads, qNorm, kNorm, cosSin, pairing, layer, batch, rows } = params;
    const cache = params.cache as WasmKvCache;
    const w = this.writer;
    const { bank, address } = cache.places[layer];
    w.enter(bank);
    const buffers = [w.update(q, rows), w.update(k, rows), w.read(v, rows)];
    const angles = w.read(cosSin, rows);
    const places = this.#batch(batch, rows);
    w.op(OPCODES.rotate, rows, [
      ...buffers,
      heads,
      angles,
      cosSin.width,
      pairing === "interleaved" ? 1 : 0,
      qNorm ? vectorIn(qNorm.weight, bank) : 0,
      kNorm ? vectorIn(kNorm.weight, bank) : 0,
      w.f32(qNorm?.eps ?? kNorm?.eps ?? 0),
      ...[address, CELLS[cache.type], cache.kvHeads, cache.keyDim, cache.valueDim],
      ...places,
    ]);
  }

  attention(params: AttentionParams): void {
    const { q, heads, scale, layer, batch, out, window = 0, sinks, rows } = params;
    const cache = params.cache as WasmKvCache;
    const w = this.writer;
    const { bank, address } = cache.places[layer];
    w.enter(bank);
    const from = w.read(q, rows);
    const places = this.#batch(batch, rows);
    w.op(OPCODES.attention, rows, [
      from,
      w.write(out),
      heads,
      w.f32(scale),
      window,
      sinks ? vectorIn(sinks, bank) : 0,
      ...[address, CELLS[cache.type], cache.kvHeads, cache.keyDim, cache.valueDim],
      ...places,
    ]);
  }

  headLinear({ x, xStride, weight: of, heads, out, rows }: HeadLinearParams): void {
    const weight = matrixOf(of);
    const { bank, cols } = weight;
    if (weight.rows % (heads * GROUP_ROWS) !== 0) {
      throw new UnsupportedOpError(
        `cannot record headLinear: ${weight.name} has ${weight.rows / heads} rows a head, ` +
          `must be a multiple of ${GROUP_ROWS}`,
      );
    }
    const w = this.writer;
    w.enter(bank);
    const from = w.read(x, rows);
    const forms = this.#forms(weight);
    const each = bank.kernels.activation_bytes(cols, forms, this.#precision);
    w.op(OPCODES.headLinear, rows, [
      ...[from, xStride, weight.descriptor, heads, w.write(out)],
      ...[this.#precision, forms, bank.area("inputs", rows * heads * each)],
    ]);
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    const { q, heads, nopeDim, kv, latentNorm, cosSin, pairing, layer, batch, rows } = params;
    const cache = params.cache as WasmLatentCache;
    const w = this.writer;
    const { bank, address } = cache.places[layer];
    w.enter(bank);
    const [queries, from, angles] = [w.update(q, rows), w.read(kv, rows), w.read(cosSin, rows)];
    const places = this.#batch(batch, rows);
    w.op(OPCODES.rotateLatent, rows, [
      ...[queries, heads, nopeDim, from],
      ...[vectorIn(latentNorm.weight, bank), w.f32(latentNorm.eps)],
      ...[angles, pairing === "interleaved" ? 1 : 0],
      ...[address, CELLS[cache.type], cache.latentDim, cache.ropeDim],
      ...places,
    ]);
  }

  latentAttention(params: LatentAttentionParams): void {
    const { latentQuery, q, heads, nopeDim, scale, layer, batch, out, rows } = params;
    const cache = params.cache as WasmLatentCache;
    const w = this.writer;
    const { bank, address } = cache.places[layer];
    w.enter(bank);
    const queries = [w.read(latentQuery, rows), w.read(q, rows)];
    const places = this.#batch(batch, rows);
    w.op(OPCODES.latentAttention, rows, [
      ...[...queries, heads, nopeDim, w.f32(scale), w.write(out)],
      ...[address, CELLS[cache.type], cache.latentDim, cache.ropeDim],
      ...places,
    ]);
  }

  gate(params: GateParams): void {
    this.recordGate(OPCODES.gate, params);
  }

  protected recordGate(opcode: number, params: GateParams): void {
    const { x, norm, normed, bias, correctionBias, score, groups, topK, rows } = params;
    const weight = matrixOf(params.weight);
    const { bank } = weight;
    if (groups !== undefined && groups.count > MAX_GROUPS) {
      throw new UnsupportedOpError(
        `cannot record gate: it has ${groups.count} groups, must be at most ${MAX_GROUPS}`,
      );
    }
    const w = this.writer;
    this.#gates.set(params.expertIds, params);
    w.enter(bank);
    bank.reserveScratch({ experts: weight.rows });
    const padded = Math.ceil(weight.rows / 4) * 4;
    const from = w.read(x, rows);
    w.op(opcode, rows, [
      ...[from, vectorIn(norm.weight, bank), w.f32(norm.eps), w.write(normed)],
      ...[weight.descriptor, bias ? vectorIn(bias, bank) : 0],
      bank.area("gate logits", rows * padded * 4),
      ...[correctionBias ? vectorIn(correctionBias, bank) : 0, SCORES[score]],
      ...[groups?.count ?? 1, groups?.used ?? 1, groups?.rank === "topTwo" ? 1 : 0],
      ...[topK, params.normalise ? 1 : 0, w.f32(params.scale)],
      ...[w.write(params.expertIds), w.write(params.weights)],
    ]);
  }

  choose(): void {
    throw new UnsupportedOpError("cannot record choose: the wasm backend leaves it to the host");
  }

  experts(params: ExpertsParams): void {
    this.recordExperts(params, { opcode: OPCODES.experts, first: () => [] });
  }

  /** `first` gives the fields that an op other than `experts` has before the others. */
  protected recordExperts(
    params: ExpertsParams,
    { opcode, first }: { opcode: number; first: () => number[] },
  ): void {
    const { x, expertIds, weights, topK, activation, scale = 1, out, rows } = params;
    const experts = params.experts as WasmExperts;
    const { hidden, intermediate, count, kinds } = experts;
    const w = this.writer;
    if (out === x) throw new UnsupportedOpError("cannot record experts: the output is the input");
    this.#decodes &&= rows === 1;
    if (experts.tables.length === 0) throw new Error("paged experts have not been given a place");
    const pairs = rows * topK;
    // Tables in ascending order of their experts, so that sums are the same however many there are.
    for (const { bank, address } of experts.tables) {
      const forms = this.#formsOf(bank, kinds.gate) | this.#formsOf(bank, kinds.up);
      const midForms = this.#formsOf(bank, kinds.down);
      bank.reserveScratch({ pairs, experts: count });
      const bytes = (cols: number, forms: number) =>
        bank.kernels.activation_bytes(cols, forms, this.#precision);
      w.enter(bank);
      const from = w.read(x, rows);
      const routing = [w.read(expertIds, rows), w.read(weights, rows)];
      const fields = [
        ...first(),
        ...[from, hidden, intermediate, address, count, ...routing, topK],
        ...[EPILOGUES[activation], w.f32(scale), w.update(out, rows), this.#precision, forms],
        bank.area("inputs", rows * bytes(hidden, forms)),
        ...[midForms, bank.area("expert inputs", pairs * bytes(intermediate, midForms))],
        bank.area("expert activations", pairs * intermediate * 4),
      ];
      if (experts.pager === null) w.op(opcode, rows, fields);
      else {
        const demand = { experts, expertIds, rows, topK, ahead: null };
        this.#demands.push(demand);
        w.demandOp(demand, { opcode: OPCODES.experts, fields });
      }
    }
  }

  /** The next layer's gate as a segment of its own; none for many rows or from bank to bank. */
  #lookAhead(demand: ExpertDemand, next: ExpertDemand): LookAhead | null {
    const gate = this.#gates.get(next.expertIds);
    if (gate === undefined || demand.rows > LOOK_AHEAD_ROWS) return null;
    const [{ bank }] = demand.experts.tables;
    if ((gate.weight as WasmWeight).bank !== bank || next.experts.tables[0].bank !== bank) {
      return null;
    }
    const { normed, expertIds, weights } = this.#options.lookAheadBuffers(gate, bank);
    const recorder = new PlanRecorder({ ...this.#options, first: bank });
    recorder.gate({ ...gate, normed, expertIds, weights });
    const [segment] = recorder.finish().segments;
    return { experts: next.experts, expertIds, segment };
  }

  #linear({ x, norm, outputs, rows, paired }: {
    x: Buffer;
    norm?: Norm;
    outputs: Output[];
    rows: number;
    paired: boolean;
  }): void {
    if (outputs.length > MAX_OUTPUTS) {
      throw new UnsupportedOpError(
        `cannot record linear: it has ${outputs.length} outputs, must be at most ${MAX_OUTPUTS}`,
      );
    }
    this.#decodes &&= rows === 1;
    const w = this.writer;
    const { bank } = outputs[0].weight;
    let forms = 0;
    for (const { weight, out } of outputs) {
      if (out === x) {
        throw new UnsupportedOpError("cannot record linear: the output is the input's own buffer");
      }
      forms |= this.#forms(weight);
    }
    w.enter(bank);
    const from = w.read(x, rows);
    const places = outputs.map(({ out, epilogue }, i) =>
      // A pair's second half works on what its first half has just written.
      epilogue === "store" || (paired && i > 0) ? w.write(out) : w.update(out, rows)
    );
    const each = bank.kernels.activation_bytes(x.width, forms, this.#precision);
    w.op(OPCODES.linear, rows, [
      ...[from, x.width, norm ? vectorIn(norm.weight, bank) : 0, w.f32(norm?.eps ?? 0)],
      ...[this.#precision, forms, bank.area("inputs", rows * each), paired ? 1 : 0],
      outputs.length,
      ...outputs.flatMap(({ weight, bias, out, epilogue, scale }, i) => [
        ...[weight.descriptor, bias ? vectorIn(bias, bank) : 0, places[i], out.width],
        ...[EPILOGUES[epilogue], w.f32(scale)],
      ]),
    ]);
  }

  #batch({ positions, sequences, pageTables }: BatchBuffers, rows: number): number[] {
    const w = this.writer;
    const tables = w.read(pageTables, pageTables.rows);
    return [w.read(positions, rows), w.read(sequences, rows), tables, pageTables.width];
  }

  #forms(weight: WasmWeight): number {
    return this.#formsOf(weight.bank, weight.kind);
  }

  /** Forms of activations that a weight type reads, a bit set. */
  #formsOf(bank: Bank, kind: number): number {
    return bank.kernels.activation_forms(kind, this.#precision);
  }
}

/** A weight of two rows and up: one row is kept as a vector. */
export function matrixOf(of: Weight): WasmWeight {
  const weight = of as WasmWeight;
  if (weight.descriptor === 0) {
    throw new UnsupportedOpError(
      `cannot use ${of.name} as a matrix: it has ${of.rows} row, must be at least 2`,
    );
  }
  return weight;
}

/** Address of a one-row weight's float32 values in a bank. */
export function vectorIn(of: Weight, bank: Bank): number {
  const { vector } = of as WasmWeight;
  if (vector === null) {
    throw new UnsupportedOpError(
      `cannot use ${of.name} as a vector: it has ${of.rows} rows, must be 1`,
    );
  }
  return vector.in(bank);
}
