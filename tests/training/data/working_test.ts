import { assertEquals } from "@std/assert";
import { Draws } from "../../../src/training/data/draws.ts";
import { type Notation, Working } from "../../../src/training/data/working.ts";

function lines(notation: Notation, work: (working: Working) => unknown): string[] {
  const working = new Working(notation);
  work(working);
  return working.lines;
}

Deno.test("the notations are those of the documentation", () => {
  const sum = (notation: Notation) => lines(notation, (working) => working.add(47, 38));
  assertEquals(sum("columns"), ["47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8; 47 + 38 = 85"]);
  assertEquals(sum("place"), ["47 + 38: 40 + 30 = 70; 7 + 8 = 15; 70 + 15 = 85; 47 + 38 = 85"]);
  assertEquals(sum("reversed"), ["~74 + ~83 = ~58"]);
  assertEquals(sum("plain"), ["47 + 38 = 85"]);
  const difference = (notation: Notation) => lines(notation, (working) => working.subtract(62, 38));
  assertEquals(difference("columns"), ["62 - 38: 12 - 8 = 4; 6 - 1 - 3 = 2; 62 - 38 = 24"]);
  assertEquals(difference("place"), ["62 - 38: 62 - 30 = 32; 32 - 8 = 24; 62 - 38 = 24"]);
  assertEquals(lines("columns", (working) => working.subtract(3, 5)), ["5 - 3 = 2", "3 - 5 = -2"]);
  assertEquals(lines("columns", (working) => working.divide(756, 7)), [
    "756 / 7: 7 = 7 * 1 + 0; 5 = 7 * 0 + 5; 56 = 7 * 8 + 0; 756 = 7 * 108 + 0; 756 / 7 = 108",
  ]);
});

/** The claims between the task and the whole. */
function columnsOf(line: string): { left: number[]; right: number }[] {
  return line.split(": ")[1].split("; ").slice(0, -1).map((claim) => {
    const [left, right] = claim.split(" = ");
    return { left: left.split(/ [+-] /).map(Number), right: Number(right) };
  });
}

Deno.test("columns give the result digit by digit, from the ones", () => {
  const draws = new Draws("columns");
  for (let i = 0; i < 3000; i++) {
    const [a, b] = [draws.integer(10, 99_999), draws.integer(0, 99_999)];
    const [sum] = lines("columns", (working) => working.add(a, b));
    const columns = columnsOf(sum);
    // What the last column makes is written whole, of the others the last digit.
    const digits = columns.map(({ right }, place) =>
      place === columns.length - 1 ? right : right % 10
    );
    assertEquals(Number(digits.reverse().join("")), a + b, sum);
    const [high, low] = [Math.max(a, b), Math.min(a, b)];
    const [difference] = lines("columns", (working) => working.subtract(high, low));
    const rest = columnsOf(difference).map(({ right }) => right);
    assertEquals(Number(rest.reverse().join("")), high - low, difference);
  }
});

Deno.test("a column holds the digits of its place, and the carry of the one before", () => {
  const draws = new Draws("carries");
  for (let i = 0; i < 2000; i++) {
    const [a, b] = [draws.integer(10, 9999), draws.integer(10, 9999)];
    const [line] = lines("columns", (working) => working.add(a, b));
    let carry = 0;
    for (const [place, { left, right }] of columnsOf(line).entries()) {
      const digit = (value: number) => Math.floor(value / 10 ** place) % 10;
      assertEquals(left, [digit(a), digit(b), ...(carry === 0 ? [] : [carry])], line);
      carry = Math.floor(right / 10);
    }
  }
});

Deno.test("every calculation gives its result, whatever the notation", () => {
  const draws = new Draws("results");
  for (const notation of ["columns", "place", "reversed", "plain"] as const) {
    const working = new Working(notation);
    for (let i = 0; i < 500; i++) {
      const [a, b] = [draws.integer(0, 9999), draws.integer(1, 999)];
      assertEquals(working.add(a, b), a + b);
      assertEquals(working.subtract(b, a), b - a);
      assertEquals(working.multiply(a, b), a * b);
      assertEquals(working.divide(a, b), { quotient: Math.floor(a / b), remainder: a % b });
    }
  }
});
