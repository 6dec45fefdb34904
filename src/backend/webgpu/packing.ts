/**
 * Packs rows on the GPU, from the file's bytes to the planes of a weight. The bytes pass through one
 * buffer: the queue runs what is submitted in order, so that it can be written anew at once.
 */

import type { GpuAllocator } from "./allocator.ts";
import type { RowLayout } from "./host_packing.ts";
import { BUILTINS, type Dispatch, type Kernels, WORKGROUP } from "./kernel.ts";
import type { WeightPart } from "./memory.ts";
import { GpuPlan } from "./plan.ts";
import { blocksOf } from "./weights/format.ts";
import { type GpuPack, PACK_COMMON } from "./weights/gpu_pack.ts";

/** What a buffer is made from, and kernels. */
export interface PackingContext {
  readonly allocator: GpuAllocator;
  readonly kernels: Kernels;
  /** Bytes that a kernel sees of a buffer at most. */
  readonly maxBinding: number;
}

/** How rows are packed, and how many at once at most. */
interface PackedRows {
  readonly layout: RowLayout;
  readonly rows: number;
  readonly pack: GpuPack;
}

/** Words before the rows in the buffer: how many rows there are, and the part's row for the first. */
const HEAD_BYTES = 16;

const LANES = 64;

export class Packing {
  readonly #context: PackingContext;
  readonly #rows: PackedRows;
  /** What of a file is to be packed next. */
  readonly #memory: GPUBuffer;
  /** The kernel over the part that rows came to last. */
  #last: { readonly part: WeightPart; readonly plan: GpuPlan } | null = null;

  private constructor(context: PackingContext, { rows, memory }: {
    rows: PackedRows;
    memory: GPUBuffer;
  }) {
    this.#context = context;
    this.#rows = rows;
    this.#memory = memory;
  }

  /** Takes memory for `rows` rows at a time. Null where no kernel packs such rows, or there is no room. */
  static open(
    context: PackingContext,
    { layout, rows }: { layout: RowLayout; rows: number },
  ): Packing | null {
    const { allocator, maxBinding } = context;
    const pack = layout.format.gpuPack;
    if (pack === undefined || layout.format.type !== layout.type) return null;
    const bytes = HEAD_BYTES + Math.ceil(rows * layout.fileRow / 16) * 16;
    if (bytes > Math.min(allocator.left, maxBinding)) return null;
    const memory = allocator.allocate("workspace", bytes, "rows of a file");
    return new Packing(context, { rows: { layout, rows, pack }, memory });
  }

  /**
   * Brings rows to row `at` of a part behind everything submitted before. The file's bytes have been
   * taken when this returns; they start where their memory does, which is made of whole words. Returns
   * false, and does nothing, where a value is NaN or infinite.
   */
  run(part: WeightPart, { file, at }: { file: Uint8Array<ArrayBuffer>; at: number }): boolean {
    const { pack, layout } = this.#rows;
    if (!pack.finite(file)) return false;
    const { device } = this.#context.allocator;
    const plan = this.#planOf(part);
    const rows = file.byteLength / layout.fileRow;
    const words = Math.ceil(file.byteLength / 4);
    device.queue.writeBuffer(this.#memory, 0, Uint32Array.of(rows, at));
    device.queue.writeBuffer(this.#memory, HEAD_BYTES, new Uint32Array(file.buffer, 0, words));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    plan.encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    return true;
  }

  /** Frees the buffer, once what was submitted has run. */
  close(): void {
    this.#context.allocator.free(this.#memory);
  }

  #planOf(part: WeightPart): GpuPlan {
    if (this.#last?.part === part) return this.#last.plan;
    const { allocator: { device }, kernels } = this.#context;
    const dispatch = dispatchOf(part, { ...this.#rows, memory: this.#memory });
    const plan = new GpuPlan([dispatch], { device, kernels, length: 1 });
    this.#last = { part, plan };
    return plan;
  }
}

function dispatchOf(
  { memory: planes, planes: { quantBytes, scaleOffset, scaleBytes } }: WeightPart,
  { layout, rows, pack, memory }: PackedRows & { memory: GPUBuffer },
): Dispatch {
  const { format, cols, fileRow, quantRow, scaleRow } = layout;
  const blocks = blocksOf(cols);
  const units = Math.ceil(blocks / pack.blocks);
  const unitVectors = pack.blocks * format.quantWords / 4;
  const quants = { buffer: planes, type: "array<vec4<u32>>", write: true, size: quantBytes };
  const scales = { buffer: planes, type: "array<u32>", write: true };
  return {
    label: `pack ${format.type}`,
    bindings: [
      { name: "file", buffer: memory, type: "array<u32>" },
      { name: "quants", ...quants },
      { name: "scales", ...scales, offset: scaleOffset, size: scaleBytes },
    ],
    params: { blocks, units, fileRow, rowVectors: quantRow / 16, rowScales: scaleRow / 4 },
    workgroups: Math.ceil(rows * units / LANES),
    code: `${PACK_COMMON}
fn pack(at: u32, to: u32, row: u32, unit: u32) {${pack.code}
}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  let row = i / params.units;
  let unit = i % params.units;
  if (row >= file[0]) { return; }
  pack(
    ${HEAD_BYTES}u + row * params.fileRow + unit * ${pack.bytes}u,
    (file[1] + row) * params.rowVectors + unit * ${unitVectors}u,
    (file[1] + row) * params.rowScales,
    unit);
}`,
  };
}
