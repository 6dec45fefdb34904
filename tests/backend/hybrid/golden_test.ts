/** Recorded results of mixtures on two backends: whichever experts lie where, and in chunks and batches bit by bit. */

import type { Backend } from "../../../src/backend/backend.ts";
import { createHybridBackend } from "../../../src/backend/hybrid/mod.ts";
import type { HybridPlacement } from "../../../src/backend/hybrid/placement.ts";
import { createReferenceBackend } from "../../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../../src/backend/wasm/mod.ts";
import { createWebGpuBackend } from "../../../src/backend/webgpu/mod.ts";
import { outlineFromTensors } from "../../../src/experts/outline_tensors.ts";
import { openCheckpoint } from "../../../src/formats/open.ts";
import type { Golden } from "../../model/_goldens.ts";
import { exactGoldenTests } from "../../model/golden_suite.ts";
import { GPU_SKIPPED } from "../../support/gpu.ts";

/** Which of a layer's experts lie on the device. */
type Choice = (expert: number, layer: number) => boolean;

const CHOICES: Readonly<Record<string, Choice>> = {
  "no experts": () => false,
  // Others in each layer than in the one before.
  "half of the experts": (expert, layer) => (expert + layer) % 2 === 0,
  "all experts": () => true,
};

async function placementOf({ path }: Golden, choice: Choice): Promise<HybridPlacement> {
  const source = await openCheckpoint(path);
  try {
    const { layers, experts } = outlineFromTensors(source);
    const ids = Array.from({ length: experts }, (_, id) => id);
    return {
      // From the highest id down: slots are not in the order of ids.
      layers: Array.from({ length: layers }, (_, layer) => ({
        layer,
        resident: ids.filter((id) => choice(id, layer)).reverse(),
      })),
    };
  } finally {
    source.close();
  }
}

const wasm = () => createWasmBackend({ threads: 1, activations: "f32" });

/** Room for few of a layer's experts: what the others need is read when they are chosen. */
const pagedWasm = () =>
  createWasmBackend({ threads: 1, activations: "f32", paging: { cacheBytes: PAGED_BYTES } });
const PAGED_BYTES = 64 * 1024;

function on(
  name: string,
  options: { device: () => Promise<Backend>; host?: () => Promise<Backend>; choice: Choice },
) {
  const { device, host = wasm, choice } = options;
  return {
    name,
    async open(golden: Golden) {
      const placement = await placementOf(golden, choice);
      return createHybridBackend({ device: await device(), host: await host(), placement });
    },
  };
}

for (const [what, choice] of Object.entries(CHOICES)) {
  exactGoldenTests({
    ...on(`hybrid of two wasm, ${what} on the device`, { device: wasm, choice }),
    only: ({ mixture }) => mixture,
  });
}

exactGoldenTests({
  ...on("hybrid of reference and wasm, half of the experts on the device", {
    device: () => Promise.resolve(createReferenceBackend()),
    choice: CHOICES["half of the experts"],
  }),
  only: ({ id }) => id === "models/deepseek_v3",
  chunks: [7],
});

exactGoldenTests({
  ...on("hybrid of wasm and wasm that pages, half of the experts on the device", {
    device: wasm,
    host: pagedWasm,
    choice: CHOICES["half of the experts"],
  }),
  only: ({ id }) => id === "gguf/deepseek_v3.q8_0",
  chunks: [7],
});

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`golden hybrid of webgpu and wasm (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  exactGoldenTests({
    ...on("hybrid of webgpu and wasm, half of the experts on the device", {
      device: () => createWebGpuBackend(),
      choice: CHOICES["half of the experts"],
    }),
    only: ({ id }) => id === "models/deepseek_v3",
    chunks: [7],
  });
}
