import { assertEquals, assertRejects } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import { readDefaultSampling } from "../../src/text/default_sampling.ts";

function gguf(metadata: Record<string, MetadataValue>) {
  return readDefaultSampling({
    format: "gguf",
    name: "m.gguf",
    metadata: new Map(Object.entries(metadata)),
    sidecar: () => Promise.resolve(null),
  });
}

function huggingFace(config: string | null, metadata: Record<string, MetadataValue> = {}) {
  return readDefaultSampling({
    format: "safetensors",
    name: "m",
    metadata: new Map(Object.entries(metadata)),
    sidecar: (name) => Promise.resolve(name === "generation_config.json" ? config : null),
  });
}

Deno.test("sampling defaults of a GGUF file are its general.sampling keys", async () => {
  assertEquals(
    await gguf({
      "general.sampling.temp": 0.5,
      "general.sampling.top_k": -1,
      "general.sampling.top_p": 0.75,
      "general.sampling.min_p": 0.125,
      "general.sampling.penalty_repeat": 1.5,
      "general.sampling.mirostat": 2,
    }),
    { temperature: 0.5, topK: 0, topP: 0.75, minP: 0.125, repetitionPenalty: 1.5 },
  );
  assertEquals(await gguf({ "general.name": "m", temperature: 2 }), {});
});

Deno.test("sampling defaults of a folder are those of its generation_config.json", async () => {
  assertEquals(
    await huggingFace('{"do_sample":false,"temperature":0.6,"top_p":0.95,"top_k":null}'),
    { temperature: 0.6, topP: 0.95 },
  );
  assertEquals(await huggingFace(null, { temperature: 0.2 }), {});
});

Deno.test("sampling defaults that cannot be are errors that name them", async () => {
  await assertRejects(
    () => gguf({ "general.sampling.temp": "hot" }),
    FormatError,
    'defaults of "m.gguf": general.sampling.temp is a string, must be a number from 0 to 100',
  );
  await assertRejects(() => huggingFace('{"top_p":1.5}'), FormatError, "top_p is 1.5");
  await assertRejects(() => huggingFace('{"top_k":1.5}'), FormatError, "a whole number");
  await assertRejects(() => huggingFace("{"), FormatError, "is no JSON");
  await assertRejects(() => huggingFace("[]"), FormatError, "must be a JSON object");
});
