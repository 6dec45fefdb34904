/** What the search for duplicates remembers, kept in a file beside the corpus while it is made. */

import { DuplicateIndex, type DuplicateOptions, type Fingerprint } from "../filters/duplicates.ts";
import type { AppendFile, OutputFolder } from "./folder.ts";

export const MEMORY_FILE = "duplicates.bin";

/** A `DuplicateIndex` whose fingerprints are written down in order. */
export class DuplicateMemory {
  readonly #index: DuplicateIndex;
  readonly #file: AppendFile;
  #count: number;

  private constructor(index: DuplicateIndex, file: AppendFile, count: number) {
    this.#index = index;
    this.#file = file;
    this.#count = count;
  }

  /** Remembers again what the first `count` fingerprints of the file say. */
  static async open(
    folder: OutputFolder,
    options: { duplicates: DuplicateOptions; count: number },
  ): Promise<DuplicateMemory> {
    const { duplicates, count } = options;
    const first = Math.max(0, count - duplicates.window);
    const index = new DuplicateIndex(duplicates, { first });
    if (count > first) {
      for await (const print of fingerprints(folder, { index, from: first, to: count })) {
        index.add(print);
      }
    }
    const file = folder.append(MEMORY_FILE, count * index.length * 4);
    return new DuplicateMemory(index, file, count);
  }

  get count(): number {
    return this.#count;
  }

  fingerprint(text: string): Fingerprint {
    return this.#index.fingerprint(text);
  }

  find(print: Fingerprint): string | null {
    return this.#index.find(print);
  }

  add(print: Fingerprint): void {
    this.#index.add(print);
    this.#file.write(new Uint8Array(print.buffer, print.byteOffset, print.byteLength));
    this.#count++;
  }

  sync(): void {
    this.#file.sync();
  }

  close(): void {
    this.#file.close();
  }
}

/** The fingerprints [from, to) of the file. */
async function* fingerprints(
  folder: OutputFolder,
  range: { index: DuplicateIndex; from: number; to: number },
): AsyncGenerator<Fingerprint> {
  const size = range.index.length * 4;
  const print = new Uint32Array(range.index.length);
  const bytes = new Uint8Array(print.buffer);
  let filled = 0;
  let number = 0;
  for await (const chunk of await folder.stream(MEMORY_FILE)) {
    for (let at = 0; at < chunk.length && number < range.to;) {
      const taken = Math.min(size - filled, chunk.length - at);
      bytes.set(chunk.subarray(at, at + taken), filled);
      filled += taken;
      at += taken;
      if (filled < size) continue;
      filled = 0;
      if (number++ >= range.from) yield print;
    }
  }
}
