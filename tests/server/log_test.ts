import { assert, assertEquals } from "@std/assert";
import { logLine } from "../../src/server/log.ts";

const time = new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 6));

Deno.test("an entry is a line of words or of JSON, absent fields left out, numbers rounded", () => {
  const entry = {
    level: "info",
    event: "request",
    route: "/v1/models/:id{.+}",
    note: 'says "hi" = x',
    ms: 1.23456,
    left: true,
    key: undefined,
  } as const;
  assertEquals(
    logLine(entry, { format: "text", time }),
    "time=2026-01-02T03:04:05.006Z level=info event=request route=/v1/models/:id{.+} " +
      'note="says \\"hi\\" = x" ms=1.235 left=true',
  );
  assertEquals(JSON.parse(logLine(entry, { format: "json", time })), {
    time: "2026-01-02T03:04:05.006Z",
    level: "info",
    event: "request",
    route: "/v1/models/:id{.+}",
    note: 'says "hi" = x',
    ms: 1.235,
    left: true,
  });
});

Deno.test("no character of a value can end a line, begin a field or steer a terminal", () => {
  for (let code = 0; code <= 0xffff; code++) {
    const char = String.fromCharCode(code);
    const entry = { level: "info", event: "request", id: `a${char} level=error` } as const;
    const text = logLine(entry, { format: "text", time });
    const json = logLine(entry, { format: "json", time });
    for (const line of [text, json]) {
      // deno-lint-ignore no-control-regex
      const bad = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/;
      assert(!bad.test(line), `U+${code.toString(16)}: ${line}`);
    }
    assertEquals(text.replace(/"(\\.|[^"\\])*"/g, "").match(/level=/g)?.length, 1);
    assertEquals(JSON.parse(json).id, entry.id);
  }
});
