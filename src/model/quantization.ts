/** How config.json says that a checkpoint's weights are kept: plainly, as FP8 tiles, or as MXFP4. */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import type { TileSize } from "./float8.ts";

/** GGUF files are plain here: their types are the tensors' own. */
export type Quantization =
  | { readonly method: "none" }
  | { readonly method: "fp8"; readonly tile: TileSize }
  | { readonly method: "mxfp4" };

const SECTION = "quantization_config";

/** Reads `quantization_config`; throws UnsupportedOpError for methods that are not implemented. */
export function readQuantization(source: TensorSource): Quantization {
  if (source.format === "gguf") return { method: "none" };
  const section = new ConfigReader(source, "").section(SECTION);
  if (section === undefined) return { method: "none" };
  const method = section.text("quant_method", { fallback: "" });
  if (method === "mxfp4") return { method };
  if (method !== "fp8") throw unsupported("quant_method", method, "fp8 or mxfp4");
  const format = section.text("fmt", { fallback: "e4m3" });
  if (format !== "e4m3") throw unsupported("fmt", format, "e4m3");
  const tile = section.integers("weight_block_size", { min: 1, max: 2 ** 20 });
  if (tile?.length !== 2) {
    throw unsupported("weight_block_size", tile?.join(" x ") ?? "missing", "rows and columns");
  }
  return { method, tile: { rows: tile[0], cols: tile[1] } };
}

function unsupported(name: string, is: string, must: string): UnsupportedOpError {
  return new UnsupportedOpError(
    `cannot run this model: "${SECTION}.${name}" is ${JSON.stringify(is.slice(0, 40))}, ` +
      `must be ${must}`,
  );
}
