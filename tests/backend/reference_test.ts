import { assertRejects, assertThrows } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { CapacityError } from "../../src/errors.ts";
import { conformance } from "./conformance.ts";
import { filled, uploadVector } from "./_harness.ts";

conformance({
  name: "reference",
  open: () => Promise.resolve(createReferenceBackend({ chooses: true })),
});

Deno.test("reference: memory beyond the limit is refused by name and size", async () => {
  const backend = createReferenceBackend({ maxBytes: 1000 });
  await uploadVector(backend, new Float32Array(100));
  await assertRejects(
    () => uploadVector(backend, new Float32Array(200)),
    CapacityError,
    "cannot allocate vector: it needs 800 bytes, must fit the 600 bytes left",
  );
});

Deno.test("reference: an op whose shapes do not fit is refused when it is recorded", async () => {
  const backend = createReferenceBackend();
  const weight = await uploadVector(backend, new Float32Array(5));
  const x = filled(backend, 4, new Float32Array(8));
  const out = filled(backend, 1, new Float32Array(2));
  assertThrows(
    () => backend.record((ops) => ops.linear({ x, outputs: [{ weight, out }], rows: 2 })),
    RangeError,
    "cannot record linear: the width of vector is 5, must be 4",
  );
});

Deno.test("reference: ids and pages out of range stop the plan instead of reading elsewhere", async () => {
  const backend = createReferenceBackend();
  const table = await uploadVector(backend, new Float32Array(4));
  const out = filled(backend, 4, new Float32Array(4));
  const ids = filled(backend, 1, Int32Array.of(1));
  const plan = backend.record((ops) => ops.embed({ table, ids, out, rows: 1 }));
  assertThrows(
    () => backend.submit(plan),
    RangeError,
    "cannot run a plan: a token id is 1, must be from 0 to 0",
  );
});
