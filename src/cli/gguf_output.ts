/** GGUF files that commands write: whole under their name, or not there. */

import { OptionError } from "../errors.ts";
import { openFile } from "../formats/deno_file.ts";
import { openGguf } from "../formats/gguf/source.ts";
import type { ByteSink } from "../formats/safetensors/writer.ts";

/**
 * Writes beside `out` and takes its name at the end, once the file is on the disk and our own reader
 * has opened it. Returns its size in bytes. Nothing is left behind where `write` rejects.
 */
export async function writeWholeGguf(
  out: string,
  { command, write }: { command: string; write: (sink: ByteSink) => Promise<void> },
): Promise<number> {
  const partial = `${out}.partial`;
  const file = createOutput(partial, command);
  try {
    await write(file);
    file.close();
    const written = await openGguf([openFile(partial)]);
    const bytes = written.byteLength;
    written.close();
    Deno.renameSync(partial, out);
    return bytes;
  } catch (error) {
    file.close();
    Deno.removeSync(partial);
    throw error;
  }
}

/** A file to be written in order; it is on the disk when `close` returns. */
function createOutput(path: string, command: string): ByteSink & { close(): void } {
  let file: Deno.FsFile | undefined;
  try {
    file = Deno.openSync(path, { write: true, create: true, truncate: true });
  } catch (error) {
    throw new OptionError(
      `cannot ${command}: --out cannot be written (${(error as Error).name}), ` +
        "must be the path of a file in a folder that is there",
    );
  }
  return {
    write(bytes) {
      for (let done = 0; done < bytes.length;) {
        done += (file as Deno.FsFile).writeSync(bytes.subarray(done));
      }
    },
    close() {
      file?.syncSync();
      file?.close();
      file = undefined;
    },
  };
}
