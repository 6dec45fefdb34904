/** A folder that a training run wrote, in transformers. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { loadChatTemplate } from "../../src/chat/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { makeCorpus, shortRecipe, trainIn } from "../training/run/_run.ts";
import { askPython, pythonHas } from "./_python.ts";

const MESSAGES = [{ role: "user", content: "What is 3 + 4?" }];

/** Largest difference of a logit; both compute in float32, in orders of their own. */
const TOLERANCE = 2e-4;

Deno.test({
  name: "transformers loads what a run wrote, gives our logits, and renders its chat template",
  // Skipped where Python lacks torch or transformers (SLUICE_PYTHON names one that has them).
  ignore: !pythonHas("torch", "transformers", "safetensors"),
  fn: async () => {
    await withFolder(async (folder) => {
      // SLUICE_TRAINED names a folder that a longer run has written.
      let model = Deno.env.get("SLUICE_TRAINED");
      if (model === undefined) {
        await makeCorpus(folder);
        const { code, err } = await trainIn(folder, {
          recipe: shortRecipe(),
          flags: ["--phase", "cold_start"],
        });
        assertEquals([code, err], [0, ""]);
        model = `${folder}/state/models/cold_start`;
      }
      const source = await openCheckpoint(model);
      const tokenizer = await loadTokenizer(source);
      const template = await loadChatTemplate(source, { tokenizer });
      const chat = template.render(MESSAGES);
      const ids = tokenizer.encode(chat, { addSpecial: false });
      const noise = Array.from({ length: 64 }, (_, i) => (i * 97 + 13) % tokenizer.vocabSize);
      const sequences = [ids, noise];
      const job = { folder: model, sequences, messages: MESSAGES };
      const answer = await askPython<{ chat: string; ids: number[] }>("with_transformers.py", job);
      assertEquals(answer, { chat, ids });
      const peer = new SafetensorsArrays(Deno.readFileSync(`${model}/peer.safetensors`));
      Deno.removeSync(`${model}/peer.safetensors`);
      const backend = createReferenceBackend();
      const loaded = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
      const options = { model: loaded, backend, maxRows: 64, sequences: 1, tokens: 64 };
      const evaluator = new Evaluator(options);
      let worst = 0;
      for (const [i, sequence] of sequences.entries()) {
        const [own] = await evaluator.allLogits([sequence], { chunk: 64 });
        const theirs = peer.get(`seq${i}.logits`, "F32");
        assertEquals(own.length, theirs.length);
        own.forEach((logit, at) => worst = Math.max(worst, Math.abs(logit - theirs[at])));
      }
      backend.close();
      source.close();
      console.log(`the largest difference of a logit is ${worst}`);
      assert(worst <= TOLERANCE, `a logit differs by ${worst}`);
    });
  },
});
