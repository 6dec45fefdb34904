/** Which back end trains: the recipe's, or what the command line asks for. */

import { findAdapter, nameOf } from "../backend/webgpu/device.ts";
import { OptionError } from "../errors.ts";
import type { TrainRecipe } from "../training/run/recipe.ts";

export const BACKEND_WORDS = ["recipe", "auto", "webgpu", "wasm"] as const;

/** The back end with a line about it. Throws OptionError where there is no GPU for webgpu. */
export async function backendOf(
  recipe: TrainRecipe["backend"],
  flag: typeof BACKEND_WORDS[number],
): Promise<{ backend: TrainRecipe["backend"]; text: string }> {
  const asked = flag === "recipe" ? recipe.name : flag;
  if (asked !== "webgpu" && asked !== "auto") {
    return { backend: { ...recipe, name: asked }, text: `${asked}, ${recipe.storage}` };
  }
  const adapter = await findAdapter();
  // A software adapter is slower than the CPU's own kernels.
  if (asked === "auto" && (adapter === null || adapter.info.isFallbackAdapter)) {
    return { backend: { ...recipe, name: "wasm" }, text: `wasm, ${recipe.storage} (no GPU)` };
  }
  if (adapter === null) {
    throw new OptionError(
      "cannot train: the backend is webgpu, must be wasm or auto where no adapter is there",
    );
  }
  const text = `webgpu, ${recipe.storage}, on ${nameOf(adapter)}`;
  return { backend: { ...recipe, name: "webgpu" }, text };
}
