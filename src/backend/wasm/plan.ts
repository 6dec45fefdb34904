/**
 * Writes plans for the kernels' interpreter (`kernels/src/plan.rs`, which reads the fields in the order
 * they are written here). An op is: opcode, length in words, then its fields.
 */

import { UnsupportedOpError } from "../../errors.ts";
import type {
  ActivationPrecision,
  AttentionParams,
  BatchBuffers,
  Buffer,
  EmbedParams,
  GatedLinearParams,
  GatherRowsParams,
  KvCache,
  LinearParams,
  Norm,
  Ops,
  Plan,
  RmsNormParams,
  RotateAndCacheParams,
  Weight,
} from "../backend.ts";
import type { WasmBuffer, WasmKvCache, WasmWeight } from "./memory.ts";

const OPCODES = { embed: 1, rmsNorm: 2, linear: 3, rotate: 4, attention: 5, gather: 6 } as const;
export const PRECISIONS: Record<ActivationPrecision, number> = { q8: 0, q16: 1, f32: 2 };
const EPILOGUES = { store: 0, accumulate: 1, gate: 2 } as const;
const MAX_OUTPUTS = 4;

export interface WasmPlan extends Plan {
  readonly words: Uint32Array<ArrayBuffer>;
  /** It multiplies matrices by single rows only, so its time is that of reading weights. */
  readonly decodes: boolean;
}

/** What the recorder asks of the backend. */
export interface PlanHost {
  readonly activations: ActivationPrecision;
  /** Forms of activations that a weight type reads, a bit set. */
  formsOf(weight: WasmWeight): number;
  /** Address of room for `rows` rows of activations of this width and these forms. */
  activationSpace(shape: { rows: number; cols: number; forms: number }): number;
}

type Output = {
  weight: Weight;
  bias?: Weight;
  out: Buffer;
  epilogue: keyof typeof EPILOGUES;
};

export class PlanRecorder implements Ops {
  readonly #host: PlanHost;
  readonly #words: number[] = [];
  #ops = 0;
  #decodes = true;
  readonly #float = new Float32Array(1);
  readonly #bits = new Uint32Array(this.#float.buffer);

  constructor(host: PlanHost) {
    this.#host = host;
  }

  finish(): WasmPlan {
    return { length: this.#ops, words: Uint32Array.from(this.#words), decodes: this.#decodes };
  }

  embed({ table, ids, out, rows }: EmbedParams): void {
    this.#op(OPCODES.embed, [rows, matrixOf(table).descriptor, at(ids), at(out)]);
  }

  rmsNorm({ x, weight: scale, eps, out, rows }: RmsNormParams): void {
    this.#op(OPCODES.rmsNorm, [rows, at(x), x.width, vector(scale), this.#f32(eps), at(out)]);
  }

  gatherRows({ x, indices, out, rows }: GatherRowsParams): void {
    this.#op(OPCODES.gather, [rows, at(x), x.width, at(indices), at(out)]);
  }

  linear({ x, norm, outputs, rows }: LinearParams): void {
    const list = outputs.map(({ weight, bias, out, accumulate }): Output => ({
      weight,
      bias,
      out,
      epilogue: accumulate ? "accumulate" : "store",
    }));
    this.#linear({ x, norm, outputs: list, rows, paired: false });
  }

  gatedLinear({ x, norm, gate, up, out, rows }: GatedLinearParams): void {
    const outputs: Output[] = [
      { weight: gate, out, epilogue: "store" },
      { weight: up, out, epilogue: "gate" },
    ];
    this.#linear({ x, norm, outputs, rows, paired: true });
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    const { q, k, v, heads, qNorm, kNorm, cosSin, pairing, cache, layer, batch, rows } = params;
    this.#op(OPCODES.rotate, [
      rows,
      at(q),
      at(k),
      at(v),
      heads,
      at(cosSin),
      cosSin.width,
      pairing === "interleaved" ? 1 : 0,
      qNorm ? vector(qNorm.weight) : 0,
      kNorm ? vector(kNorm.weight) : 0,
      this.#f32(qNorm?.eps ?? kNorm?.eps ?? 0),
      ...layerFields(cache, layer),
      ...batchFields(batch),
    ]);
  }

  attention({ q, heads, scale, cache, layer, batch, out, rows }: AttentionParams): void {
    this.#op(OPCODES.attention, [
      rows,
      at(q),
      at(out),
      heads,
      this.#f32(scale),
      ...layerFields(cache, layer),
      ...batchFields(batch),
    ]);
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
    let forms = 0;
    for (const { weight: matrix, out } of outputs) {
      if (out === x) {
        throw new UnsupportedOpError("cannot record linear: the output is the input's own buffer");
      }
      forms |= this.#host.formsOf(matrixOf(matrix));
    }
    this.#op(OPCODES.linear, [
      rows,
      at(x),
      x.width,
      norm ? vector(norm.weight) : 0,
      this.#f32(norm?.eps ?? 0),
      PRECISIONS[this.#host.activations],
      forms,
      this.#host.activationSpace({ rows, cols: x.width, forms }),
      paired ? 1 : 0,
      outputs.length,
      ...outputs.flatMap(({ weight: matrix, bias, out, epilogue }) => [
        matrixOf(matrix).descriptor,
        bias ? vector(bias) : 0,
        at(out),
        out.width,
        EPILOGUES[epilogue],
      ]),
    ]);
  }

  #op(opcode: number, fields: number[]): void {
    this.#words.push(opcode, fields.length + 2, ...fields);
    this.#ops += 1;
  }

  #f32(value: number): number {
    this.#float[0] = value;
    return this.#bits[0];
  }
}

function at(buffer: Buffer): number {
  return (buffer as WasmBuffer).address;
}

/** A weight of two rows and up: one row is kept as a vector. */
function matrixOf(of: Weight): WasmWeight {
  const weight = of as WasmWeight;
  if (weight.descriptor === 0) {
    throw new UnsupportedOpError(
      `cannot use ${of.name} as a matrix: it has ${of.rows} row, must be at least 2`,
    );
  }
  return weight;
}

/** Address of a one-row weight's float32 values. */
function vector(of: Weight): number {
  const { vector } = of as WasmWeight;
  if (vector === 0) {
    throw new UnsupportedOpError(
      `cannot use ${of.name} as a vector: it has ${of.rows} rows, must be 1`,
    );
  }
  return vector;
}

function layerFields(cache: KvCache, layer: number): number[] {
  const { address, layerBytes } = cache as WasmKvCache;
  return [address + layer * layerBytes, cache.kvHeads, cache.keyDim, cache.valueDim];
}

function batchFields({ positions, sequences, pageTables }: BatchBuffers): number[] {
  return [at(positions), at(sequences), at(pageTables), pageTables.width];
}
