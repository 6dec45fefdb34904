import { assertEquals } from "@std/assert";
import { formatGiga, formatSummary, summarize, threeDigits } from "../../src/bench/statistics.ts";

Deno.test("a summary has the median of odd and even counts, the range, and leaves its input alone", () => {
  const values = [5, 1, 9];
  assertEquals(summarize(values), { median: 5, min: 1, max: 9, runs: 3 });
  assertEquals(values, [5, 1, 9]);
  assertEquals(summarize([10, 2, 4, 100]), { median: 7, min: 2, max: 100, runs: 4 });
  assertEquals(summarize([3]), { median: 3, min: 3, max: 3, runs: 1 });
  assertEquals(summarize([]), undefined);
});

Deno.test("figures have three digits, never an exponent", () => {
  const cases = [[1234.5, "1235"], [193.4, "193"], [24.84, "24.8"], [0.6123, "0.612"]] as const;
  for (const [value, text] of cases) assertEquals(threeDigits(value), text);
  assertEquals(threeDigits(0), "0.00");
  assertEquals(threeDigits(0.00012345), "0.000123");
});

Deno.test("a summary of one run shows no range and a missing one a dash", () => {
  assertEquals(formatSummary(summarize([8, 10, 9])), "9.00 (8.00-10.0)");
  assertEquals(formatSummary(summarize([0.5])), "0.500");
  assertEquals(formatSummary(undefined), "-");
});

Deno.test("rates are shown in thousands of millions, with their range", () => {
  assertEquals(formatGiga(summarize([8e9, 10e9, 9e9])), "9.00 (8.00-10.0)");
  assertEquals(formatGiga(undefined), "-");
});
