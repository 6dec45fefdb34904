/** The folder that a corpus is written to, as the command line opens it. */

/** A file that grows at its end. */
export interface AppendFile {
  write(bytes: Uint8Array): void;
  /** What was written is on the disk when this returns. */
  sync(): void;
  close(): void;
}

export interface OutputFolder {
  names(): string[];
  /** Null where there is no such file. */
  readText(name: string): string | null;
  /** Puts a file in place at once: a reader, or a crash, meets the old or the new one. */
  write(name: string, bytes: Uint8Array): void;
  stream(name: string): Promise<ReadableStream<Uint8Array>>;
  /** Opens a file to append to, cut to `length` bytes first; new where it isn't there. */
  append(name: string, length: number): AppendFile;
  rename(from: string, to: string): void;
  remove(name: string): void;
}

/** Ends the names of files that are not whole yet. */
export const PARTIAL = ".partial";

/** Puts a small text in place. */
export function writeText(folder: OutputFolder, file: { name: string; text: string }): void {
  folder.write(file.name, new TextEncoder().encode(file.text));
}
