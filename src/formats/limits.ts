/**
 * What a file may ask for. Each limit is far above any published model and low enough that a lying
 * header cannot make a reader allocate more than a few hundred megabytes.
 */

/** GGUF header bytes; the largest published ones (256k-token vocabularies) take about 20 MB. */
export const MAX_GGUF_HEADER_BYTES = 64 * 1024 * 1024;

/** The limit of the safetensors format itself. */
export const MAX_SAFETENSORS_HEADER_BYTES = 100_000_000;

/** One metadata string; chat templates reach some 100 KB. */
export const MAX_STRING_BYTES = 16 * 1024 * 1024;

/** The limit of the GGUF format for keys. */
export const MAX_KEY_BYTES = 65_535;

/** The limit of the GGUF format for tensor names. */
export const MAX_GGUF_TENSOR_NAME_BYTES = 64;

export const MAX_METADATA_KEYS = 65_536;

/** DeepSeek-V3 with a tensor per expert and per scale has some 92,000. */
export const MAX_TENSORS = 262_144;

export const MAX_SHARDS = 4096;

/** JSON sidecars; the largest published tokenizer.json is some 35 MB. */
export const MAX_SIDECAR_BYTES = 64 * 1024 * 1024;

/** config.json and index files. */
export const MAX_JSON_DEPTH = 64;
