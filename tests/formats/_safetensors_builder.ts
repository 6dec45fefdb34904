/** Makes small safetensors files from header text, honest or not. */

/** A file of this header text and as many data bytes (their values count up). */
export function buildSafetensors(
  header: string | object,
  options: { data?: number; length?: bigint } = {},
): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const out = new Uint8Array(8 + json.length + (options.data ?? 0)).map((_, i) => i % 251);
  new DataView(out.buffer).setBigUint64(0, options.length ?? BigInt(json.length), true);
  out.set(json, 8);
  return out;
}

/** A small honest header with types that are weights and some that are not; 110 bytes of data. */
export const HONEST_HEADER = Object.freeze({
  __metadata__: { format: "pt" },
  "model.embed_tokens.weight": { dtype: "BF16", shape: [5, 8], data_offsets: [0, 80] },
  "model.layers.0.bias": { dtype: "F32", shape: [3], data_offsets: [80, 92] },
  "model.layers.0.scale": { dtype: "F8_E4M3", shape: [2, 5], data_offsets: [92, 102] },
  "ids": { dtype: "I64", shape: [], data_offsets: [102, 110] },
});

export const HONEST_DATA = 110;
