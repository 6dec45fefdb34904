/** Exported files in llama.cpp. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { loadChatTemplate } from "../../src/chat/mod.ts";
import { main as exportModel } from "../../src/cli/export.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { recordedIo } from "../cli/_io.ts";
import { joinFolders, recordedModels, wideModel } from "../convert/_folders.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { askPython, pythonHas } from "./_python.ts";

interface Answer {
  readonly ids: number[][];
  readonly template: string | null;
  readonly bos: number;
  readonly eos: number;
}

/**
 * Rms differences of logits from ours on the same file, in parts of the logits' own. Matrices of F32 are
 * multiplied as floats there too. Of other types llama.cpp rounds activations, to 8 bits for quantised
 * ones, and in random models that changes close choices of experts.
 */
const RMS = { F32: 1e-5, F16: 5e-3, Q8_0: 0.3, Q4_K: 0.3 } as const;

/** A folder by what is special about it. */
const MODELS: Readonly<Record<string, (folder: string) => Promise<string>>> = {
  "a random DeepSeek-V3 as training makes them": wideModel,
  "DeepSeek-V3 with YaRN, groups and a latent of queries": (folder) =>
    Promise.resolve(joinFolders(folder, recordedModels()[0])),
};
/** SLUICE_TRAINED names a folder that a run has written. */
const trained = Deno.env.get("SLUICE_TRAINED");
const models = trained === undefined
  ? MODELS
  : { ...MODELS, "a trained model": () => Promise.resolve(trained) };

for (const [what, make] of Object.entries<(folder: string) => Promise<string>>(models)) {
  Deno.test({
    name: `llama.cpp loads exports of ${what}, and gives our logits and token ids`,
    // Skipped where Python lacks llama_cpp (SLUICE_PYTHON names one that has it).
    ignore: !pythonHas("llama_cpp", "numpy"),
    fn: async () => {
      await withFolder(async (folder) => {
        const path = await make(folder);
        for (const [quant, most] of Object.entries(RMS)) {
          const file = `${folder}/${quant}.gguf`;
          await exportModel([path, "--gguf", "--quant", quant, "--out", file], recordedIo());
          const rms = await difference(file);
          console.log(`${quant}: ${rms}`);
          assert(rms <= most, `${quant}: ${rms}`);
        }
      });
    },
  });
}

/** Of our logits and llama.cpp's for the same tokens, whose ids are compared on the way. */
async function difference(file: string): Promise<number> {
  const source = await openCheckpoint(file);
  const tokenizer = await loadTokenizer(source);
  const template = await loadChatTemplate(source, { tokenizer });
  const texts = [
    "Two and two: 2 + 2 = 4.\n\nx1  y",
    template.render([{
      role: "user",
      content: "What is 47 + 38?",
    }]),
  ];
  const ids = texts.map((text) => tokenizer.encode(text, { addSpecial: false }));
  const answer = await askPython<Answer>("with_llama_cpp.py", { file, texts, sequences: ids });
  assertEquals(answer, {
    ids,
    template: template.source,
    bos: tokenizer.bosToken!,
    eos: tokenizer.eosToken!,
  });
  const theirs = new Float32Array(Deno.readFileSync(`${file}.logits`).buffer);
  const backend = createReferenceBackend();
  const model = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
  const evaluator = new Evaluator({ model, backend, maxRows: 64, sequences: 1, tokens: 64 });
  let [at, error, size] = [0, 0, 0];
  for (const sequence of ids) {
    const [own] = await evaluator.allLogits([sequence], { chunk: 64 });
    for (const logit of own) {
      error += (theirs[at++] - logit) ** 2;
      size += logit ** 2;
    }
  }
  backend.close();
  source.close();
  assertEquals(theirs.length, at);
  return Math.sqrt(error / size);
}
