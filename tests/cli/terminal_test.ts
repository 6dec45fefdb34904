import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { linesOf } from "../../src/cli/lines.ts";
import { modelIdOf } from "../../src/cli/model_path.ts";
import {
  errorLine,
  formatBytes,
  formatCount,
  printable,
  progressBar,
  write,
} from "../../src/cli/terminal.ts";
import { writeNotices } from "../../src/cli/notices.ts";
import { ExpertReadError, FormatError } from "../../src/errors.ts";
import { recordedIo } from "./_io.ts";

async function lines(...chunks: (string | Uint8Array)[]): Promise<string[]> {
  const encoder = new TextEncoder();
  const bytes = chunks.map((chunk) => typeof chunk === "string" ? encoder.encode(chunk) : chunk);
  return await Array.fromAsync(linesOf(ReadableStream.from(bytes)));
}

Deno.test("lines are split at line ends, wherever the chunks are cut", async () => {
  assertEquals(await lines("a\nb", "c\r", "\n\nlast"), ["a", "bc", "", "last"]);
  assertEquals(await lines("a\n"), ["a"]);
  assertEquals(await lines(), []);
  assertEquals(await lines(new Uint8Array([0xc3]), new Uint8Array([0xa9, 10])), ["é"]);
});

Deno.test("a line without end is cut instead of kept forever", async () => {
  const [first, ...rest] = await lines("a".repeat(1 << 20), "bc", "\nd");
  assertEquals(first.length, (1 << 20) + 2);
  assertEquals(rest, ["", "d"]);
});

Deno.test("sizes and counts are short and in the usual units", () => {
  assertEquals([0, 999, 1000, 98_362_432, 2.5e9].map(formatBytes), [
    "0 B",
    "999 B",
    "1.0 kB",
    "98.4 MB",
    "2.5 GB",
  ]);
  assertEquals([12, 1234, 134_515_008, 6.7e11].map(formatCount), [
    "12",
    "1.2k",
    "134.5M",
    "670.0B",
  ]);
});

Deno.test("control characters from models and files cannot steer the terminal", () => {
  assertEquals(printable("a\tb\nc"), "a\tb\nc");
  assertEquals(printable("\x1b[2Jx\r\x07\x9b"), "\ufffd[2Jx\ufffd\ufffd\ufffd");
});

Deno.test("what loading had to say is a line each, conversions first", () => {
  const io = recordedIo();
  writeNotices(io.stderr, { conversions: ["Q8_1 -> Q8_0"], warnings: ["no groups\x1b"] });
  assertEquals(io.err(), "Q8_1 -> Q8_0\nno groups\ufffd\n");
  writeNotices(io.stdout, { conversions: [], warnings: [] });
  assertEquals(io.out(), "");
});

Deno.test("expected errors are their message, faults keep their class, neither has a stack", () => {
  assertEquals(errorLine(new FormatError("cannot open: \x1b")), "cannot open: \ufffd");
  assertEquals(errorLine(new ExpertReadError("cannot read")), "cannot read");
  assertEquals(errorLine(new TypeError("oops")), "TypeError: oops");
  assertEquals(errorLine("text"), "text");
});

Deno.test("the progress bar is drawn on terminals only, and cleared", () => {
  const quiet = recordedIo();
  progressBar(quiet.stderr, "Loading").onProgress({ loadedBytes: 1, totalBytes: 2 });
  assertEquals(quiet.err(), "");
  const io = recordedIo({ isTerminal: true });
  const bar = progressBar(io.stderr, "Loading");
  bar.onProgress({ loadedBytes: 50_000_000, totalBytes: 100_000_000 });
  assertStringIncludes(io.err(), "50 % 50.0 MB of 100 MB");
  bar.onProgress({ loadedBytes: 100_000_000, totalBytes: 100_000_000 });
  assertStringIncludes(io.err(), "100 %");
  bar.onProgress({ loadedBytes: 0, totalBytes: 0 });
  bar.clear();
  assert(io.err().endsWith("\r\x1b[K"));
});

Deno.test("text is written whole where the terminal takes it in parts", () => {
  let got = "";
  write({
    writeSync(bytes) {
      const part = bytes.subarray(0, 3);
      got += new TextDecoder().decode(part);
      return part.length;
    },
  }, "abcdefgh");
  assertEquals(got, "abcdefgh");
});

Deno.test("a model is served under its file's name", () => {
  assertEquals(modelIdOf("/a/b/Model-1.5B.Q4_1.gguf"), "Model-1.5B.Q4_1");
  assertEquals(modelIdOf("models/folder/"), "folder");
  assertEquals(modelIdOf("C:\\m\\x.safetensors"), "x");
  assertEquals(modelIdOf("/"), "model");
  assertEquals(
    modelIdOf("https://user:secret@host/a/My%20model.Q8_0.gguf?token=1"),
    "My model.Q8_0",
  );
  assertEquals(modelIdOf("https://host/owner/folder/"), "folder");
  assertEquals(modelIdOf("https://host"), "host");
  assertEquals(modelIdOf("https://user:secret@:1"), "model");
});
