/**
 * `deno task repack`: writes a GGUF file anew with each routed expert's matrices side by side, so that
 * streaming reads an expert at once. The values stay as they are, to the bit.
 */

import { OptionError } from "../errors.ts";
import { repackMetadata, repackTensors } from "../experts/repack.ts";
import { baseName } from "../formats/byte_source.ts";
import type { GgufTensor } from "../formats/gguf/header.ts";
import { assembleGguf, readGgufHeader } from "../formats/gguf/source.ts";
import { GgufWriter } from "../formats/gguf/writer.ts";
import { checkHyperParameters } from "../formats/hyper_parameters.ts";
import { openGgufFiles } from "../formats/open.ts";
import type { ByteSource } from "../formats/tensor_source.ts";
import { ENGINE_FLAGS } from "./engine_flags.ts";
import { helpText, parseFlags, textFlag } from "./flags.ts";
import { writeWholeGguf } from "./gguf_output.ts";
import {
  type CommandIo,
  formatBytes,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  model: { ...ENGINE_FLAGS.model, help: "a .gguf file, or any part of a split one" },
  out: textFlag({
    help: "the file to write; replaced at once when all is written",
    placeholder: "FILE",
    must: "the path of a file",
  }),
};

/** Bytes copied at a time. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** A tensor and the file that holds it. */
interface SourceTensor extends GgufTensor {
  readonly file: ByteSource;
  /** File offset of its data. */
  readonly start: number;
}

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { stdout, stderr } = io;
  const { values, help } = parseFlags(FLAGS, { command: "repack", args, env: io.env });
  if (help) {
    const usage = "deno task repack --model IN.gguf --out OUT.gguf";
    const about = "Writes a model with each expert's matrices side by side, for streaming.";
    write(stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  const { model, out } = values;
  if (model === undefined || out === undefined) {
    const missing = model === undefined ? "--model" : "--out";
    throw new OptionError(`cannot repack: ${missing} is missing, must be the path of a .gguf file`);
  }
  const files = await openGgufFiles(model);
  try {
    refuseSameFile(model, out);
    const bar = progressBar(stderr, "Repacking");
    const { experts, bytes } = await repack({ files, out, onProgress: bar.onProgress })
      .finally(bar.clear);
    write(stdout, `${baseName(out)}: ${experts} experts' tensors apart, ${formatBytes(bytes)}\n`);
    return 0;
  } finally {
    for (const file of files) file.close();
  }
}

/** Writing over the file that is being read would lose it where writing fails. */
function refuseSameFile(model: string, out: string): void {
  try {
    if (Deno.realPathSync(model) !== Deno.realPathSync(out)) return;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  throw new OptionError("cannot repack: --out is the model itself, must be another file");
}

async function repack(
  options: {
    files: readonly ByteSource[];
    out: string;
    onProgress: (progress: { loadedBytes: number; totalBytes: number }) => void;
  },
): Promise<{ experts: number; bytes: number }> {
  const { files, out, onProgress } = options;
  const parts = [];
  for (const file of files) parts.push({ file, header: await readGgufHeader(file) });
  checkHyperParameters(assembleGguf(parts));
  const sources = parts.flatMap(({ file, header }) =>
    header.tensors.map((tensor): SourceTensor => ({
      ...tensor,
      file,
      start: header.dataStart + tensor.offset,
    }))
  );
  const metadata = repackMetadata(parts[0].header.metadata);
  const tensors = repackTensors(sources);
  const totalBytes = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const bytes = await writeWholeGguf(out, {
    command: "repack",
    async write(sink) {
      let loadedBytes = 0;
      const writer = new GgufWriter({ metadata, tensors }, sink);
      const chunk = new Uint8Array(CHUNK_BYTES);
      for (const { source, offset, byteLength } of tensors) {
        for (let done = 0; done < byteLength;) {
          const piece = chunk.subarray(0, Math.min(CHUNK_BYTES, byteLength - done));
          await source.file.read(source.start + offset + done, piece);
          writer.write(piece);
          done += piece.length;
          loadedBytes += piece.length;
          onProgress({ loadedBytes, totalBytes });
        }
      }
      writer.finish();
    },
  });
  return { experts: tensors.filter(({ name, source }) => name !== source.name).length, bytes };
}

if (import.meta.main) await runCommand(() => main(Deno.args));
