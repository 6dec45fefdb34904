/**
 * DeepSeek-V3 as GGUF files had it until April 2025, without the groups of its experts: with them stated,
 * it is the same model as the present file.
 */

import { assert } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { sharedFolder } from "../support/fixtures.ts";
import { type Golden, goldens } from "./_goldens.ts";

const missing = sharedFolder() === undefined
  ? " (skipped: the folder of fixtures is not in SLUICE_SHARED)"
  : "";

function golden(id: string): Golden {
  const found = goldens().find((golden) => golden.id === id);
  assert(found, id);
  return found;
}

/** The largest difference of the legacy file's logits from those recorded for the present one. */
async function difference(expertGroups?: { count: number; used: number }): Promise<number> {
  const legacy = golden("gguf/deepseek_v3.legacy_kv_b");
  const present = golden("gguf/deepseek_v3.bf16");
  const results = present.results();
  const source = await openCheckpoint(legacy.path);
  const backend = createReferenceBackend();
  try {
    const model = await loadModel({
      source,
      backend,
      maxRows: 128,
      maxLogitRows: 128,
      ...(expertGroups && { expertGroups }),
    });
    const evaluator = new Evaluator({ model, backend, maxRows: 128, sequences: 1, tokens: 128 });
    const all = await evaluator.allLogits(present.sequences, { chunk: 128 });
    return Math.max(...all.map((logits, i) => {
      const expected = results.get(present.logitsName(i), "F32");
      return logits.reduce((most, logit, at) => Math.max(most, Math.abs(logit - expected[at])), 0);
    }));
  } finally {
    backend.close();
    source.close();
  }
}

Deno.test({
  name:
    `a legacy DeepSeek-V3 file with its groups stated is the model of the present file${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const { tolerance } = golden("gguf/deepseek_v3.bf16");
    const off = await difference({ count: 4, used: 2 });
    assert(off <= tolerance, `a logit is off by ${off}, must be within ${tolerance}`);
    assert(await difference() > 1, "without them it is another model");
  },
});
