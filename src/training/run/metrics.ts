/** metrics.jsonl: one line for each step and evaluation, by TRL's names. */

import type { AppendFile, OutputFolder } from "../data/build/folder.ts";

export const METRICS_FILE = "metrics.jsonl";

export class MetricsFile {
  readonly #file: AppendFile;
  #bytes: number;

  /** Goes on behind the first `length` bytes; what follows them belongs to steps that will be made again. */
  constructor(folder: OutputFolder, { length }: { length: number }) {
    this.#file = folder.append(METRICS_FILE, length);
    this.#bytes = length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(line: Readonly<Record<string, number | string>>): void {
    const bytes = new TextEncoder().encode(`${JSON.stringify(line)}\n`);
    this.#file.write(bytes);
    this.#bytes += bytes.length;
  }

  /** What was added is on the disk when this returns. */
  sync(): void {
    this.#file.sync();
  }

  close(): void {
    this.#file.close();
  }
}
