/** GPU memory within a budget, accounted by purpose. */

import { CapacityError } from "../../errors.ts";
import { faultDue, type Faults } from "../../faults.ts";
import type { BackendMemory } from "../backend.ts";

export interface AllocatorOptions {
  readonly device: GPUDevice;
  /** Bytes that everything may take together. */
  readonly maxBytes: number;
  /** What is to fail on purpose. */
  readonly faults?: Faults;
}

export class GpuAllocator {
  readonly device: GPUDevice;
  readonly #maxBytes: number;
  readonly #faults: Faults | undefined;
  readonly #used = { weights: 0, kv: 0, workspace: 0 };
  readonly #buffers = new Map<GPUBuffer, { kind: keyof BackendMemory; size: number }>();

  constructor({ device, maxBytes, faults }: AllocatorOptions) {
    this.device = device;
    this.#faults = faults;
    this.#maxBytes = maxBytes;
  }

  /** Bytes of the budget that nothing takes. */
  get left(): number {
    const { weights, kv, workspace } = this.#used;
    return this.#maxBytes - weights - kv - workspace;
  }

  /** A zeroed buffer for kernels. Throws CapacityError where the budget or one buffer's limit is exceeded. */
  allocate(kind: keyof BackendMemory, bytes: number, purpose: string): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const left = faultDue(this.#faults, "gpu:memory") ? 0 : this.left;
    if (size > left) {
      throw new CapacityError(
        `cannot allocate ${purpose} on the GPU: it needs ${size} bytes, must fit the ${left} left`,
      );
    }
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits;
    // Kernels see weights plane by plane, everything else whole.
    const most = kind === "weights"
      ? maxBufferSize
      : Math.min(maxBufferSize, maxStorageBufferBindingSize);
    if (size > most) {
      throw new CapacityError(
        `cannot allocate ${purpose} on the GPU: it needs ${size} bytes, ` +
          `must be at most ${most}, the largest buffer for it on this adapter`,
      );
    }
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const usage = STORAGE | COPY_SRC | COPY_DST;
    // The device refuses it, and says so in an event only.
    const asked = faultDue(this.#faults, "gpu:limit") ? 4 * (maxBufferSize + 16) : size;
    const buffer = this.device.createBuffer({ label: purpose, size: asked, usage });
    this.#used[kind] += size;
    this.#buffers.set(buffer, { kind, size });
    return buffer;
  }

  /** Frees a buffer, which is there until what was submitted has run. */
  free(buffer: GPUBuffer): void {
    const of = this.#buffers.get(buffer);
    if (of === undefined) return;
    this.#buffers.delete(buffer);
    this.#used[of.kind] -= of.size;
    buffer.destroy();
  }

  used(): BackendMemory {
    return { ...this.#used };
  }

  /** Frees everything. */
  close(): void {
    for (const buffer of this.#buffers.keys()) buffer.destroy();
  }
}
