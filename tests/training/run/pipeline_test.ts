/** Whole runs: the smoke recipe as people start it, gates, faults, and what comes out. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { openLocalEngine } from "../../../src/engine/open_local_engine.ts";
import { OptionError, TrainingError } from "../../../src/errors.ts";
import { loadChatTemplate } from "../../../src/chat/mod.ts";
import { openCheckpoint } from "../../../src/formats/open.ts";
import { loadTokenizer } from "../../../src/tokenizer/mod.ts";
import { evaluate } from "../../../src/training/phases/evaluation.ts";
import { runPipeline } from "../../../src/training/run/pipeline.ts";
import { openWorkbench } from "../../../src/training/run/workbench.ts";
import { answerOf, toyRequest } from "../../engine/toy.ts";
import { rowsIn, withFolder } from "../data/_corpus.ts";
import { dataIn, jobIn, type Json, makeCorpus, metricsOf, recipeOf, shortRecipe } from "./_run.ts";
import { trainIn } from "./_run.ts";

/** What the smoke recipe's cold start must reach; it begins at 5.6. */
const SMOKE_LOSS = 0.3;

Deno.test("the smoke recipe goes through all phases, reaches its loss, and our own engine serves what it writes", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = { ...recipeOf("smoke.json"), data: { folder: "data" } };
    const { code, out, err } = await trainIn(folder, { recipe });
    assertEquals([code, err], [0, ""]);
    assertMatch(out.trimEnd().split("\n").at(-1)!, /^state [0-9a-f]{64}$/);
    const metrics = metricsOf(folder);
    const losses = metrics.filter(({ phase, loss }) => phase === "cold_start" && loss)
      .map(({ loss }) => loss);
    const last = losses.slice(-10).reduce((sum, loss) => sum + loss / 10, 0);
    assert(losses[0] > 4 && last < SMOKE_LOSS, `from ${losses[0]} to ${last}`);
    checkMetrics(metrics);
    checkCosts(folder, metrics);
    await checkAccepted(folder);
    await checkServed(folder);
  });
});

/** TRL's names, in each phase. */
function checkMetrics(metrics: readonly Json[]): void {
  const of = (phase: string) => metrics.find((line) => line.phase === phase && "step_time" in line);
  for (const phase of ["cold_start", "rejection"]) {
    for (
      const name of ["loss", "grad_norm", "learning_rate", "num_tokens", "epoch", "expert_load"]
    ) {
      assert(Number.isFinite(of(phase)[name]), `${phase}: ${name}`);
    }
  }
  const names = [
    ...["reward", "reward_std", "frac_reward_zero_std", "entropy", "clip_ratio/region_mean"],
    ...["completions/mean_length", "completions/mean_terminated_length"],
    ...["completions/clipped_ratio", "rewards/solution_accuracy/mean", "rewards/format/std"],
  ];
  for (const name of names) assert(Number.isFinite(of("grpo")[name]), name);
  const evaluation = metrics.findLast((line) => "eval/accuracy" in line);
  assertEquals(evaluation["eval/families/addition"], evaluation["eval/accuracy"]);
}

function checkCosts(folder: string, metrics: readonly Json[]): void {
  const costs: Json[] = JSON.parse(Deno.readTextFileSync(`${folder}/state/cost.json`));
  assertEquals(costs.map(({ phase }) => phase), ["cold_start", "grpo", "rejection"]);
  for (const cost of costs) {
    const last = metrics.findLast((line) => line.phase === cost.phase && "num_tokens" in line);
    assertEquals(cost.trainedTokens, last.num_tokens);
    assert(cost.seconds > 0 && cost.gflopsPerSecond > 0 && cost.wattHours > 0);
    assertEquals(cost.sampledTokens > 0, cost.phase !== "cold_start");
  }
}

/** Accepted answers are rewarded ones, to prompts of the corpus, in a form that data recipes read. */
async function checkAccepted(folder: string): Promise<void> {
  const text = Deno.readTextFileSync(`${folder}/state/phases/rejection/accepted.jsonl`);
  const rows: Json[] = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  const known = new Set(
    (await rowsIn(`${folder}/data`, "train")).map((row) => row.messages![0].content),
  );
  for (const { prompt, completion, reward } of rows) {
    assert(known.has(prompt[0].content));
    assert(reward >= 0.9, `${reward}`);
    assertMatch(completion[0].content, /^<think>\n[^]*\n<\/think>\n\n[^]+$/);
  }
}

/** Greedy answers of the engine on the written folder are those of the run's last evaluation. */
async function checkServed(folder: string): Promise<void> {
  const data = await dataIn(folder);
  const source = await openCheckpoint(`${folder}/state/model`);
  const tokenizer = await loadTokenizer(source);
  const template = await loadChatTemplate(source, { tokenizer });
  assertEquals(source.metadata.get("architectures"), ["DeepseekV3ForCausalLM"]);
  assert(source.tensors.has("model.layers.1.mlp.experts.3.down_proj.weight"));
  // transformers takes no whole number for it.
  const config = Deno.readTextFileSync(`${folder}/state/model/config.json`);
  assertMatch(config, /"routed_scaling_factor": 1\.0,/);
  source.close();
  const [prompt] = await data.prompts("heldout", 1);
  const rendered = template.render([{ role: "user", content: prompt.text }]);
  assertEquals(tokenizer.encode(rendered, { addSpecial: false }), [...prompt.ids]);
  const engine = await openLocalEngine({
    ...{ model: `${folder}/state/model`, backend: "wasm", activations: "f32" },
    ...{ threads: 1, slots: 1, chunkTokens: 64 },
  });
  try {
    const request = toyRequest([...prompt.ids], { maxTokens: 24 });
    const answer = await answerOf(engine.generate(request));
    assertEquals(answer, await answerOfRun(folder, { prompt, length: answer.length }));
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

/** The same by the training back end, on the written weights. */
async function answerOfRun(
  folder: string,
  { prompt, length }: { prompt: { ids: readonly number[] }; length: number },
): Promise<number[]> {
  const { recipe, threads } = await jobIn(folder, shortRecipe());
  const source = await openCheckpoint(`${folder}/state/model`);
  const bench = await openWorkbench({
    ...{ recipe, phase: recipe.phases[0], source, threads, promptTokens: prompt.ids.length },
  });
  const [{ answer }] = await bench.engine.answer([{ prompt: prompt.ids, seed: 0 }], {
    ...{ temperature: 0, topP: 1, maxTokens: length, endTokens: [] },
  });
  bench.close();
  source.close();
  return [...answer];
}

Deno.test("a phase below its gate goes on within its compute, then stops, ships nothing, and goes on with more", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    recipe.phases = [{ ...recipe.phases[0], steps: 4, evaluateEvery: 2, gate: 0.99, share: 1 }];
    recipe.phases[0].update.warmup = 1;
    recipe.compute.teraflops = 0.002;
    const first = await trainIn(folder, { recipe });
    assertEquals(first.code, 1);
    assertMatch(
      first.out,
      /below the gate of 99.0 %; it goes on \(\d+\.\d % of its compute used\)/,
    );
    assertMatch(first.err, /cold_start ends at .* below its gate of 99.0 %.*No model is shipped/);
    const steps = () => metricsOf(folder).filter((line) => "step_time" in line).length;
    const made = steps();
    assert(made > 4, `${made} steps`);
    await assertRejects(() => Deno.stat(`${folder}/state/model`));
    await assertRejects(() => trainIn(folder, { recipe }), OptionError, "go on with --resume");
    recipe.compute.teraflops = 0.004;
    recipe.phases[0].gate = 0;
    const second = await trainIn(folder, { recipe, flags: ["--resume"] });
    assertEquals([second.code, second.err], [0, ""]);
    assert(steps() >= made);
    await Deno.stat(`${folder}/state/model/model.safetensors`);
    recipe.seed = 99;
    await assertRejects(
      () => trainIn(folder, { recipe, flags: ["--resume"] }),
      OptionError,
      "the folder holds a run of another recipe",
    );
  });
});

Deno.test("steps that are not read are learnt from all the same, and the next line is about all of them", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    recipe.phases = [{ ...recipe.phases[0], steps: 7, evaluateEvery: 7, share: 1 }];
    const each = await trainIn(folder, { recipe });
    assertMatch(each.out, /^backend wasm, f32$/m);
    const lines = metricsOf(folder).filter((line) => "loss" in line);
    await Deno.rename(`${folder}/state`, `${folder}/each`);
    recipe.metrics = { every: 3 };
    const some = await trainIn(folder, { recipe });
    const read = metricsOf(folder).filter((line) => "loss" in line);
    assertEquals([each.code, some.code, lines.length], [0, 0, 7]);
    assertEquals(read.map(({ step }) => step), [3, 6]);
    for (const { step, loss, num_tokens } of read) {
      const { loss: expected, num_tokens: tokens } = lines[step - 1];
      assertEquals([loss, num_tokens], [expected, tokens]);
    }
    const hash = (out: string) => out.trimEnd().split("\n").at(-1);
    assertEquals(hash(some.out), hash(each.out));
  });
});

Deno.test("phase by phase a run ends like one in a single go", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    const whole = await trainIn(folder, { recipe });
    assertEquals([whole.code, whole.err], [0, ""]);
    await Deno.rename(`${folder}/state`, `${folder}/whole`);
    let last = "";
    for (const name of ["cold_start", "grpo", "rejection"]) {
      const { code, out } = await trainIn(folder, { recipe, flags: ["--resume", "--phase", name] });
      assertEquals(code, 0);
      last = out;
    }
    const hash = (out: string) => out.trimEnd().split("\n").at(-1);
    assertEquals(hash(last), hash(whole.out));
    await assertRejects(
      () => trainIn(folder, { recipe, flags: ["--resume", "--phase", "rl"] }),
      OptionError,
      '--phase is "rl", must be one of cold_start, grpo, rejection',
    );
  });
});

Deno.test("a number that is not finite stops the run by step and tensor, and the last whole state goes on", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    recipe.phases = [{ ...recipe.phases[1], steps: 5, evaluateEvery: 5 }];
    recipe.checkpoint.every = 1;
    const job = await jobIn(folder, recipe);
    let calls = 0;
    const failing = {
      async score(samples: Parameters<typeof job.scorer.score>[0]) {
        const judged = await job.scorer.score(samples);
        return ++calls < 3 ? judged : judged.map((each) => ({ ...each, reward: NaN }));
      },
    };
    const error = await assertRejects(
      () => runPipeline({ ...job, scorer: failing }),
      TrainingError,
      "cannot go on with grpo: after step 3 the ",
    );
    assertMatch(error.message, /of "model\.\S+" holds NaN, must be finite; weights-00-0000002/);
    const { outcome } = await runPipeline(job);
    assertEquals(outcome, "done");
    assertEquals(metricsOf(folder).filter((line) => "loss" in line).map(({ step }) => step), [
      ...[1, 2, 3, 4, 5],
    ]);
    const { position } = JSON.parse(Deno.readTextFileSync(`${folder}/state/run.json`));
    assertEquals(position.phase, 1);
  });
});

Deno.test("an evaluation counts by family what the independent checkers accept", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const data = await dataIn(folder);
    const prompts = await data.prompts("heldout", 6);
    // Right for the first four, wrong for the last two.
    const texts = prompts.map(({ reference }, i) =>
      `\n</think>\n\n${i < 4 ? reference.answer : Number(reference.answer) + 1}`
    );
    const engine = {
      answer: () =>
        Promise.resolve(prompts.map(({ ids }, i) => ({ prompt: ids, answer: [i], ended: i > 0 }))),
    };
    const result = await evaluate(engine as Json, {
      ...{ prompts, maxTokens: 9, endTokens: [], decode: ([i]) => texts[i] },
    });
    const { right, accuracy, families, cutOff } = result;
    assertEquals({ right, accuracy, families, cutOff }, {
      ...{ right: 4, accuracy: 4 / 6, cutOff: 1 },
      families: { addition: { right: 4, problems: 6 } },
    });
    assertEquals(result.example.prompt, prompts[4].text);
  });
});
