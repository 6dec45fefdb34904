/**
 * `deno task test [FLAG...]`: all tests, in two parts. First those that only compute, as many files at
 * once as there are cores (`DENO_JOBS` says otherwise); then, one file after the other, those that watch
 * the clock, measure, or start servers and databases. The flags, such as `--filter`, go to `deno test`.
 * Ends with one line that counts both parts, and with 1 where either failed.
 */

const PERMISSIONS = [
  "--allow-read",
  "--allow-write",
  "--allow-net=127.0.0.1",
  "--allow-env",
  "--allow-sys",
  "--allow-run",
];

/** Tests whose outcome is the same however busy the machine is, and that share nothing. */
const SIDE_BY_SIDE = [
  "tests/backend",
  "tests/convert",
  "tests/eval",
  "tests/formats/fuzz_test.ts",
  "tests/model",
  "tests/quant",
  "tests/sampling",
  "tests/text",
  "tests/training/data",
  "tests/training/grpo",
  "tests/training/run",
  "tests/training/reward/families_test.ts",
  "tests/training/precision_test.ts",
  "tests/training/reference_test.ts",
  "tests/training/trainer_test.ts",
  "tests/training/wasm_test.ts",
  "tests/engine/determinism_test.ts",
  "tests/engine/prefix_cache_test.ts",
  "tests/engine/scheduler_random_test.ts",
  "tests/cli/inspect_test.ts",
  "tests/cli/logits_test.ts",
  "tests/cli/repack_test.ts",
  "tests/cli/trace_test.ts",
];

const PARTS = [
  ["--parallel", ...SIDE_BY_SIDE],
  [`--ignore=${SIDE_BY_SIDE.join()}`, "tests/"],
];

/** The words of `deno test`'s last line that are counted, in its order. */
const COUNTED = ["passed", "steps", "failed", "ignored"] as const;
type Counts = Record<typeof COUNTED[number], number>;

/** Runs one part, shows its output, and adds what its last line counts; says whether it was right. */
async function run(part: readonly string[], counts: Counts): Promise<boolean> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", ...PERMISSIONS, ...Deno.args, ...part],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of child.stdout) {
    await writeAll(bytes);
    text = (text + decoder.decode(bytes, { stream: true })).slice(-2000);
  }
  const summary = /^(?:ok|FAILED) \| (.*) \(.*?\)$/m.exec(plain(text))?.[1] ?? "";
  for (const [, number, word] of summary.matchAll(/(\d+) (\w+)/g)) {
    if (isCounted(word)) counts[word] += Number(number);
  }
  return (await child.status).success;
}

function isCounted(word: string): word is keyof Counts {
  return (COUNTED as readonly string[]).includes(word);
}

async function writeAll(bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += await Deno.stdout.write(bytes.subarray(done));
  }
}

/** Without colours. */
function plain(text: string): string {
  // deno-lint-ignore no-control-regex -- they are what a colour begins with
  return text.replace(/\u001b\[[\d;]*m/g, "");
}

const start = performance.now();
const counts: Counts = { passed: 0, steps: 0, failed: 0, ignored: 0 };
const rights: boolean[] = [];
for (const part of PARTS) rights.push(await run(part, counts));
const isRight = rights.every(Boolean);
const { passed, steps, failed, ignored } = counts;
const seconds = Math.round((performance.now() - start) / 1000);
console.log(
  `\nBoth parts:\n\n${isRight ? "ok" : "FAILED"} | ${passed} passed (${steps} steps) | ` +
    `${failed} failed | ${ignored} ignored (${seconds}s)`,
);
Deno.exit(isRight ? 0 : 1);
