import { assert, assertEquals } from "@std/assert";
import { Ceilings } from "../../src/bench/ceilings.ts";
import { BYTES_PER_TURN, instantiateProbe, probeModule } from "../../src/bench/probe_module.ts";

Deno.test("the probe reads every byte it is told to and no other", async () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const probe = await instantiateProbe(memory);
  const bytes = new Uint8Array(memory.buffer);
  // The result is the OR of the first 32-bit word of every 16 bytes.
  for (let at = 0; at < 4 * BYTES_PER_TURN; at += 16) {
    bytes[at] = 1;
    const inside = at < 3 * BYTES_PER_TURN;
    assertEquals(probe.read(3 * BYTES_PER_TURN), inside ? 1 : 0, `byte ${at}`);
    bytes[at] = 0;
  }
});

Deno.test("the probe multiplies as often as it is told to", async () => {
  const probe = await instantiateProbe(new WebAssembly.Memory({ initial: 1 }));
  if (probe.dot === undefined) {
    assert(!WebAssembly.validate(probeModule({ relaxed: true })));
    return;
  }
  // Factors 77 and 77 ^ 5 = 72 in turn, times 5; a lane adds four products in 12 accumulators.
  const sum = (turns: number) => {
    let total = 0;
    for (let i = 0; i < turns; i++) total += 4 * 5 * (i % 2 === 0 ? 77 : 72) * 12;
    return total;
  };
  for (const turns of [1, 2, 7]) assertEquals(probe.dot(turns), sum(turns));
});

Deno.test("ceilings are positive rates of one thread and of two", async () => {
  for (const threads of [1, 2]) {
    const ceilings = await Ceilings.open({ threads, milliseconds: 5, memoryBytes: 1 << 20 });
    try {
      const bandwidth = await ceilings.bandwidth();
      assert(Number.isFinite(bandwidth) && bandwidth > 1e6, `${bandwidth} bytes a second`);
      const rate = await ceilings.multiplyAdds();
      const relaxed = WebAssembly.validate(probeModule({ relaxed: true }));
      assert(relaxed ? rate !== undefined && rate > 1e6 : rate === undefined, `${rate}`);
    } finally {
      ceilings.close();
    }
  }
});
