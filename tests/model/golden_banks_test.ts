/** Models spread over several memories give the bits of those in one. */

import { assert, assertEquals, assertGreater, assertRejects } from "@std/assert";
import { OPCODES, type WasmPlan } from "../../src/backend/wasm/plan.ts";
import { createWasmBackend, type WasmBackendOptions } from "../../src/backend/wasm/mod.ts";
import { CapacityError } from "../../src/errors.ts";
import { type Golden, goldens } from "./_goldens.ts";
import { assertSameOutcome, type Opened, type Outcome, outcomeOf, withOpened } from "./_outcome.ts";

const KIB = 1024;

async function run(
  golden: Golden,
  options: Partial<WasmBackendOptions>,
  body: (opened: Opened) => unknown = () => {},
): Promise<Outcome> {
  let outcome: Outcome | undefined;
  await withOpened(golden.path, {
    open: () => createWasmBackend({ threads: 2, activations: "q8", ...options }),
    body: async (opened) => {
      outcome = await outcomeOf(golden, opened.evaluator);
      await body(opened);
    },
  });
  return outcome!;
}

/** The memories that plans run in. */
function banksOf(plans: readonly WasmPlan[]): Set<number> {
  return new Set(plans.flatMap(({ segments }) => segments.map(({ bank }) => bank.index)));
}

/** How many times a plan's words hold an op. */
function countOps({ segments }: WasmPlan, opcode: number): number {
  let count = 0;
  for (const { words } of segments) {
    for (let at = 0; at < words.length; at += words[at + 1]) {
      if (words[at] === opcode) count += 1;
    }
  }
  return count;
}

const CASES = goldens();

/** A case of the small ones that are always there. */
function golden(id: string): Golden {
  const found = CASES.find((candidate) => candidate.id === id);
  assert(found !== undefined, `there is no golden ${id}`);
  return found;
}

for (const [index, golden] of CASES.entries()) {
  Deno.test(`${golden.id} has the same bits in one memory and in several`, async () => {
    let weights = 0;
    const whole = await run(golden, {}, ({ backend }) => weights = backend.memory().weights);
    // Many small memories and few large ones in turn: most architectures are in several cases.
    const options = index % 2 === 0
      ? { bankBytes: 128 * KIB, banks: 12, threads: 2 }
      : { bankBytes: weights * 0.7, banks: 4, threads: 1 };
    const spread = await run(golden, options, ({ plans }) => {
      assertGreater(banksOf(plans).size, 1, "the model is in several memories");
    });
    assertSameOutcome(spread, whole);
  });
}

for (const activations of ["q16", "f32"] as const) {
  for (const id of ["models/deepseek_v3", "gguf/qwen3.q8_0"]) {
    Deno.test(`${id} with ${activations} activations has the same bits in one memory and in several`, async () => {
      const whole = await run(golden(id), { activations });
      const spread = await run(golden(id), { activations, bankBytes: 200 * KIB, banks: 8 });
      assertSameOutcome(spread, whole);
    });
  }
}

Deno.test("a layer's experts in several memories add up in the order of one", async () => {
  const { path } = golden("gguf/deepseek_v3.q8_0");
  const one = await run(golden("gguf/deepseek_v3.q8_0"), {});
  for (const threads of [1, 2]) {
    const options = { threads, bankBytes: 96 * KIB, banks: 16 };
    const spread = await run(golden("gguf/deepseek_v3.q8_0"), options, ({ plans, model }) => {
      const ops = countOps(plans[0], OPCODES.experts);
      assertGreater(ops, model.routedLayers.length, `experts ops of ${path}`);
    });
    assertSameOutcome(spread, one);
  }
});

Deno.test("threads that join late find the memory that a model in several is in", async () => {
  const one = await run(golden("models/deepseek_v3"), { threads: 1 });
  const options = { threads: 3, joinLate: true, bankBytes: 128 * KIB, banks: 12 };
  let joined = false;
  const late = await run(golden("models/deepseek_v3"), options, async ({ evaluator }) => {
    // By then at the latest; what they compute must be the same.
    await new Promise((resolve) => setTimeout(resolve, 500));
    assertSameOutcome(await outcomeOf(golden("models/deepseek_v3"), evaluator), one);
    joined = true;
  });
  assertSameOutcome(late, one);
  assert(joined);
});

Deno.test("with too few memories the last one takes what is left over", async () => {
  const id = "models/qwen2_tied";
  const whole = await run(golden(id), {});
  const spread = await run(golden(id), { bankBytes: 32 * KIB, banks: 2 }, ({ plans, backend }) => {
    assertEquals(banksOf(plans).size, 2);
    assertGreater(backend.memory().weights, 2 * 32 * KIB);
  });
  assertSameOutcome(spread, whole);
});

for (const banks of [1, 2]) {
  Deno.test(`a matrix that does not fit into ${banks} memories is refused before it is read`, async () => {
    const backend = await createWasmBackend({ threads: 1, activations: "q8", banks });
    try {
      const matrix = {
        name: "huge",
        type: "F32",
        rows: 2 ** 20,
        cols: 4096,
        read: () => Promise.reject(new Error("it has been read")),
      } as const;
      await assertRejects(
        () => backend.upload(matrix),
        CapacityError,
        `cannot allocate huge: ${2 ** 34} bytes are asked for`,
      );
    } finally {
      backend.close();
    }
  });
}

for (const banks of [0, 1.5, 513]) {
  Deno.test(`${banks} memories are refused`, async () => {
    await assertRejects(
      () => createWasmBackend({ threads: 1, activations: "q8", banks }),
      CapacityError,
      `cannot make memories: banks is ${banks}, must be 1 to 512`,
    );
  });
}
