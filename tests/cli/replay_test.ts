import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/replay.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import { replay, replayOracle } from "../../src/experts/replay.ts";
import { formatTrace } from "../../src/experts/trace.ts";
import { randomTrace } from "../experts/_traces.ts";
import { recordedIo } from "./_io.ts";

const TRACE = randomTrace({
  seed: 5,
  layers: 4,
  experts: 10,
  topK: 2,
  documents: 4,
  decodeSteps: 30,
  prefillRows: 6,
});

async function withTrace(test: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".jsonl" });
  try {
    await Deno.writeTextFile(path, formatTrace(TRACE));
    await test(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("replay --json gives each policy's counts and the oracle's, over all and by kind", async () => {
  await withTrace(async (path) => {
    const io = recordedIo();
    assertEquals(await main(["--trace", path, "--budget", "25%,50%", "--json"], io), 0);
    const report = JSON.parse(io.out());
    assertEquals([report.experts, report.documents], [40, 4]);
    // Three groups of documents, two budgets, three policies and the oracle.
    assertEquals(report.rows.length, 3 * 2 * 4);
    const row = (kind: string | null, policy: string, residents: number) =>
      report.rows.find((row: Record<string, unknown>) =>
        row.kind === kind && row.policy === policy && row.residents === residents
      );
    const lfu = replay(TRACE, { policy: "lfu", residents: 10 });
    assertEquals(row(null, "lfu", 10), {
      kind: null,
      budget: 0.25,
      residents: 10,
      policy: "lfu",
      ...lfu,
    });
    const odd = TRACE.documents.filter(({ kind }) => kind === "odd");
    const oracle = replayOracle({ ...TRACE, documents: odd }, { residents: 20 });
    assertEquals(row("odd", "oracle", 20).decode, oracle.decode);
    assertEquals(row("odd", "oracle", 20).prefill, oracle.prefill);
  });
});

Deno.test("replay prints a table of policies and budgets that is the same each time", async () => {
  await withTrace(async (path) => {
    const run = async (flags: readonly string[]) => {
      const io = recordedIo();
      await main(["--trace", path, ...flags], io);
      return io.out();
    };
    const table = await run([]);
    assertEquals(await run([]), table);
    for (const part of ["random: 40 experts", "10.0% (4)", "75.0% (30)", "even ", "odd "]) {
      assertStringIncludes(table, part);
    }
    const one = await run(["--policy", "least-stale", "--budget", "100%"]);
    assert(one.includes("least-stale") && one.includes("oracle") && !one.includes("lru"));
    assertStringIncludes(one, "100.0% (40)");
  });
});

Deno.test("replay refuses other policies, budgets and files", async () => {
  await withTrace(async (path) => {
    for (
      const [flag, value] of [
        ["--policy", "fifo"],
        ["--budget", "0%"],
        ["--budget", "101%"],
        ["--budget", "50"],
        ["--budget", "10%,"],
      ]
    ) {
      const args = ["--trace", path, flag, value];
      await assertRejects(() => main(args, recordedIo()), OptionError, flag);
    }
    await assertRejects(() => main([], recordedIo()), OptionError, "--trace is missing");
    const missing = ["--trace", `${path}.not`];
    await assertRejects(() => main(missing, recordedIo()), FormatError, "missing");
    await Deno.writeTextFile(path, "{}");
    await assertRejects(() => main(["--trace", path], recordedIo()), FormatError, "line 1");
  });
});
