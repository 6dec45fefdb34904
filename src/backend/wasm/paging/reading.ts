/** Reads an expert's matrices and packs them into their place. */

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { baseName, quoted } from "../../../formats/byte_source.ts";
import { HttpSource } from "../../../formats/http_source.ts";
import { isWebUrl, webName } from "../../../formats/web_request.ts";
import type { Kernels } from "../kernels.ts";
import type { ExpertLoad, LoadFile, LoadTable, MatrixLoad } from "./load_table.ts";

/** Bytes between two matrices that are read along rather than asked for apart. */
const GAP_BYTES = 4096;

/** Matrices that lie close together in a file. */
interface Run {
  readonly file: number;
  readonly offset: number;
  readonly byteLength: number;
  readonly matrices: readonly MatrixLoad[];
}

/** One run per read: an expert whose matrices are adjacent needs one. */
export function runsOf(load: ExpertLoad): Run[] {
  const sorted = [...load.matrices].sort((a, b) => a.file - b.file || a.offset - b.offset);
  const runs: Run[] = [];
  for (const matrix of sorted) {
    const last = runs.at(-1);
    const gap = last === undefined ? Infinity : matrix.offset - last.offset - last.byteLength;
    if (last === undefined || last.file !== matrix.file || gap < 0 || gap > GAP_BYTES) {
      runs.push({ ...matrix, matrices: [matrix] });
      continue;
    }
    runs[runs.length - 1] = {
      ...last,
      byteLength: matrix.offset + matrix.byteLength - last.offset,
      matrices: [...last.matrices, matrix],
    };
  }
  return runs;
}

/** Memory of a bank that a thread reads into before it packs. */
class Staging {
  readonly #kernels: Kernels;
  readonly #memory: WebAssembly.Memory;
  #address = 0;
  #bytes = 0;

  constructor(kernels: Kernels, memory: WebAssembly.Memory) {
    this.#kernels = kernels;
    this.#memory = memory;
  }

  /** `bytes` bytes, valid until the next call. */
  take(bytes: number): { address: number; view: Uint8Array } {
    if (this.#bytes < bytes) {
      this.#address = this.#kernels.allocate(bytes);
      if (this.#address === 0) throw new Error(`${bytes} bytes to read into are not to be had`);
      this.#bytes = bytes;
    }
    const view = new Uint8Array(this.#memory.buffer, this.#address, bytes);
    return { address: this.#address, view };
  }
}

/** The banks as a reading thread sees them. */
export interface ReaderBank {
  readonly kernels: Kernels;
  readonly memory: WebAssembly.Memory;
}

/** Packs what a run has brought; throws where a value is NaN or infinite. */
function unpackRun(run: Run, { kernels }: ReaderBank, address: number): number {
  for (const { offset, kind, rows, cols, address: to } of run.matrices) {
    if (!kernels.pack(kind, address + offset - run.offset, rows, cols, to)) {
      throw new Error("one of its values is NaN or infinite, must be finite");
    }
  }
  return run.byteLength;
}

/** Reads from files, each opened at its first read and again where a read fails. */
export class FileReader {
  readonly #table: LoadTable;
  readonly #files = new Map<number, number>();
  readonly #staging = new Map<ReaderBank, Staging>();

  constructor(table: LoadTable) {
    this.#table = table;
  }

  /** Returns the bytes read; throws where the file ends before or cannot be read. */
  read(load: ExpertLoad, bank: ReaderBank): number {
    const staging = this.#stagingOf(bank);
    let bytes = 0;
    for (const run of runsOf(load)) {
      const { address, view } = staging.take(run.byteLength);
      this.#fill(view, run);
      bytes += unpackRun(run, bank, address);
    }
    return bytes;
  }

  close(): void {
    for (const file of [...this.#files.keys()]) this.#close(file);
  }

  /** Reads a run; where that fails with a file opened before, it may be another by now. */
  #fill(view: Uint8Array, run: Run): void {
    const fresh = !this.#files.has(run.file);
    try {
      this.#readRun(view, run);
    } catch (error) {
      this.#close(run.file);
      if (fresh) throw error;
      this.#fill(view, run);
    }
  }

  #readRun(view: Uint8Array, { file, offset }: Run): void {
    let descriptor = this.#files.get(file);
    if (descriptor === undefined) {
      descriptor = openAgain(this.#table.file(file));
      this.#files.set(file, descriptor);
    }
    for (let done = 0; done < view.length;) {
      const count = readSync(descriptor, view, done, view.length - done, offset + done);
      if (count === 0) {
        throw new Error(
          `the file ends at byte ${offset + done}, must hold ${offset + view.length}`,
        );
      }
      done += count;
    }
  }

  #close(file: number): void {
    const descriptor = this.#files.get(file);
    this.#files.delete(file);
    if (descriptor !== undefined) closeSync(descriptor);
  }

  #stagingOf(bank: ReaderBank): Staging {
    let staging = this.#staging.get(bank);
    if (staging === undefined) {
      staging = new Staging(bank.kernels, bank.memory);
      this.#staging.set(bank, staging);
    }
    return staging;
  }
}

/**
 * Opens a file, which must be as long as it was when the model was loaded: another one may have taken
 * its place. What is thrown names no folders, as the system's messages do.
 */
function openAgain({ file, version }: LoadFile): number {
  const descriptor = openDescriptor(file);
  const { size } = fstatSync(descriptor);
  if (version === undefined || size === version.size) return descriptor;
  closeSync(descriptor);
  throw new Error(
    `the file ends at byte ${size}, must end at ${version.size} as when it was opened`,
  );
}

function openDescriptor(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    const { code } = error as { code?: string };
    throw new Error(
      code === "ENOENT"
        ? "the file is missing, must be where it was"
        : `the file cannot be opened (${code ?? "for an unknown reason"}), must be readable`,
    );
  }
}

/** Reads from URLs by range requests, several at a time. */
export class UrlReader {
  readonly #table: LoadTable;
  readonly #sources = new Map<number, Promise<HttpSource>>();
  /** Regions that no read uses, by bank. */
  readonly #free = new Map<ReaderBank, Staging[]>();

  constructor(table: LoadTable) {
    this.#table = table;
  }

  /** Resolves to the bytes read; rejects where the URL's answer is not the wanted range. */
  async read(load: ExpertLoad, bank: ReaderBank): Promise<number> {
    const runs = await Promise.allSettled(runsOf(load).map((run) => this.#readRun(run, bank)));
    // Only when no run writes any more may the place be another's, so that all are waited for.
    return runs.reduce((sum, run) => {
      if (run.status === "rejected") throw run.reason;
      return sum + run.value;
    }, 0);
  }

  async #readRun(run: Run, bank: ReaderBank): Promise<number> {
    const free = this.#free.get(bank) ?? [];
    this.#free.set(bank, free);
    const staging = free.pop() ?? new Staging(bank.kernels, bank.memory);
    try {
      const source = await this.#source(run.file);
      const { address, view } = staging.take(run.byteLength);
      await source.read(run.offset, view);
      return unpackRun(run, bank, address);
    } finally {
      free.push(staging);
    }
  }

  #source(file: number): Promise<HttpSource> {
    let source = this.#sources.get(file);
    if (source === undefined) {
      const { file: url, version: expected } = this.#table.file(file);
      source = HttpSource.open(url, { expected, readAhead: false });
      // A source that did not open is tried again.
      source.catch(() => this.#sources.delete(file));
      this.#sources.set(file, source);
    }
    return source;
  }
}

/** What has gone wrong with a load. Of a path or URL only the last part is shown. */
export function failureText(
  { matrices }: ExpertLoad,
  { table, error }: { table: LoadTable; error: unknown },
): string {
  const { file } = table.file(matrices[0].file);
  const name = isWebUrl(file) ? webName(new URL(file)) : baseName(file);
  const reason = error instanceof Error ? error.message : error;
  return `cannot read an expert from ${quoted(name)}: ${reason}`;
}
