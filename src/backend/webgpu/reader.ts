/** Copies bytes out of GPU memory. */

interface Run {
  readonly memory: GPUBuffer;
  /** Multiples of four. */
  readonly offset: number;
  readonly bytes: number;
}

/** Buffers that are kept: as many reads as are waited for at once. */
const MOST_KEPT = 4;

export class Reader {
  readonly #device: GPUDevice;
  /** Buffers that the host can map, the smallest first, kept for later reads of at most their size. */
  readonly #kept: GPUBuffer[] = [];

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** The runs one behind the other, after everything submitted before. */
  async read(runs: readonly Run[]): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = runs.reduce((sum, run) => sum + run.bytes, 0);
    // A plan may run behind `submit`, and whoever reads nothing still wants it done.
    const staging = this.#take(Math.max(4, bytes));
    const encoder = this.#device.createCommandEncoder();
    let at = 0;
    for (const { memory, offset, bytes } of runs) {
      if (bytes > 0) encoder.copyBufferToBuffer(memory, offset, staging, at, bytes);
      at += bytes;
    }
    this.#device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ, 0, staging.size);
    const copy = new Uint8Array(staging.getMappedRange(0, staging.size)).slice(0, bytes);
    staging.unmap();
    this.#give(staging);
    return copy;
  }

  close(): void {
    for (const staging of this.#kept) staging.destroy();
  }

  #take(bytes: number): GPUBuffer {
    const first = this.#kept.findIndex(({ size }) => size >= bytes);
    if (first >= 0) return this.#kept.splice(first, 1)[0];
    return this.#device.createBuffer({
      label: "read",
      size: Math.ceil(bytes / 4096) * 4096,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
  }

  #give(staging: GPUBuffer): void {
    this.#kept.push(staging);
    this.#kept.sort((a, b) => a.size - b.size);
    if (this.#kept.length > MOST_KEPT) this.#kept.shift()!.destroy();
  }
}
