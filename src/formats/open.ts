/** Opens a checkpoint by path, whatever it is: the one place that decides between the formats. */

import { FormatError } from "../errors.ts";
import { baseName, quoted } from "./byte_source.ts";
import { openFile, pathKind, readWholeFile } from "./deno_file.ts";
import { GGUF_MAGIC } from "./gguf/header.ts";
import { openGguf } from "./gguf/source.ts";
import { checkHyperParameters } from "./hyper_parameters.ts";
import { MAX_SHARDS, MAX_SIDECAR_BYTES } from "./limits.ts";
import { openSafetensors, parseWeightMap, type WeightMap } from "./safetensors/source.ts";
import type { ByteSource, TensorSource } from "./tensor_source.ts";
import { decodeUtf8 } from "./utf8.ts";

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";

/** The name of one part of a split GGUF file: base, number from 1, count. */
const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/**
 * Opens a GGUF file (any part of a split one), a .safetensors file with its config.json beside it, or
 * a Hugging Face folder. Headers and hyper-parameters are checked; no tensor is read.
 * Throws FormatError for whatever is wrong with the path or the content.
 */
export async function openCheckpoint(path: string): Promise<TensorSource> {
  const source = await openByKind(path);
  try {
    checkHyperParameters(source);
  } catch (error) {
    source.close();
    throw error;
  }
  return source;
}

async function openByKind(path: string): Promise<TensorSource> {
  if (pathKind(path) === "folder") return await openFolder(path);
  const file = openFile(path);
  let isGguf: boolean;
  try {
    isGguf = await startsWithMagic(file);
  } catch (error) {
    file.close();
    throw error;
  }
  if (isGguf) return await openGguf(openParts(path, file));
  if (/\.gguf$/i.test(path)) return await openGguf([file]);
  if (/\.safetensors$/i.test(path)) return await openSingle(path, file);
  file.close();
  throw FormatError.of(
    `open ${quoted(baseName(path))}`,
    "the file",
    "neither GGUF by its first bytes nor safetensors by its name",
    "a .gguf or .safetensors file, or a folder with config.json and model.safetensors",
  );
}

/** The files of a GGUF checkpoint, all parts of a split one in order; not yet read. */
export function openGgufFiles(path: string): ByteSource[] {
  return openParts(path, openFile(path));
}

async function startsWithMagic(file: ByteSource): Promise<boolean> {
  if (file.size < 4) return false;
  const first = new Uint8Array(4);
  await file.read(0, first);
  return new DataView(first.buffer).getUint32(0, true) === GGUF_MAGIC;
}

/** All parts of the split file that `file` (at `path`) belongs to, in order, or just that file. */
function openParts(path: string, file: ByteSource): ByteSource[] {
  const match = SPLIT_NAME.exec(path);
  if (match === null) return [file];
  const [, base, number, count] = match;
  const parts = Number(count);
  const given = Number(number);
  const opened: ByteSource[] = [file];
  try {
    if (parts < 1 || parts > MAX_SHARDS || given < 1 || given > parts) {
      throw FormatError.of(
        `open ${quoted(file.name)}`,
        "its part number",
        `${given} of ${parts}`,
        `from 1 to the count, which is at most ${MAX_SHARDS}`,
      );
    }
    const files: ByteSource[] = [];
    for (let part = 1; part <= parts; part++) {
      if (part !== given) {
        opened.push(openFile(`${base}-${String(part).padStart(5, "0")}-of-${count}.gguf`));
      }
      files.push(part === given ? file : opened[opened.length - 1]);
    }
    return files;
  } catch (error) {
    for (const part of opened) part.close();
    throw error;
  }
}

async function openSingle(path: string, file: ByteSource): Promise<TensorSource> {
  const folder = path.slice(0, path.length - file.name.length) || "./";
  return await openSafetensors({
    name: file.name,
    files: [file],
    config: () => requireText(folder, "config.json"),
    sidecar: sidecarOf(folder),
  });
}

async function openFolder(path: string): Promise<TensorSource> {
  const folder = `${path.replace(/\/+$/, "")}/`;
  const options = {
    name: baseName(path),
    config: () => requireText(folder, "config.json"),
    sidecar: sidecarOf(folder),
  };
  const index = readText(folder, INDEX_FILE);
  if (index === null) {
    if (pathKind(folder + SINGLE_FILE) === "missing") {
      throw FormatError.of(
        `open ${quoted(options.name)}`,
        "the folder",
        "without weights",
        `a folder with ${SINGLE_FILE} or ${INDEX_FILE}`,
      );
    }
    return await openSafetensors({ ...options, files: [openFile(folder + SINGLE_FILE)] });
  }
  const weightMap = parseWeightMap(index, INDEX_FILE);
  const files = openShards(folder, weightMap);
  return await openSafetensors({ ...options, files, weightMap });
}

function openShards(folder: string, weightMap: WeightMap): ByteSource[] {
  const files: ByteSource[] = [];
  try {
    for (const name of [...new Set(weightMap.values())].sort()) files.push(openFile(folder + name));
    return files;
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

function sidecarOf(folder: string): (name: string) => Promise<string | null> {
  // An async function, so that a bad document rejects.
  // deno-lint-ignore require-await
  return async (name) => readText(folder, name);
}

function requireText(folder: string, name: string): string {
  const text = readText(folder, name);
  if (text !== null) return text;
  throw FormatError.of(
    `open ${quoted(baseName(folder))}`,
    `"${name}"`,
    "missing",
    "beside the weights",
  );
}

/** A text file of the folder, or null where there is none. */
function readText(folder: string, name: string): string | null {
  if (name !== baseName(name) || name === "" || name.startsWith(".")) {
    throw FormatError.of("read a sidecar document", "its name", quoted(name), "a plain file name");
  }
  const bytes = readWholeFile(folder + name, MAX_SIDECAR_BYTES);
  if (bytes === null) return null;
  const text = decodeUtf8(bytes);
  if (text === null) {
    throw FormatError.of(`read ${quoted(name)}`, "its text", "not UTF-8", "valid UTF-8");
  }
  return text;
}
