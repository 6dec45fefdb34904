/** Opens a checkpoint by path or URL, whatever it is: the one place that decides between the formats. */

import { FormatError } from "../errors.ts";
import { baseName, quoted } from "./byte_source.ts";
import { pathKind } from "./deno_file.ts";
import { diskFolder, type Folder, webFolder } from "./folder.ts";
import { GGUF_MAGIC } from "./gguf/header.ts";
import { openGguf } from "./gguf/source.ts";
import { checkHyperParameters } from "./hyper_parameters.ts";
import { MAX_SHARDS } from "./limits.ts";
import { openSafetensors, parseWeightMap, type WeightMap } from "./safetensors/source.ts";
import type { ByteSource, TensorSource } from "./tensor_source.ts";
import { isWebUrl, webName, webUrl } from "./web_request.ts";

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";

/** The name of one part of a split GGUF file: base, number from 1, count. */
const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Where a checkpoint is: a file of a folder, or the folder itself. */
interface Place {
  readonly folder: Folder;
  /** Absent where the folder is the checkpoint. */
  readonly file?: string;
}

/**
 * Opens a GGUF file (any part of a split one), a .safetensors file with its config.json beside it, or
 * a Hugging Face folder: a path, or an http(s) URL whose server answers range requests (a folder's ends
 * with a slash). Headers and hyper-parameters are checked; no tensor is read.
 * Throws FormatError for whatever is wrong with the path, the server or the content.
 */
export async function openCheckpoint(path: string): Promise<TensorSource> {
  const { folder, file } = isWebUrl(path) ? placeOnWeb(path) : placeOnDisk(path);
  const source = await (file === undefined ? openFolder(folder) : openByContent(folder, file));
  try {
    checkHyperParameters(source);
  } catch (error) {
    source.close();
    throw error;
  }
  return source;
}

/**
 * The files of a GGUF checkpoint on disk, all parts of a split one in order; not yet read. Throws
 * FormatError where one cannot be opened.
 */
export async function openGgufFiles(path: string): Promise<ByteSource[]> {
  const { folder, file } = placeOnDisk(path);
  if (file !== undefined) {
    return await openParts(folder, { name: file, file: await folder.open(file) });
  }
  throw FormatError.of(`open ${quoted(folder.name)}`, "the path", "a folder", "a .gguf file");
}

function placeOnDisk(path: string): Place {
  if (pathKind(path) === "folder") {
    return { folder: diskFolder(`${path.replace(/\/+$/, "")}/`) };
  }
  const file = baseName(path);
  const folder = path.slice(0, path.length - file.length);
  return { folder: diskFolder(folder), file };
}

function placeOnWeb(text: string): Place {
  const url = webUrl(text, "open a model");
  const cut = url.pathname.lastIndexOf("/") + 1;
  const isFolder = cut === url.pathname.length;
  const file = webName(url);
  url.pathname = url.pathname.slice(0, cut);
  url.hash = "";
  const folder = webFolder(url.href);
  return isFolder ? { folder } : { folder, file };
}

async function openByContent(folder: Folder, name: string): Promise<TensorSource> {
  const file = await folder.open(name);
  let isGguf: boolean;
  try {
    isGguf = await startsWithMagic(file);
  } catch (error) {
    file.close();
    throw error;
  }
  if (isGguf) return await openGguf(await openParts(folder, { name, file }));
  if (/\.gguf$/i.test(name)) return await openGguf([file]);
  if (/\.safetensors$/i.test(name)) {
    return await openSafetensors({ name: file.name, files: [file], ...documentsOf(folder) });
  }
  file.close();
  throw FormatError.of(
    `open ${quoted(file.name)}`,
    "the file",
    "neither GGUF by its first bytes nor safetensors by its name",
    "a .gguf or .safetensors file, or a folder with config.json and model.safetensors",
  );
}

async function startsWithMagic(file: ByteSource): Promise<boolean> {
  if (file.size < 4) return false;
  const first = new Uint8Array(4);
  await file.read(0, first);
  return new DataView(first.buffer).getUint32(0, true) === GGUF_MAGIC;
}

/** All parts of the split file that the given one belongs to, in order, or just that file. */
async function openParts(
  folder: Folder,
  given: { name: string; file: ByteSource },
): Promise<ByteSource[]> {
  const { name, file } = given;
  const match = SPLIT_NAME.exec(name);
  if (match === null) return [file];
  const [, base, number, count] = match;
  const parts = Number(count);
  const own = Number(number);
  const opened: ByteSource[] = [file];
  try {
    if (parts < 1 || parts > MAX_SHARDS || own < 1 || own > parts) {
      throw FormatError.of(
        `open ${quoted(file.name)}`,
        "its part number",
        `${own} of ${parts}`,
        `from 1 to the count, which is at most ${MAX_SHARDS}`,
      );
    }
    const files: ByteSource[] = [];
    for (let part = 1; part <= parts; part++) {
      if (part !== own) {
        const partName = `${base}-${String(part).padStart(5, "0")}-of-${count}.gguf`;
        opened.push(await folder.open(partName));
      }
      files.push(part === own ? file : opened[opened.length - 1]);
    }
    return files;
  } catch (error) {
    for (const part of opened) part.close();
    throw error;
  }
}

async function openFolder(folder: Folder): Promise<TensorSource> {
  const { name } = folder;
  const index = await folder.readText(INDEX_FILE);
  if (index !== null) {
    const weightMap = parseWeightMap(index, INDEX_FILE);
    const files = await openShards(folder, weightMap);
    return await openSafetensors({ name, files, weightMap, ...documentsOf(folder) });
  }
  const single = await openSingle(folder);
  return await openSafetensors({ name, files: [single], ...documentsOf(folder) });
}

/** The weights of a folder without an index. */
async function openSingle(folder: Folder): Promise<ByteSource> {
  if (folder.mayHold(SINGLE_FILE)) return await folder.open(SINGLE_FILE);
  throw FormatError.of(
    `open ${quoted(folder.name)}`,
    "the folder",
    "without weights",
    `a folder with ${SINGLE_FILE} or ${INDEX_FILE}`,
  );
}

async function openShards(folder: Folder, weightMap: WeightMap): Promise<ByteSource[]> {
  const files: ByteSource[] = [];
  try {
    for (const name of [...new Set(weightMap.values())].sort()) files.push(await folder.open(name));
    return files;
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** What a safetensors checkpoint takes from beside its weights. */
function documentsOf(folder: Folder): {
  config: () => Promise<string>;
  sidecar: (name: string) => Promise<string | null>;
} {
  return {
    sidecar: (name) => folder.readText(name),
    config: async () => {
      const text = await folder.readText("config.json");
      if (text !== null) return text;
      throw FormatError.of(
        `open ${quoted(folder.name)}`,
        `"config.json"`,
        "missing",
        "beside the weights",
      );
    },
  };
}
