/** The suite of all backends over two of them: some experts of a layer on the one, the rest on the other. */

import { assertRejects } from "@std/assert";
import { type Backend, NO_EXPERT } from "../../../src/backend/backend.ts";
import { createHybridBackend } from "../../../src/backend/hybrid/mod.ts";
import { createReferenceBackend } from "../../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../../src/backend/wasm/mod.ts";
import { chooseTests } from "../_choose_conformance.ts";
import { expertsTests } from "../_experts_conformance.ts";
import { filled, withBackend } from "../_harness.ts";
import { headLinearTests } from "../_head_linear_conformance.ts";
import { linearTests } from "../_linear_conformance.ts";
import { uploadTests } from "../_upload_conformance.ts";
import { exactOpsConformance } from "../conformance.ts";
import { uploadRandomExperts } from "./_experts.ts";

/** Not in the order of their ids; the suite's layer 1 has four or six experts. */
const placement = { layers: [{ layer: 1, resident: [2, 0, 3] }] };

async function open(threads: number): Promise<Backend> {
  const host = await createWasmBackend({ threads, activations: "f32" });
  return createHybridBackend({ device: createReferenceBackend(), host, placement });
}

const suite = {
  name: "hybrid of reference and wasm f32",
  open: () => open(1),
  openTwin: () => open(2),
};

exactOpsConformance(suite);
linearTests(suite);
headLinearTests(suite);
expertsTests(suite);
uploadTests(suite);
chooseTests(suite);

Deno.test("hybrid: ids come from a gate, and no expert is refused where the device looks slots up", async () => {
  await withBackend(suite.open, async (backend) => {
    const experts = await uploadRandomExperts(backend, { layer: 1, count: 6 });
    const out = filled(backend, experts.hidden, new Float32Array(experts.hidden));
    const plan = backend.record((ops) =>
      ops.experts({
        x: filled(backend, experts.hidden, new Float32Array(experts.hidden)),
        experts,
        expertIds: filled(backend, 2, Int32Array.of(1, NO_EXPERT)),
        weights: filled(backend, 2, Float32Array.of(1, 1)),
        topK: 2,
        activation: "silu",
        out,
        rows: 1,
      })
    );
    backend.submit(plan);
    await assertRejects(() => backend.read(out), RangeError, "is -1, must be from 0 to 5");
  });
});
