/**
 * What the parts of a decoder share: a workspace of activations, and blocks, each recording what it
 * adds to the residual stream `x`. Attention and mixtures of experts have files of their own.
 */

import type { Backend, Buffer, Norm, Ops, Weight } from "../backend/backend.ts";
import type { WeightRole } from "./names.ts";
import type { ForwardOptions, RopeConfig } from "./types.ts";
import type { WeightLoader, WeightSpec } from "./weights.ts";

/** Records its ops for a step: reads and adds to the residual stream. */
export type Block = (ops: Ops, step: ForwardOptions) => void;

/** What a part of a layer is loaded with. */
export interface BlockContext {
  readonly layer: number;
  readonly loader: WeightLoader;
  readonly workspace: Workspace;
  /** With whatever the file's own tensors add to it. */
  readonly rope: RopeConfig;
  /** The norm that the block applies to the residual stream has this epsilon. */
  readonly rmsNormEps: number;
  /** Factor on what the block adds to the residual stream (Granite). */
  readonly residualScale: number;
}

/** Activations of a step; layers share those of the same purpose and width. */
export class Workspace {
  readonly #backend: Backend;
  readonly #maxRows: number;
  readonly #buffers = new Map<string, Buffer>();
  /** The residual stream, [maxRows, hidden]. */
  readonly x: Buffer;

  constructor(backend: Backend, options: { maxRows: number; hiddenSize: number }) {
    this.#backend = backend;
    this.#maxRows = options.maxRows;
    this.x = this.get("x", options.hiddenSize);
  }

  /** f32 [maxRows, width] for this purpose, the same one at every call. */
  get(purpose: string, width: number): Buffer {
    const key = `${purpose} ${width}`;
    const known = this.#buffers.get(key);
    if (known !== undefined) return known;
    const buffer = this.create("f32", width);
    this.#buffers.set(key, buffer);
    return buffer;
  }

  /** [maxRows, width] of the caller's own. */
  create(kind: Buffer["kind"], width: number): Buffer {
    return this.#backend.createBuffer({ kind, rows: this.#maxRows, width });
  }
}

/** A matrix with its bias, where the model has one. */
export interface Projection {
  readonly weight: Weight;
  readonly bias?: Weight;
}

/** Uploads a matrix, and its bias where the model asked for one. */
export async function loadProjection(
  { loader, layer }: Pick<BlockContext, "loader" | "layer">,
  roles: { weight: WeightRole; bias: WeightRole },
): Promise<Projection> {
  const weight = await loader.upload(roles.weight, { layer });
  const bias = await loader.uploadIfThere(roles.bias, { layer });
  return { weight, ...(bias && { bias }) };
}

/** Uploads a layer's norm weight. */
export async function loadNorm(
  { loader, layer }: Pick<BlockContext, "loader" | "layer">,
  options: { role: WeightRole; eps: number },
): Promise<Norm> {
  return { weight: await loader.upload(options.role, { layer }), eps: options.eps };
}

/** The factor as ops take it: absent where it is 1. */
export function scaleOf(factor: number): { scale?: number } {
  return factor === 1 ? {} : { scale: factor };
}

/** A gated feed-forward block (SwiGLU, Shazeer 2020) of `[intermediate, hidden]` matrices. */
export interface GatedMlpRoles {
  readonly gate: WeightRole;
  readonly up: WeightRole;
  readonly down: WeightRole;
}

export const DENSE_MLP: GatedMlpRoles = { gate: "gate", up: "up", down: "down" };

/** The matrices of a gated feed-forward block. */
export function gatedMlpSpecs(
  roles: GatedMlpRoles,
  sizes: { layer: number; hiddenSize: number; intermediateSize: number },
): WeightSpec[] {
  const { layer, hiddenSize, intermediateSize } = sizes;
  return [
    { role: roles.gate, layer, shape: [intermediateSize, hiddenSize] },
    { role: roles.up, layer, shape: [intermediateSize, hiddenSize] },
    { role: roles.down, layer, shape: [hiddenSize, intermediateSize] },
  ];
}

/**
 * Loads a gated feed-forward block that reads `input`, or the residual stream under `norm`, and adds to
 * the residual stream.
 */
export async function loadGatedMlp(
  { layer, loader, workspace, residualScale }: BlockContext,
  options: { roles: GatedMlpRoles; norm?: Norm; input?: Buffer },
): Promise<Block> {
  const { roles, norm, input = workspace.x } = options;
  const gate = await loader.upload(roles.gate, { layer });
  const up = await loader.upload(roles.up, { layer });
  const down = await loader.upload(roles.down, { layer });
  const gated = workspace.get("gated", gate.rows);
  const output = {
    weight: down,
    out: workspace.x,
    accumulate: true,
    ...scaleOf(residualScale),
  };
  return (ops, { rows }) => {
    const activation = "silu";
    ops.gatedLinear({ x: input, ...(norm && { norm }), gate, up, activation, out: gated, rows });
    ops.linear({ x: gated, outputs: [output], rows });
  };
}

/** Records blocks one after the other. */
export function inOrder(...blocks: readonly Block[]): Block {
  return (ops, step) => blocks.forEach((block) => block(ops, step));
}
