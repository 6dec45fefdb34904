/** Copies bytes out of GPU memory. */

interface Run {
  readonly memory: GPUBuffer;
  /** Multiples of four. */
  readonly offset: number;
  readonly bytes: number;
}

export class Reader {
  readonly #device: GPUDevice;
  /** A buffer that the host can map, kept for the next read of at most its size. */
  #staging: GPUBuffer | null = null;

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
    this.#staging?.destroy();
  }

  #take(bytes: number): GPUBuffer {
    const kept = this.#staging;
    this.#staging = null;
    if (kept !== null && kept.size >= bytes) return kept;
    kept?.destroy();
    return this.#device.createBuffer({
      label: "read",
      size: Math.ceil(bytes / 4096) * 4096,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
  }

  #give(staging: GPUBuffer): void {
    if (this.#staging === null) this.#staging = staging;
    else staging.destroy();
  }
}
