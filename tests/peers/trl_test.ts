/** A folder that a training run wrote, trained on by TRL with the functions of docs/reward.md. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { loadChatTemplate } from "../../src/chat/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { SampleEncoder } from "../../src/training/data/packing/encode.ts";
import type { ChatDraft } from "../../src/training/data/rows.ts";
import { localRewards, PRESETS, problemOf } from "../../src/training/reward/mod.ts";
import { withRewardServer } from "../routes/_rewards.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { makeCorpus, shortRecipe, trainIn } from "../training/run/_run.ts";
import { askPython, pythonHas } from "./_python.ts";

const ROWS = 8;

interface Answer {
  readonly samples: readonly { ids: number[]; labels: number[] }[];
  readonly sampled: readonly { prompt: string; completion: string; reward: number }[];
}

Deno.test({
  name: "TRL learns from our rows what we do, samples for our rewards, and saves what we load",
  // Skipped where Python lacks torch or TRL (SLUICE_PYTHON names one that has them).
  ignore: !pythonHas("torch", "transformers", "trl", "datasets", "requests"),
  fn: async () => {
    await withFolder(async (folder) => {
      await makeCorpus(folder);
      const flags = ["--phase", "cold_start"];
      assertEquals((await trainIn(folder, { recipe: shortRecipe(), flags })).code, 0);
      const model = `${folder}/state/models/cold_start`;
      const lines = Deno.readTextFileSync(`${folder}/data/train-00000.jsonl`).split("\n", ROWS);
      const rows: ChatDraft[] = lines.map((line) => JSON.parse(line));
      Deno.writeTextFileSync(`${folder}/rows.jsonl`, `${lines.join("\n")}\n`);
      await withRewardServer(async (url) => {
        const { samples, sampled } = await askPython<Answer>("with_trl.py", {
          ...{ folder: model, rows: `${folder}/rows.jsonl`, url: `${url}?reward=article` },
          document: new URL("../../docs/reward.md", import.meta.url).pathname,
        });
        assertEquals(samples, await samplesOf(model, rows));
        assertEquals(sampled.map(({ reward }) => reward), await rewardsOf(sampled, rows));
      });
      await loads(`${model}/trl`);
    });
  },
});

/** Our own encoding, with PyTorch's mark for tokens that are given. */
async function samplesOf(model: string, rows: readonly ChatDraft[]): Promise<Answer["samples"]> {
  const source = await openCheckpoint(model);
  const tokenizer = await loadTokenizer(source);
  const encoder = new SampleEncoder(tokenizer, await loadChatTemplate(source, { tokenizer }));
  source.close();
  return rows.flatMap((row) => encoder.encode(row)).map(({ ids, targets }) => ({
    ids: [...ids],
    labels: [...ids].map((id, i) => targets[i] === 1 ? id : -100),
  }));
}

async function rewardsOf(
  sampled: Answer["sampled"],
  rows: readonly ChatDraft[],
): Promise<readonly number[]> {
  const problems = rows.map(problemOf);
  assert(sampled.length > 0);
  const { rewards } = await localRewards({ weights: PRESETS.article })(
    sampled.map(({ prompt, completion }) => {
      const { reference } = problems.find((problem) => problem.prompt === prompt)!;
      return { prompt, completion, reference, opened: true };
    }),
  );
  return rewards;
}

async function loads(folder: string): Promise<void> {
  const source = await openCheckpoint(folder);
  const backend = createReferenceBackend();
  const tokenizer = await loadTokenizer(source);
  const template = await loadChatTemplate(source, { tokenizer });
  assert(template.render([{ role: "user", content: "3 + 4?" }]).endsWith("<think>\n"));
  await loadModel({ source, backend, maxRows: 4, maxLogitRows: 4 });
  backend.close();
  source.close();
}
