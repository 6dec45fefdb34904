import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { Backend, Ops } from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { CapacityError, FormatError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import type { ForwardOptions } from "../../src/model/types.ts";
import {
  ggufDeepseek,
  huggingFaceDeepseek,
  huggingFaceMixture,
  legacyGgufDeepseek,
  mixtures,
} from "./_mixtures.ts";
import { ggufLlama, huggingFaceDense, sourceOf, type SourceParts } from "./_source.ts";

async function load(parts: SourceParts, backend: Backend = createReferenceBackend()) {
  return await loadModel({ source: sourceOf(parts), backend, maxRows: 4, maxLogitRows: 4 });
}

/** The parts with tensors added, reshaped, or (undefined) taken away. */
function withShapes(
  parts: SourceParts,
  shapes: Record<string, readonly number[] | undefined>,
): SourceParts {
  const merged = Object.entries({ ...parts.shapes, ...shapes }).filter(([, shape]) => shape);
  return { ...parts, shapes: Object.fromEntries(merged) as SourceParts["shapes"] };
}

/** A backend to which nothing may be uploaded. */
function untouchable(): Backend {
  const backend = createReferenceBackend();
  backend.upload = ({ name }) => Promise.reject(new Error(`${name} was uploaded`));
  backend.uploadExperts = () => Promise.reject(new Error("experts were uploaded"));
  return backend;
}

for (
  const parts of [
    ggufLlama(),
    ...(["Llama", "Qwen2", "Qwen3"] as const).map(huggingFaceDense),
    ...mixtures(),
  ]
) {
  const architecture = parts.metadata["general.architecture"] ?? parts.metadata.architectures;
  const legacy = "blk.0.attn_kv_b.weight" in parts.shapes ? ", legacy" : "";
  const label = `${architecture}${legacy}`;

  Deno.test(`${label} (${parts.format}): a missing tensor is named before anything is uploaded`, async () => {
    for (const name of Object.keys(parts.shapes)) {
      // In GGUF files a missing output matrix means tied embeddings.
      if (name === "output.weight" || name.startsWith("token_embd")) continue;
      // It says by being there that the file is of the older kind.
      if (name === "blk.0.attn_kv_b.weight") continue;
      await assertRejects(
        () => load(withShapes(parts, { [name]: undefined }), untouchable()),
        FormatError,
        `tensor "${name}" is missing`,
      );
    }
  });

  Deno.test(`${label} (${parts.format}): a misshapen tensor is named with both shapes`, async () => {
    for (const [name, shape] of Object.entries(parts.shapes)) {
      if (name.includes("embed_tokens") || name.startsWith("token_embd")) continue;
      const wrong = [...shape.slice(0, -1), shape[shape.length - 1] + 1];
      const error = await assertRejects(
        () => load(withShapes(parts, { [name]: wrong }), untouchable()),
        FormatError,
      );
      const expected = `the shape of tensor "${name}" is [${wrong.join(", ")}], ` +
        `must be [${shape.join(", ")}]`;
      assert(String(error).includes(expected), String(error));
    }
  });

  Deno.test(`${label} (${parts.format}): an unknown tensor is named`, async () => {
    const extra = withShapes(parts, { "blk.7.surprise": [3], "blk.8.surprise": [3] });
    await assertRejects(
      () => load(extra, untouchable()),
      FormatError,
      'tensor "blk.7.surprise" is unknown (and one other)',
    );
  });
}

Deno.test("of the routed experts, those that a token does not read are not active", async () => {
  const [all, active] = await Promise.all(
    [huggingFaceMixture("Qwen3Moe"), ggufDeepseek()].map(async (parts) => {
      const { parameters, activeParameters } = await load(parts);
      return [parameters, activeParameters];
    }),
  );
  // Two layers of 8 experts of 3 * 6 * 8 values, of which a token reads 2.
  const idle = 2 * 6 * 3 * 6 * 8;
  assertEquals(all[0] - all[1], idle);
  assertEquals(active[0] - active[1], idle);
});

Deno.test("more experts than the file can have tensors for are refused before they are named", async () => {
  const parts = huggingFaceMixture("Qwen3Moe");
  const metadata = { ...parts.metadata, num_experts: 65536, num_hidden_layers: 1024 };
  const error = await assertRejects(() => load({ ...parts, metadata }, untouchable()), FormatError);
  const must = "must be at least 201326592 for 65536 experts in 1024 layers";
  assert(String(error).includes(must), String(error));
});

Deno.test("stacked experts and those in tensors of their own know where their bytes lie", async () => {
  for (const parts of [ggufDeepseek(), huggingFaceDeepseek("V3")]) {
    const source = sourceOf(parts);
    source.locate = ({ name }) => ({ file: `of ${name}`, offset: 1000 });
    const backend = createReferenceBackend();
    const uploadExperts = backend.uploadExperts.bind(backend);
    const places: (string | number | undefined)[] = [];
    backend.uploadExperts = (tensors) => {
      const { location } = tensors.down[3];
      places.push(location?.file, location?.offset, location?.byteLength);
      return uploadExperts(tensors);
    };
    await loadModel({ source, backend, maxRows: 1, maxLogitRows: 1 });
    const stacked = parts.format === "gguf";
    const name = stacked
      ? "blk.1.ffn_down_exps.weight"
      : "model.layers.1.mlp.experts.3.down_proj.weight";
    // An expert's matrix is 8 by 6 numbers of four bytes.
    assertEquals(places.slice(0, 3), [`of ${name}`, stacked ? 1000 + 3 * 192 : 1000, 192]);
  }
});

Deno.test("layers that predict further tokens are left alone, and no others", async () => {
  const parts = huggingFaceDeepseek("V3");
  const extra = withShapes(parts, { "model.layers.3.eh_proj.weight": [8, 16] });
  await assertRejects(() => load(extra, untouchable()), FormatError, "model.layers.3.eh_proj");
  const stated = { ...extra, metadata: { ...extra.metadata, num_nextn_predict_layers: 1 } };
  assertEquals((await load(stated)).parameters, (await load(parts)).parameters);
  const gguf = ggufDeepseek();
  const counted = { "deepseek2.block_count": 4, "deepseek2.nextn_predict_layers": 1 };
  const both = withShapes(gguf, { "blk.3.nextn.eh_proj.weight": [8, 16] });
  const model = await load({ ...both, metadata: { ...both.metadata, ...counted } });
  assertEquals([model.config.layers, model.routedLayers.length], [3, 2]);
});

Deno.test("a legacy file without groups warns, and takes those that the caller states", async () => {
  const warnings: string[] = [];
  const open = async (parts: SourceParts, expertGroups?: { count: number; used: number }) =>
    await loadModel({
      source: sourceOf(parts),
      backend: createReferenceBackend(),
      maxRows: 1,
      maxLogitRows: 1,
      onWarning: (message) => warnings.push(message),
      ...(expertGroups && { expertGroups }),
    });
  await open(ggufDeepseek());
  assertEquals(warnings, []);
  await open(legacyGgufDeepseek());
  assertEquals(warnings.length, 1);
  assert(warnings[0].includes("without the group limit"), warnings[0]);
  assert(warnings[0].includes("--expert-groups N,K"), warnings[0]);
  await open(legacyGgufDeepseek(), { count: 4, used: 2 });
  assertEquals(warnings.length, 1);
  for (
    const [count, used, message] of [[3, 1, "a divisor of the 8 experts"], [
      8,
      2,
      "at most 4",
    ]] as const
  ) {
    await assertRejects(() => open(legacyGgufDeepseek(), { count, used }), OptionError, message);
  }
  await assertRejects(
    () => open(huggingFaceMixture("Olmoe"), { count: 4, used: 2 }),
    OptionError,
    "must be left to DeepSeek's models (this one is olmoe)",
  );
});

Deno.test("a weight whose elements are integers is refused with its type", async () => {
  const name = "blk.0.ffn_up.weight";
  const source = sourceOf(withShapes(ggufLlama(), { [name]: undefined }));
  const other = { name, dtype: "I64", shape: [12, 8], byteLength: 768 };
  await assertRejects(
    () =>
      loadModel({
        source: { ...source, otherTensors: new Map([[name, other]]) },
        backend: untouchable(),
        maxRows: 1,
        maxLogitRows: 1,
      }),
    UnsupportedOpError,
    `"${name}": its type is I64`,
  );
});

Deno.test("tensors that repeat what the configuration says are let pass", async () => {
  const llama = huggingFaceDense("Llama");
  await load(withShapes(llama, { "model.layers.0.self_attn.rotary_emb.inv_freq": [2] }));
  const tied = { ...llama, metadata: { ...llama.metadata, tie_word_embeddings: true } };
  assertEquals((await load(tied)).parameters, (await load(llama)).parameters - 80);
});

Deno.test("frequency divisors of a GGUF file change the rotary embedding and must fit it", async () => {
  const plain = await load(ggufLlama());
  const scaled = withShapes(ggufLlama(), { "rope_freqs.weight": [2] });
  const source = sourceOf(scaled);
  source.read = (_tensor, _offset, into) => {
    new DataView(into.buffer).setFloat32(0, 2, true);
    for (let i = 4; i < into.length; i += 4) new DataView(into.buffer).setFloat32(i, 4, true);
    return Promise.resolve();
  };
  const backend = createReferenceBackend();
  const model = await loadModel({ source, backend, maxRows: 1, maxLogitRows: 1 });
  const [a, b] = plain.config.rope.inverseFrequencies;
  assertEquals([...model.config.rope.inverseFrequencies], [a / 2, Math.fround(b / 4)]);
  await assertRejects(
    () => load(withShapes(ggufLlama(), { "rope_freqs.weight": [3] }), untouchable()),
    Error,
    "rope_freqs.weight is F32 [3], must be F32 [2]",
  );
});

Deno.test("a tied embedding is uploaded once and counted once", async () => {
  const uploaded: string[] = [];
  const backend = createReferenceBackend();
  const upload = backend.upload.bind(backend);
  backend.upload = (tensor) => {
    uploaded.push(tensor.name);
    return upload(tensor);
  };
  const model = await load(withShapes(ggufLlama(), { "output.weight": undefined }), backend);
  assert(model.config.tiedEmbeddings);
  assertEquals(uploaded.filter((name) => name === "token_embd.weight").length, 1);
  assertEquals(uploaded.length, 11);
  // 80 embedding, 8 + 64 + 32 + 32 + 64 attention, 8 + 96 + 96 + 96 MLP, 8 final norm.
  assertEquals([model.parameters, model.activeParameters], [584, 584]);
});

Deno.test("progress goes from zero to the bytes of all tensors and never back", async () => {
  const source = sourceOf(ggufLlama());
  const seen: number[] = [];
  await loadModel({
    source,
    backend: createReferenceBackend(),
    maxRows: 1,
    maxLogitRows: 1,
    onProgress: ({ loadedBytes, totalBytes }) => {
      assertEquals(totalBytes, source.byteLength);
      seen.push(loadedBytes);
    },
  });
  assertEquals([seen[0], seen[seen.length - 1]], [0, source.byteLength]);
  assert(seen.every((bytes, i) => i === 0 || bytes >= seen[i - 1]));
  assert(seen.length > 10, "it is told tensor by tensor");
});

Deno.test("a step records seven ops a layer around one embedding and one head", async () => {
  const model = await load(huggingFaceDense("Qwen3"));
  const recorded: string[] = [];
  const ops = new Proxy({}, {
    get: (_, name) => () => recorded.push(String(name)),
  }) as Ops;
  // The ops are counted, not run: what the inputs are does not matter here.
  const step = { inputs: { batch: {} }, cache: {}, rows: 2, logitRowCount: 1 };
  model.forward(ops, step as ForwardOptions);
  assertEquals(recorded, [
    "embed",
    "linear",
    "rotateAndCache",
    "attention",
    "linear",
    "gatedLinear",
    "linear",
    "gatherRows",
    "linear",
  ]);
  recorded.length = 0;
  model.forward(ops, { ...step, logitRowCount: 0 } as ForwardOptions);
  assertEquals(recorded.slice(-1), ["linear"]);
  assertEquals(recorded.includes("gatherRows"), false);
  assertThrows(
    () => model.forward(ops, { ...step, rows: 5 } as ForwardOptions),
    CapacityError,
    "rows is 5, must be from 1 to 4",
  );
});

Deno.test("an evaluator refuses ids outside the vocabulary and sequences beyond their room", async () => {
  const backend = createReferenceBackend();
  const model = await load(ggufLlama(), backend);
  const evaluator = new Evaluator({ model, backend, maxRows: 4, sequences: 1, tokens: 64 });
  for (const id of [10, -1, 0.5, NaN]) {
    await assertRejects(
      () => evaluator.step([{ sequence: 0, ids: [id] }], { logits: "last" }),
      Error,
      `one is ${id}, must be an integer from 0 to 9`,
    );
  }
  const step = () => evaluator.step([{ sequence: 0, ids: [1, 2, 3, 4] }], { logits: "none" });
  evaluator.truncate(0, 0);
  for (let i = 0; i < 16; i++) await step();
  await assertRejects(step, CapacityError, "tokens of a sequence are 68, must be from 1 to 64");
});
