import { assertEquals, assertThrows } from "@std/assert";
import { OptionError } from "../../../src/errors.ts";
import { type Json, readRecipe, recipeOf, shortRecipe } from "./_run.ts";

function refused(change: (recipe: Json) => void, message: string): void {
  const recipe = shortRecipe();
  change(recipe);
  assertThrows(() => readRecipe(recipe), OptionError, message);
}

Deno.test("the recipes that come with the project are whole", () => {
  for (const { name } of Deno.readDirSync(new URL("../../../recipes/train", import.meta.url))) {
    if (!name.endsWith("_data.json")) readRecipe(recipeOf(name));
  }
});

Deno.test("phases that say no share and no gate have those of the article", () => {
  const recipe = shortRecipe();
  for (const phase of recipe.phases) {
    delete phase.share;
    delete phase.gate;
  }
  assertEquals(readRecipe(recipe).phases.map(({ kind, share, gate }) => [kind, share, gate]), [
    ["cold_start", 0.15, 0.75],
    ["grpo", 0.7, 0.85],
    ["rejection", 0.15, 0.9],
  ]);
});

Deno.test("a recipe is refused by the name of the field that is wrong", () => {
  refused(
    (recipe) => recipe.phases[1].group = 1,
    'cannot read the recipe "recipe.json": phases[1].group is 1, must be a whole number from 2 to',
  );
  refused(
    (recipe) => recipe.phases[0].update.rat = 1,
    "phases[0].update.rat is not known, must be one of rate, warmup, decay, floor, optimizer, " +
      "beta1, beta2, weightDecay, maxNorm, biasRate, balance (perhaps rate is meant)",
  );
  refused((recipe) => delete recipe.phases[2].sampling, "phases[2].sampling.maxTokens is missing");
  // What another kind of phase has.
  refused((recipe) => recipe.phases[0].group = 8, "phases[0].group is not known");
  refused(
    (recipe) => recipe.phases[1].loss = "ppo",
    'phases[1].loss is "ppo", must be one of grpo',
  );
  refused((recipe) => recipe.phases[2].name = "grpo", 'phases[2].name is "grpo", must be another');
  refused((recipe) => recipe.phases[1].share = 0.9, "phases[1].share is 0.9, must be such that");
  refused((recipe) => delete recipe.compute, "compute.teraflops is missing, must be a number");
  refused((recipe) => recipe.data = {}, "data is {}, must be a folder or a recipe");
  refused((recipe) => recipe.model.from = "x", "must be a checkpoint to begin from, or a config");
  refused((recipe) => recipe.rewards = { url: "x" }, 'rewards.url is "x", must be an http');
  refused(
    (recipe) => recipe.rewards = { url: "http://a/get_reward", labels: "all" },
    'rewards.labels is "all", must be one of answer, reference',
  );
  refused(
    (recipe) => recipe.rewards = { weights: { luck: 1 } },
    "rewards.weights.luck is not known",
  );
  refused((recipe) => recipe.phases = [], "phases is [], must be a list with at least one element");
});
