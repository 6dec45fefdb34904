import { assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { formatTrace, parseTrace, type Trace } from "../../src/experts/trace.ts";
import { randomTrace } from "./_traces.ts";

const TRACE: Trace = {
  model: { name: "a model", fingerprint: "f00d" },
  layers: [1, 3],
  experts: 8,
  topK: 2,
  documents: [{
    kind: "sums",
    steps: [
      { rows: 2, prefill: true, experts: [[0, 7, 3, 0], [1, 2, 2, 1]] },
      { rows: 1, prefill: false, experts: [[4, 5], [6, 7]], predicted: [[], [7, 1, 2]] },
    ],
  }, { kind: "empty", steps: [] }],
};

Deno.test("a trace is read as it was written", () => {
  assertEquals(parseTrace(formatTrace(TRACE), "t"), TRACE);
  const random = randomTrace({
    seed: 1,
    layers: 4,
    experts: 16,
    topK: 3,
    documents: 3,
    decodeSteps: 5,
    prefillRows: 9,
  });
  assertEquals(parseTrace(formatTrace(random), "t"), random);
});

/** Each has one thing changed in the text of TRACE, and words that the error must hold. */
const LIES: readonly (readonly [name: string, from: string, to: string, says: string])[] = [
  ["another format", "sluice-routing-trace", "other", '"format" is "other"'],
  ["a later version", '"version":1', '"version":2', '"version" is 2'],
  ["an unknown key", '"rows":2', '"row":2', 'key "row"'],
  ["a missing key", '"rows":1,', "", '"rows" is missing'],
  ["too few rows", '"rows":2', '"rows":1', '"experts" of layer 1 is 4 ids long, must be 2'],
  ["rows of another kind", '"rows":2', '"rows":"2"', '"rows" is "2"'],
  ["half a row", '"rows":1', '"rows":1.5', '"rows" is 1.5'],
  [
    "an expert that there is not",
    "[4,5]",
    "[4,8]",
    '"experts" of layer 1 is 8, must be from 0 to 7',
  ],
  ["a negative expert", "[4,5]", "[4,-1]", '"experts" of layer 1 is -1'],
  ["an expert twice", "[4,5]", "[4,4]", "row 0 is [4, 4], must be distinct ids"],
  ["a layer too few", "[[4,5],[6,7]]", "[[4,5]]", '"experts" is a list of 1, must be 2 lists'],
  ["no lists", "[[4,5],[6,7]]", "[4,5]", '"experts" of layer 1 is 4'],
  ["a foreseen expert that there is not", "[7,1,2]", "[7,1,8]", '"predicted" of layer 3 is 8'],
  ["layers out of order", "[1,3]", "[3,1]", '"layers" is [3,1]'],
  ["no layers", '"layers":[1,3]', '"layers":[]', '"layers" is []'],
  ["more chosen than there are", '"topK":2', '"topK":9', '"topK" is 9'],
  ["a prefill of another kind", '"prefill":true', '"prefill":1', '"prefill" is 1'],
  ["a step before a document", '{"kind":"sums"}\n', "", "a step without a document"],
  ["an empty kind", '{"kind":"sums"}', '{"kind":""}', '"kind" is ""'],
  ["a model without a name", '"name":"a model",', "", '"model.name" is missing'],
  ["an empty line", '{"kind":"sums"}\n', '{"kind":"sums"}\n\n', "line 3"],
  ["a line that is cut", '"prefill":true', '"prefill":tr', "line 3"],
];

for (const [name, from, to, says] of LIES) {
  Deno.test(`a trace with ${name} is refused by name`, () => {
    const text = formatTrace(TRACE);
    const changed = text.replace(from, to);
    if (changed === text) throw new Error("nothing was changed");
    assertThrows(() => parseTrace(changed, "t.jsonl"), FormatError, says);
  });
}

Deno.test("an empty trace is refused", () => {
  assertThrows(() => parseTrace("", "t"), FormatError, "line 1");
});
