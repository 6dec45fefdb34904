/** Tokenizers: text to token ids and back. */

export { loadTokenizer } from "./load.ts";
export { tokenizerFromGguf } from "./from_gguf.ts";
export { type TokenizerDocuments, tokenizerFromHuggingFace } from "./from_hugging_face.ts";
export { StreamDecoder } from "./stream_decoder.ts";
export { type EncodeOptions, Tokenizer } from "./tokenizer.ts";
