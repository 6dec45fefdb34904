import { assertEquals, assertThrows } from "@std/assert";
import { parsePeak } from "../../src/bench/driver_process.ts";
import { parseProcessCpu, parseSystemCpu } from "../../src/bench/machine.ts";
import { MARK, parseReady, parseTiming } from "../../src/bench/wire.ts";
import { FormatError } from "../../src/errors.ts";

const TIMING = {
  promptTokens: 128,
  prefillSeconds: 0.5,
  firstSeconds: 0.51,
  decodeTokens: 64,
  decodeSeconds: 1.25,
};

Deno.test("a driver's answers are read as Python and JavaScript write them", () => {
  const python = '@bench {"ready": {"loadSeconds": 0.25, "version": "llama-cpp-python 0.3.36"}}';
  assertEquals(parseReady(python), { loadSeconds: 0.25, version: "llama-cpp-python 0.3.36" });
  assertEquals(parseTiming(MARK + JSON.stringify({ timing: TIMING })), TIMING);
});

Deno.test("a driver that counts experts says how many, and need not", () => {
  const read = (timing: unknown) => parseTiming(MARK + JSON.stringify({ timing }));
  assertEquals(read({ ...TIMING, expertsRead: 27.5 }), { ...TIMING, expertsRead: 27.5 });
  for (const wrong of [-1, "27", null]) {
    assertThrows(() => read({ ...TIMING, expertsRead: wrong }), FormatError, "cannot read");
  }
});

Deno.test("an answer that is cut, of another kind, or has impossible numbers is refused", () => {
  const whole = MARK + JSON.stringify({ timing: TIMING });
  const lines = [
    "",
    whole.slice(MARK.length),
    whole.slice(0, -1),
    `${MARK}null`,
    `${MARK}[]`,
    `${MARK}{"timing": 3}`,
    `${MARK}{"ready": {"loadSeconds": 1, "version": "x"}}`,
  ];
  for (const [field, wrong] of [["decodeSeconds", -1], ["promptTokens", "128"]] as const) {
    lines.push(MARK + JSON.stringify({ timing: { ...TIMING, [field]: wrong } }));
  }
  for (const field of Object.keys(TIMING)) {
    lines.push(MARK + JSON.stringify({ timing: { ...TIMING, [field]: undefined } }));
  }
  for (const line of lines) {
    assertThrows(() => parseTiming(line), FormatError, "cannot read a driver's answer");
  }
  assertThrows(
    () => parseReady(`${MARK}{"ready": {"loadSeconds": 1}}`),
    FormatError,
    'must be @bench {"ready": {loadSeconds, version}}',
  );
});

Deno.test("peak memory is read from Linux's process status", () => {
  const status = "Name:\tdeno\nVmPeak:\t  900000 kB\nVmHWM:\t  231072 kB\nVmRSS:\t  200000 kB\n";
  assertEquals(parsePeak(status), 231072 * 1024);
  assertEquals(parsePeak("Name:\tdeno\n"), undefined);
});

Deno.test("processor time is read from Linux's tables, whatever a process is called", () => {
  const system = "cpu  100 20 30 9999 8888 4 5 6 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
  assertEquals(parseSystemCpu(system), 1.65);
  assertEquals(parseSystemCpu("intr 5\n"), undefined);
  const process = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
  assertEquals(parseProcessCpu(process), 3);
  assertEquals(parseProcessCpu("42"), undefined);
});
