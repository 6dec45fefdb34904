import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  choiceFlag,
  helpText,
  integerFlag,
  listFlag,
  numberFlag,
  parseFlags,
  switchFlag,
  textFlag,
} from "../../src/cli/flags.ts";
import { OptionError } from "../../src/errors.ts";

const TABLE = {
  model: textFlag({ help: "the model", placeholder: "PATH" }),
  port: integerFlag({ help: "the port", min: 0, max: 65535, fallback: 8000 }),
  context: integerFlag({ help: "tokens", min: 1, max: 100, fallback: undefined }),
  temperature: numberFlag({ help: "randomness", min: 0, max: 2, fallback: 0.5 }),
  backend: choiceFlag({ help: "what computes", words: ["wasm", "reference"], fallback: "wasm" }),
  "allowed-hosts": listFlag({
    help: "names",
    placeholder: "A,B",
    must: "host names separated by commas",
    accepts: (word) => /^[a-z.]+$/.test(word),
  }),
  json: switchFlag({ help: "machine-readable" }),
};

function parse(args: string[], env: Record<string, string> = {}, maxPositionals = 0) {
  return parseFlags(TABLE, { command: "start", args, env: (name) => env[name], maxPositionals });
}

function refusal(args: string[], env: Record<string, string> = {}): string {
  return assertThrows(() => parse(args, env), OptionError).message;
}

Deno.test("flags have their defaults where nothing is given", () => {
  assertEquals(parse([]).values, {
    model: undefined,
    port: 8000,
    context: undefined,
    temperature: 0.5,
    backend: "wasm",
    "allowed-hosts": [],
    json: false,
  });
});

Deno.test("a flag takes its value from the next word or after an equals sign", () => {
  const { values } = parse(["--model", "a.gguf", "--port=0", "--temperature", "1.25", "--json"]);
  assertEquals([values.model, values.port, values.temperature, values.json], [
    "a.gguf",
    0,
    1.25,
    true,
  ]);
});

Deno.test("an environment variable is a flag's twin and the flag wins", () => {
  const env = { SLUICE_PORT: "1", SLUICE_ALLOWED_HOSTS: "a.b, c.d", SLUICE_JSON: "1" };
  const { values } = parse(["--port", "2"], env);
  assertEquals(values.port, 2);
  assertEquals(values["allowed-hosts"], ["a.b", "c.d"]);
  assertEquals(values.json, true);
});

Deno.test("an empty environment variable counts as unset", () => {
  assertEquals(parse([], { SLUICE_PORT: "" }).values.port, 8000);
});

Deno.test("a refusal names the flag or the variable, what was given and what is right", () => {
  assertEquals(
    refusal(["--port", "80000"]),
    'cannot start: --port is "80000", must be a whole number from 0 to 65535',
  );
  assertEquals(
    refusal([], { SLUICE_PORT: "eighty" }),
    'cannot start: SLUICE_PORT is "eighty", must be a whole number from 0 to 65535',
  );
  assertEquals(
    refusal(["--backend", "cuda"]),
    'cannot start: --backend is "cuda", must be one of wasm, reference',
  );
  assertStringIncludes(refusal(["--allowed-hosts", "a,,b"]), "host names separated by commas");
  assertStringIncludes(refusal(["--json=perhaps"]), "must be true, false, 1 or 0");
});

Deno.test("numbers are decimal and finite, nothing else", () => {
  for (const given of ["", " 1", "1e3", "0x10", "Infinity", "NaN", "1.5", "99999999999999999999"]) {
    assertStringIncludes(refusal([`--port=${given}`]), "--port is");
  }
  for (const given of ["1e-1", "-0.1", "2.1", ".5", "1.", "Infinity"]) {
    assertStringIncludes(refusal([`--temperature=${given}`]), "--temperature is");
  }
});

Deno.test("unknown, repeated and incomplete flags are refused", () => {
  assertStringIncludes(refusal(["--modell", "a"]), 'there is no flag "--modell"');
  assertStringIncludes(refusal(["-m", "a"]), 'there is no flag "-m"');
  assertStringIncludes(refusal(["--constructor", "a"]), "there is no flag");
  assertStringIncludes(refusal(["--port", "1", "--port", "2"]), "--port is given twice");
  assertStringIncludes(refusal(["--port"]), "--port has no value");
});

Deno.test("words without a flag are refused where the command takes none", () => {
  assertStringIncludes(refusal(["a.gguf"]), '"a.gguf" belongs to no flag');
  assertEquals(parse(["a.gguf", "--json"], {}, 1).positionals, ["a.gguf"]);
});

Deno.test("help is asked for whatever else is wrong", () => {
  assertEquals(parse(["--port", "x", "--help"]).help, true);
  assertEquals(parse(["-h"]).help, true);
  assertEquals(parse([]).help, false);
});

Deno.test("the help text lists every flag with its default", () => {
  const text = helpText(TABLE, { usage: "start [flags]", about: "Serves a model." });
  for (const name of Object.keys(TABLE)) assertStringIncludes(text, `--${name}`);
  assertStringIncludes(text, "the port (default 8000)");
});
