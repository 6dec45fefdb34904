import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertMatch, assertNotMatch, assertThrows } from "@std/assert";
import { manifestProblems, type Variant, VARIANTS } from "../../tools/kernels_manifest.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const variants = Object.keys(VARIANTS) as Variant[];

const readWasm = (variant: Variant): Uint8Array<ArrayBuffer> =>
  new Uint8Array(readFileSync(join(ROOT, "wasm", variant, "sluice_kernels_bg.wasm")));

const compile = (variant: Variant): WebAssembly.Module => new WebAssembly.Module(readWasm(variant));

/** What the manifest check says of a copy of the tree once `damage` was done, but not before. */
function problemsAfter(damage: (copy: string) => void): string[] {
  const copy = mkdtempSync(join(tmpdir(), "sluice-manifest-"));
  try {
    for (const path of ["wasm", "kernels/src", "kernels/Cargo.toml", "kernels/Cargo.lock"]) {
      cpSync(join(ROOT, path), join(copy, path), { recursive: true });
    }
    const before = manifestProblems(copy);
    damage(copy);
    return manifestProblems(copy).filter((problem) => !before.includes(problem));
  } finally {
    rmSync(copy, { recursive: true });
  }
}

const append = (path: string): void => writeFileSync(path, "\n", { flag: "a" });

Deno.test("the committed wasm is what the committed kernels were built to", () => {
  assertEquals(manifestProblems(ROOT), []);
});

Deno.test("a kernel source that changed after the build is noticed", () => {
  for (const source of ["src/lib.rs", "Cargo.toml", "Cargo.lock"]) {
    const problems = problemsAfter((copy) => append(join(copy, "kernels", source)));
    assertEquals(problems.length, 1, source);
    assertMatch(problems[0], /run `deno task kernels`/);
  }
});

Deno.test("a kernel source that was added or renamed after the build is noticed", () => {
  const added = problemsAfter((copy) => writeFileSync(join(copy, "kernels/src/extra.rs"), ""));
  assertEquals(added.length, 1);
  const renamed = problemsAfter((copy) => {
    cpSync(join(copy, "kernels/src/lib.rs"), join(copy, "kernels/src/other.rs"));
    rmSync(join(copy, "kernels/src/lib.rs"));
  });
  assertEquals(renamed.length, 1);
});

Deno.test("a generated file that was edited, lost or left over is named", () => {
  const glue = "relaxed/sluice_kernels.js";
  const edited = problemsAfter((copy) => append(join(copy, "wasm", glue)));
  assertEquals(edited.length, 1);
  assertMatch(edited[0], /^wasm\/relaxed\/sluice_kernels\.js hashes to/);
  const lost = problemsAfter((copy) => rmSync(join(copy, "wasm", glue)));
  assertEquals(lost, [`wasm/${glue} is missing`]);
  const left = problemsAfter((copy) => writeFileSync(join(copy, "wasm/simd/package.json"), "{}"));
  assertEquals(left, ["wasm/simd/package.json is there, but no build generates it"]);
});

Deno.test("each wasm build says the CPU features that it was compiled with", () => {
  for (const variant of variants) {
    const [section] = WebAssembly.Module.customSections(compile(variant), "target_features");
    const features = new TextDecoder("latin1").decode(section);
    for (const feature of ["atomics", "bulk-memory", "simd128"]) {
      assertMatch(features, new RegExp(`\\+.${feature}`), `${variant}: ${feature}`);
    }
    assertEquals(/relaxed-simd/.test(features), variant === "relaxed", variant);
  }
});

Deno.test("both wasm builds run on an imported shared memory and refuse one that is not", () => {
  for (const variant of variants) {
    const module = compile(variant);
    const imported = WebAssembly.Module.imports(module);
    const memoryImports = imported.filter(({ kind }) => kind === "memory");
    assertEquals(memoryImports.length, 1, variant);
    const instantiate = (memory: WebAssembly.Memory) => {
      const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
      for (const { module: from, name, kind } of imported) {
        imports[from] ??= {};
        imports[from][name] = kind === "memory" ? memory : () => {};
      }
      return new WebAssembly.Instance(module, imports);
    };
    const shared = new WebAssembly.Memory({ initial: 256, maximum: 65_536, shared: true });
    assert(instantiate(shared).exports.__wbindgen_start instanceof Function, variant);
    const own = new WebAssembly.Memory({ initial: 256, maximum: 65_536 });
    assertThrows(() => instantiate(own), WebAssembly.LinkError, "shared");
  }
});

Deno.test("no path of the machine that built it is in the wasm", () => {
  for (const variant of variants) {
    const text = new TextDecoder("latin1").decode(readWasm(variant));
    assertNotMatch(text, /\/(?:home|root|work|tmp|Users|usr)\/[\w.-]+/, variant);
  }
});
