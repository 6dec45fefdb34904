/** What a phase's back end refuses before anything is loaded. */

import { assertRejects } from "@std/assert";
import { OptionError } from "../../../src/errors.ts";
import { initialWeights } from "../../../src/training/initial_weights.ts";
import { readTrainRecipe } from "../../../src/training/run/recipe.ts";
import { openWorkbench } from "../../../src/training/run/workbench.ts";
import { ROOT } from "../../support/fixtures.ts";

const FILE = new URL("recipes/train/smoke.json", ROOT).pathname;

for (
  const [name, storage, must] of [
    ["wasm", "f16", "storage is f16, must be f32 on the wasm backend"],
    ["wasm", "bf16", "storage is bf16, must be f32 on the wasm backend"],
    ["webgpu", "bf16", "storage is bf16, must be f32 or f16 on the webgpu backend"],
  ]
) {
  Deno.test(`a run in ${storage} on ${name} is refused with what would be right`, async () => {
    const json = { ...JSON.parse(Deno.readTextFileSync(FILE)), backend: { name, storage } };
    const recipe = readTrainRecipe(JSON.stringify(json), { file: FILE, resolve: (path) => path });
    if (!("config" in recipe.model)) throw new Error("the smoke recipe has a config");
    const config = { ...recipe.model.config, vocab_size: 64 };
    const source = initialWeights(config, { seed: 1 });
    const options = { recipe, phase: recipe.phases[0], source, threads: 1, promptTokens: 8 };
    await assertRejects(() => openWorkbench(options), OptionError, must);
  });
}
