/** The first steps of the recipe that learns sums in minutes; the whole of it is in docs/training.md. */

import { assert, assertEquals } from "@std/assert";
import { main as makeData } from "../../../src/cli/data.ts";
import { runPipeline } from "../../../src/training/run/pipeline.ts";
import { recordedIo } from "../../cli/_io.ts";
import { withFolder } from "../data/_corpus.ts";
import { jobIn, metricsOf, recipeOf } from "./_run.ts";

const STEPS = 50;
/** Where a whole run is at 1.26 after beginning at 5.6. */
const LOSS = 1.5;

Deno.test("the small recipe learns in its first steps what it learns in a whole run's", async () => {
  await withFolder(async (folder) => {
    const data = recipeOf("../data/ci.json");
    data.sources[0].count = 1700;
    data.split.limit = 20;
    await Deno.writeTextFile(`${folder}/data.json`, JSON.stringify(data));
    const args = ["--recipe", `${folder}/data.json`, "--out", `${folder}/data`];
    assertEquals(await makeData(args, { io: recordedIo() }), 0);

    const recipe = { ...recipeOf("ci.json"), data: { folder: "data" } };
    const stop = new AbortController();
    const { outcome } = await runPipeline({
      ...await jobIn(folder, recipe),
      signal: stop.signal,
      onStep({ step }) {
        if (step === STEPS) stop.abort();
      },
    });
    assertEquals(outcome, "stopped");
    const losses = metricsOf(folder).map(({ loss }) => loss);
    assertEquals(losses.length, STEPS);
    const last = losses.slice(-5).reduce((sum, loss) => sum + loss / 5, 0);
    assert(losses[0] > 5 && last < LOSS, `from ${losses[0]} to ${last}`);
  });
});
