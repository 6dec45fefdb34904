/**
 * A small trained DeepSeek-V3 (its README: `tiny_v3_moe` of the shared models), whose routing is learnt,
 * against transformers in float32. The reference backend does the first prompt and a few documents.
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { Evaluator, type LayerRouting } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { sharedFolder } from "../support/fixtures.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";
import { assertSameRouting } from "./_routing.ts";

interface Golden {
  readonly tolerance: {
    readonly logits_max_abs: number;
    readonly routing_weights_max_abs: number;
  };
  readonly sequences: readonly {
    readonly ids: readonly number[];
    /** Ends with the end of the answer where that comes before 64 tokens. */
    readonly greedy: readonly number[];
  }[];
  readonly validation: {
    readonly documents: readonly (readonly number[])[];
    readonly nll_per_document: readonly number[];
    readonly nll_per_token: number;
  };
}

const CHUNK = 64;
const LONGEST = 256;
const VOCAB = 4096;

const shared = sharedFolder();
const folder = `${shared}/models/tiny_v3_moe`;
const missing = shared === undefined
  ? " (skipped: the folder of shared models is not in SLUICE_SHARED)"
  : "";
const GGUF = `${folder}/tiny_v3_moe.q4_k_m.gguf`;

function golden(): Golden {
  return JSON.parse(Deno.readTextFileSync(`${folder}/golden.json`));
}

async function withModel(
  path: string,
  options: { backend: Backend; body: (evaluator: Evaluator) => Promise<void> },
): Promise<void> {
  const { backend, body } = options;
  const source = await openCheckpoint(path);
  try {
    const model = await loadModel({ source, backend, maxRows: CHUNK, maxLogitRows: CHUNK });
    await body(new Evaluator({ model, backend, maxRows: CHUNK, sequences: 1, tokens: LONGEST }));
  } finally {
    backend.close();
    source.close();
  }
}

/** Logits, chosen experts and greedy tokens of the first `count` recorded prompts. */
async function checkPrompts(evaluator: Evaluator, count: number): Promise<void> {
  const { tolerance, sequences } = golden();
  const arrays = new SafetensorsArrays(Deno.readFileSync(`${folder}/golden.safetensors`));
  for (const [i, { ids, greedy }] of sequences.slice(0, count).entries()) {
    const expected = arrays.get(`seq${i}.logits`, "F32");
    let routing: readonly LayerRouting[] = [];
    let worst = 0;
    const last = await evaluator.prefill(ids, {
      chunk: CHUNK,
      onLogits(logits) {
        assertEquals(logits.length, expected.length);
        logits.forEach((logit, at) => worst = Math.max(worst, Math.abs(logit - expected[at])));
      },
      onRouting: (layers) => routing = layers,
    });
    assert(worst <= tolerance.logits_max_abs, `prompt ${i}: a logit is off by ${worst}`);
    assertEquals(routing.map(({ layer }) => layer), [1, 2, 3, 4, 5]);
    for (const layer of routing) {
      const name = `seq${i}.router.${layer.layer}`;
      assertSameRouting(layer, {
        experts: arrays.get(`${name}.experts`, "I32"),
        weights: arrays.get(`${name}.weights`, "F32"),
      }, { tolerance: tolerance.routing_weights_max_abs, what: name });
    }
    assertEquals(await evaluator.greedy(last, { count: greedy.length }), greedy, `prompt ${i}`);
  }
}

/** Minus the log-likelihood of each document's tokens after the first. */
async function documentNlls(evaluator: Evaluator, count: number): Promise<number[]> {
  const nlls: number[] = [];
  for (const ids of golden().validation.documents.slice(0, count)) {
    const [logits] = await evaluator.allLogits([ids], { chunk: CHUNK });
    let nll = 0;
    for (let t = 0; t + 1 < ids.length; t++) {
      const row = logits.subarray(t * VOCAB, (t + 1) * VOCAB);
      const largest = row.reduce((a, b) => Math.max(a, b));
      const total = row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
      nll += largest + Math.log(total) - row[ids[t + 1]];
    }
    nlls.push(nll);
  }
  return nlls;
}

function checkNlls(nlls: readonly number[]): void {
  const { validation, tolerance } = golden();
  for (const [i, nll] of nlls.entries()) {
    // The log-probability of a token errs by at most twice as much as a logit.
    const most = 2 * tolerance.logits_max_abs * (validation.documents[i].length - 1);
    const error = Math.abs(nll - validation.nll_per_document[i]);
    assert(error <= most, `document ${i}: its NLL is ${nll}, off by ${error}`);
  }
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

Deno.test({
  name: `tiny_v3_moe on the reference backend gives the recorded prompt and documents${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const body = async (evaluator: Evaluator) => {
      await checkPrompts(evaluator, 1);
      checkNlls(await documentNlls(evaluator, 4));
    };
    await withModel(folder, { backend: createReferenceBackend(), body });
  },
});

Deno.test({
  name:
    `tiny_v3_moe on wasm f32 gives the recorded logits, experts, greedy tokens and likelihoods${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const body = async (evaluator: Evaluator) => {
      const { sequences, validation } = golden();
      await checkPrompts(evaluator, sequences.length);
      const nlls = await documentNlls(evaluator, validation.documents.length);
      checkNlls(nlls);
      const tokens = sum(validation.documents.map(({ length }) => length - 1));
      const perToken = sum(nlls) / tokens;
      assert(Math.abs(perToken - validation.nll_per_token) <= 2e-3, `${perToken} a token`);
    };
    const backend = await createWasmBackend({ threads: 2, activations: "f32" });
    await withModel(folder, { backend, body });
  },
});

Deno.test({
  name:
    `tiny_v3_moe in Q4_K_M with rounded activations is as likely, within 1 %, as with exact ones${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const likelihood = new Map<string, number>();
    for (const activations of ["f32", "q16", "q8"] as const) {
      const body = async (evaluator: Evaluator) => {
        likelihood.set(activations, sum(await documentNlls(evaluator, Infinity)));
      };
      await withModel(GGUF, {
        backend: await createWasmBackend({ threads: 2, activations }),
        body,
      });
    }
    const exact = likelihood.get("f32") as number;
    for (const activations of ["q16", "q8"]) {
      const share = (likelihood.get(activations) as number) / exact;
      assert(Math.abs(share - 1) <= 0.01, `${activations}: ${share} of the exact NLL`);
    }
  },
});

/** The largest difference of a logit of the first prompt in Q4_K_M from the reference's. */
async function quantisedDifference(backend: Backend): Promise<number> {
  const { sequences: [{ ids }] } = golden();
  const results: Float32Array[] = [];
  for (const each of [createReferenceBackend(), backend]) {
    const body = async (evaluator: Evaluator) => {
      results.push(...await evaluator.allLogits([ids], { chunk: CHUNK }));
    };
    await withModel(GGUF, { backend: each, body });
  }
  const [expected, actual] = results;
  return actual.reduce((most, logit, i) => Math.max(most, Math.abs(logit - expected[i])), 0);
}

Deno.test({
  name: `tiny_v3_moe in Q4_K_M gives the same logits on wasm f32 as on the reference${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const backend = await createWasmBackend({ threads: 2, activations: "f32" });
    const worst = await quantisedDifference(backend);
    assert(worst <= golden().tolerance.logits_max_abs, `a logit is off by ${worst}`);
  },
});

Deno.test({
  name:
    `tiny_v3_moe on webgpu gives the recorded logits, experts and greedy tokens, in Q4_K_M the reference's logits${missing}${SKIP_NOTE}`,
  ignore: missing !== "" || GPU_SKIPPED !== undefined,
  fn: async () => {
    const body = (evaluator: Evaluator) => checkPrompts(evaluator, 2);
    await withModel(folder, { backend: await createWebGpuBackend(), body });
    const worst = await quantisedDifference(await createWebGpuBackend());
    assert(worst <= golden().tolerance.logits_max_abs, `a logit is off by ${worst}`);
  },
});
