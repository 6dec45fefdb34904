/** What commands say and do about the model's path. */

/** Printed where no model is given: three lines that end in a running server. */
export const HOW_TO_GET_A_MODEL = [
  "No model is given, and none is built in. Any GGUF file or Hugging Face folder of a llama, qwen2 or",
  "qwen3 model will do; SmolLM2-135M-Instruct (98 MB as Q4_1 GGUF) is a small one to begin with.",
  "Then: deno task start --model PATH (or SLUICE_MODEL=PATH).",
].join("\n");

/** The name under which a model is served: its file's or folder's, without the ending. */
export function modelIdOf(path: string): string {
  const name = path.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) ?? "";
  return name.replace(/\.(gguf|safetensors)$/i, "") || "model";
}
