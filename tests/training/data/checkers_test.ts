import { assert, assertEquals } from "@std/assert";
import { checkLine, checkLines } from "../../../src/training/data/checkers/claims.ts";
import { checkerOf, checkSolution } from "../../../src/training/data/checkers/mod.ts";
import { Draws } from "../../../src/training/data/draws.ts";
import { FAMILIES, problemAt } from "../../../src/training/data/families/mod.ts";
import { NOTATIONS, Working } from "../../../src/training/data/working.ts";

const ROOT = new URL("../../../src/training/data/", import.meta.url);

function isRight(family: string, prompt: string, text: string): boolean {
  return checkerOf(family)!.isRight(prompt, text);
}

/** Asserts each text's verdict and says which one was off. */
function verdicts(
  family: string,
  prompt: string,
  texts: { right: readonly string[]; wrong: readonly string[] },
): void {
  for (const text of texts.right) assert(isRight(family, prompt, text), `refused: ${text}`);
  for (const text of texts.wrong) assert(!isRight(family, prompt, text), `taken: ${text}`);
}

Deno.test("checkers import nothing of the generators", async () => {
  for await (const { name } of Deno.readDir(new URL("checkers/", ROOT))) {
    const source = await Deno.readTextFile(new URL(`checkers/${name}`, ROOT));
    const imports = [...source.matchAll(/from "([^"]+)"/g)].map((match) => match[1]);
    assertEquals(imports.filter((path) => !/^\.\/\w+\.ts$/.test(path)), [], name);
  }
});

Deno.test("a sum's answer is taken in the usual forms and not among guesses", () => {
  verdicts("addition", "What is 47 + 38?", {
    right: ["85", "85.", "47 + 38 = 85", "The answer is 85.", "\\boxed{85}", "It is 85, I think."],
    wrong: [
      "",
      "86",
      "85 or 86",
      "86, 85",
      "85 86",
      "maybe 85",
      "47 + 38 = 86",
      "47 + 38 = 85 = 86",
      "47 - 38 = 9, 85",
      "\\boxed{85} \\boxed{86}",
      "\\boxed{86} 85",
      "-85",
      "8 5",
      "0.85",
      "850",
      "47",
      `${"84 ".repeat(200)}85`,
    ],
  });
});

Deno.test("a negative difference needs its sign", () => {
  verdicts("subtraction", "What is 38 - 91?", {
    right: ["-53", "38 - 91 = -53.", "The answer is −53."],
    wrong: ["53", "38 - 91 = 53", "91 - 38 = 53"],
  });
});

Deno.test("a division with remainder needs both parts", () => {
  verdicts("division", "Divide 17 by 5 and give the remainder.", {
    right: ["3 remainder 2", "17 divided by 5 is 3 remainder 2.", "3, with remainder 2"],
    wrong: [
      "3",
      "2 remainder 3",
      "3 remainder 2, 3 remainder 1",
      "3 remainder 12",
      "3.4",
      "7 3 remainder 2",
    ],
  });
});

Deno.test("a comparison is judged by what it says is larger", () => {
  verdicts("comparison", "Which is larger, 9.11 or 9.9?", {
    right: ["9.9", "9.9 is larger.", "9.9 is larger than 9.11.", "9.9 > 9.11", "9.11 < 9.9"],
    wrong: [
      "9.11",
      "9.11 is larger than 9.9.",
      "9.11 > 9.9",
      "9.9 is smaller.",
      "9.9 or 9.11",
      "They are equal.",
    ],
  });
});

Deno.test("units must be those that were asked for", () => {
  verdicts("units", "How many centimeters are 3 m and 45 cm?", {
    right: ["345 cm", "3 m and 45 cm are 345 cm.", "345 centimeters"],
    wrong: ["345", "345 m", "3450 mm", "3 m and 45 cm", "345 cm and 1 cm", "345 cents"],
  });
});

Deno.test("times and durations are read as such", () => {
  verdicts("time", "It is 23:50. What time will it be in 20 minutes?", {
    right: ["00:10", "It will be 0:10.", "20 minutes after 23:50 it is 00:10."],
    wrong: ["24:10", "12:10", "00:10 00:20", "10", "23:30"],
  });
  verdicts("time", "How long is it from 09:40 to 12:15?", {
    right: ["2 hours and 35 minutes", "155 minutes"],
    wrong: ["2:35", "3 hours and 35 minutes", "2 hours", "35 minutes"],
  });
});

Deno.test("Countdown takes any expression that uses each number once", () => {
  verdicts("countdown", "Use 25, 3 and 4, each exactly once, with + - * / to make 88.", {
    right: ["(25 - 3) * 4 = 88", "(25 - 3) * 4", "4 × (25 − 3)", "\\boxed{(25-3)*4}"],
    wrong: [
      "88",
      "88 = 88",
      "25 * 4 - 12 = 88",
      "(25 - 3) * 4 * 4 / 4 = 88",
      "(25 - 3) * 4 = 89",
      "(25 - 3) * 4 + 0",
      "25 - 3 * 4 = 88",
      "((25 - 3) * 4",
      "(25 - 3) / 0 + 4",
      "(25 - 3) * 4 = 88 = 88 or so",
    ],
  });
});

Deno.test("ordering answers name one person and say of them what was asked", () => {
  const prompt = "Ana is taller than Tom. Eli is shorter than Tom.";
  verdicts("ordering", `${prompt} Who is the shortest?`, {
    right: ["Eli", "Eli is the shortest."],
    wrong: ["Ana", "Eli and Ana", "Not Eli", "Eli is the tallest.", "Zoe", "Elisa"],
  });
  verdicts("ordering", `${prompt} Is Ana taller than Eli?`, {
    right: ["Yes", "Yes, Ana is taller than Eli."],
    wrong: ["No", "Yes and no", "Yes, Eli is taller than Ana.", "Ana"],
  });
});

Deno.test("what can't be known must be said to be unknown", () => {
  verdicts("syllogism", "All wugs are blips. All dorns are blips. Are all wugs dorns?", {
    right: ["That can't be known.", "It cannot be known."],
    wrong: ["Yes.", "No.", "Yes, all wugs are dorns.", "Yes, or it can't be known"],
  });
  verdicts("syllogism", "All wugs are blips. No dorns are blips. Are all wugs dorns?", {
    right: ["No.", "No, no wugs are dorns."],
    wrong: ["Yes.", "That can't be known.", "No, all wugs are dorns."],
  });
});

Deno.test("string answers are compared letter by letter", () => {
  verdicts("strings", 'Spell "apple" backwards.', {
    right: ["elppa", '"apple" backwards is "elppa".', "\\boxed{elppa}"],
    wrong: ["apple", "e l p p a", '"elpa"', '"aaaaa" "elppa"', "elppa elpap"],
  });
  verdicts("strings", 'Count the letter "p" in the word "apple".', {
    right: ["2", 'The letter "p" occurs 2 times in "apple".'],
    wrong: ["1", "1 2", "two hundred"],
  });
  verdicts("strings", "Sort these words alphabetically: pear, fig, apple.", {
    right: ["apple, fig, pear", "In order: apple, fig, pear."],
    wrong: ["apple, fig", "fig, apple, pear", "apple, apple, fig, pear", "apple, fig, plum"],
  });
});

Deno.test("a claim is found in prose and worked out exactly", () => {
  assertEquals(checkLine("She sold 48/2 = 24 clips in May."), { right: 1, wrong: [] });
  assertEquals(checkLine("$1,250 + $50 = $1,300 in all"), { right: 1, wrong: [] });
  assertEquals(checkLine("~74 + ~83 = ~58"), { right: 1, wrong: [] });
  assertEquals(checkLine("~74 + ~83 = ~85").wrong, ["~74 + ~83 = ~85"]);
  assertEquals(checkLine("10 / 3 = 3.33"), { right: 1, wrong: [] });
  assertEquals(checkLine("10 / 3 = 3.34").wrong.length, 1);
  assertEquals(checkLine("2 + 2 = 4 = 5").right, 1);
  assertEquals(checkLine("2 + 2 = 4 = 5").wrong.length, 1);
  assertEquals(checkLine("5 / 0 = 5"), { right: 0, wrong: [] });
  assertEquals(checkLine("1 km = 100 m").wrong, ["1 km = 100 m"]);
  assertEquals(checkLine("nothing to see here"), { right: 0, wrong: [] });
});

Deno.test("an equation of which words are a part is passed over", () => {
  const none = { right: 0, wrong: [] };
  for (
    const line of [
      "30% of 50 = 15",
      "half of 50 = 25",
      "5 apples - 3 = 2",
      "12 = 3 times 4",
      "f(2) = 5",
      "5 * 20 = 1 hundred",
      "2^3 = 8",
      "n - 3 = 9",
    ]
  ) assertEquals(checkLine(line), none, line);
  assertEquals(checkLine("she earned 0.2 x 50 = $10"), { right: 1, wrong: [] });
  assertEquals(checkLine("she earned 0.2 x 50 = $11").wrong.length, 1);
  assertEquals(checkLine("it is .50-.25 = $0.25 more"), { right: 1, wrong: [] });
  assertEquals(checkLine("so 9.11 > 9.9").wrong.length, 1);
  assertEquals(checkLine("so 4 + 4 = 9!").wrong.length, 1);
  assertEquals(checkLine("-3 = 3").wrong.length, 1);
});

Deno.test("the days of a week are counted from the prompt's one", () => {
  const check = (prompt: string, line: string) => checkSolution("time", { prompt, lines: [line] });
  const future = "Today is Friday. What day will it be in 16 days?";
  assertEquals(check(future, "Friday 0, Saturday 1, Sunday 2"), { right: 1, wrong: [] });
  for (
    const line of ["Friday 0, Sunday 1", "Friday 0, Thursday 1", "Friday 1, Saturday 2", "Monday 0"]
  ) assertEquals(check(future, line), { right: 0, wrong: [line] });
  const past = "Today is Friday. What day was it 9 days ago?";
  assertEquals(check(past, "Friday 0, Thursday 1, Wednesday 2").right, 1);
  assertEquals(check(future, "Friday comes first"), { right: 0, wrong: [] });
});

Deno.test("a prompt with more classes than a syllogism has is answered by nothing", () => {
  const classes = Array.from({ length: 40 }, (_, i) => `c${i}`);
  const premises = classes.slice(1).map((name, i) => `All ${classes[i]} are ${name}.`).join(" ");
  const prompt = `${premises} Are all c0 c39?`;
  assertEquals(isRight("syllogism", prompt, "Yes."), false);
  assertEquals(checkSolution("syllogism", { prompt, lines: ["all c0 are c39"] }), {
    right: 0,
    wrong: [],
  });
});

Deno.test("hostile lines neither hang nor throw", () => {
  const lines = [
    "9".repeat(1500) + " = 1",
    "(".repeat(1000) + "1" + ")".repeat(1000) + " = 1",
    "9 * ".repeat(450) + "9 = 1",
    "-".repeat(1900) + "1 = 1",
    "1 = ".repeat(400),
    "tally : : :",
    "sort : ",
    "smallest of a: b: c",
    "=".repeat(1900),
  ];
  const started = performance.now();
  checkLines(lines);
  for (const family of FAMILIES) {
    for (const line of lines) {
      checkerOf(family.name)!.isRight(line, line);
      checkerOf(family.name)!.isRight("", line);
      checkSolution(family.name, { prompt: line, lines: [line] });
    }
  }
  assert(performance.now() - started < 20_000, "a line takes time out of proportion");
});

Deno.test("a digit changed anywhere in a calculation is noticed", () => {
  const draws = new Draws("changed digits");
  let noticed = 0;
  const trials = 3000;
  for (let i = 0; i < trials; i++) {
    const working = new Working(NOTATIONS[i % NOTATIONS.length]);
    const [a, b] = [draws.integer(10, 999), draws.integer(10, 999)];
    if (i % 3 === 0) working.add(a, b);
    else if (i % 3 === 1) working.subtract(a, b);
    else working.multiply(a, b % 90 + 10);
    const claims = working.lines.map((line) => line.replace(/^[^=]*: /, ""));
    const line = draws.integer(0, claims.length - 1);
    const digits = [...claims[line].matchAll(/\d/g)];
    const { index } = draws.pick(digits);
    const changed = String((Number(claims[line][index]) + draws.integer(1, 9)) % 10);
    claims[line] = claims[line].slice(0, index) + changed + claims[line].slice(index + 1);
    if (checkLines(claims).wrong.length > 0) noticed++;
  }
  assertEquals(noticed, trials);
});

Deno.test("a wrong step about people or classes is noticed", () => {
  const ordering = { prompt: "Ana is taller than Tom. Eli is shorter than Tom. Who is tallest?" };
  assertEquals(
    checkSolution("ordering", { ...ordering, lines: ["Ana > Tom; Tom > Eli", "Ana > Tom > Eli"] }),
    { right: 3, wrong: [] },
  );
  assertEquals(
    checkSolution("ordering", { ...ordering, lines: ["Eli > Ana"] }).wrong,
    ["Eli > Ana"],
  );
  const syllogism = { prompt: "All wugs are blips. No blips are dorns. Are all wugs dorns?" };
  assertEquals(
    checkSolution("syllogism", { ...syllogism, lines: ["so all wugs are dorns"] }).wrong,
    ["all wugs are dorns"],
  );
});

Deno.test("a number of the reply changed by one is refused in every family of numbers", () => {
  const numeric = [
    "addition",
    "subtraction",
    "multiplication",
    "expression",
    "units",
    "word_problem",
  ];
  for (const family of FAMILIES.filter(({ name }) => numeric.includes(name))) {
    for (let index = 0; index < 1000; index++) {
      const options = { seed: 5, index, levels: [1, family.levels], notation: "plain" } as const;
      const { prompt, reply, answer } = problemAt(family, options);
      const value = /-?\d+/.exec(answer)![0];
      const off = String(Number(value) + (index % 2 === 0 ? 1 : -1));
      const at = reply.lastIndexOf(value);
      const changed = reply.slice(0, at) + off + reply.slice(at + value.length);
      assert(!isRight(family.name, prompt, changed), `${prompt} <- ${changed}`);
    }
  }
});
