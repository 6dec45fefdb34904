import { assertEquals, assertThrows } from "@std/assert";
import { helpText, parseFlags } from "../../src/cli/flags.ts";
import { ENGINE_FLAGS } from "../../src/cli/engine_flags.ts";

import { OptionError } from "../../src/errors.ts";
import { type FAULT_KINDS, faultDue, parseFaults } from "../../src/faults.ts";

Deno.test("a fault is due at its time and no other, and kinds are counted apart", () => {
  const faults = parseFaults("worker:3, grow:1,worker:5");
  const due = (kind: typeof FAULT_KINDS[number], times: number) =>
    Array.from({ length: times }, () => faultDue(faults, kind));
  assertEquals(due("worker", 6), [false, false, true, false, true, false]);
  assertEquals(due("grow", 2), [true, false]);
  assertEquals(due("vanish", 2), [false, false]);
  assertEquals(faultDue(undefined, "worker"), false);
});

Deno.test("a message carries the counts along, so that a fault is met once in a process", () => {
  const faults = parseFaults("grow:2");
  const copy = structuredClone(faults);
  assertEquals([faultDue(faults, "grow"), faultDue(copy, "grow")], [false, true]);
  assertEquals([faultDue(copy, "grow"), faultDue(faults, "grow")], [false, false]);
});

Deno.test("a database can be made slow, or fail for good", () => {
  const { kvSlowMs, kvGone } = parseFaults("kv:slow:200");
  assertEquals([kvSlowMs, kvGone], [200, false]);
  const both = parseFaults("kv:gone,kv:2");
  assertEquals([both.kvSlowMs, both.kvGone, both.list], [0, true, [{ kind: "kv", at: 2 }]]);
});

Deno.test("a text that names no fault is refused, by the command line too", () => {
  for (
    const text of ["", "worker", "worker:", "worker:0", "worker:-1", "worker:1.5", "worker:1e3"]
      .concat(["disk:1", "worker:1,,grow:1", "worker:1 grow:2", "worker:1234567890", "toString:1"])
      .concat(["kv:slow", "kv:slow:", "kv:slow:0", "kv:gone:1", "worker:gone", "grow:slow:3"])
  ) {
    assertThrows(() => parseFaults(text), OptionError, "cannot inject faults: an entry is ");
    if (text === "") continue;
    assertThrows(
      () => parseFlags(ENGINE_FLAGS, { command: "start", args: [`--fault=${text}`], env: none }),
      OptionError,
      "cannot start: --fault is ",
    );
  }
});

Deno.test("SLUICE_FAULT is read, and --help does not speak of it", () => {
  const env = (name: string) => name === "SLUICE_FAULT" ? "kv:12" : undefined;
  const { values } = parseFlags(ENGINE_FLAGS, { command: "start", args: [], env });
  assertEquals(values.fault?.list, [{ kind: "kv", at: 12 }]);
  const help = helpText(ENGINE_FLAGS, { usage: "start", about: "Starts." });
  assertEquals([/model/.test(help), /--fault/.test(help)], [true, false]);
});

function none(): undefined {}
