/**
 * What `wasm/` was built from: the flags of both builds, the hash over the crate's sources and the
 * hashes of the generated files, kept in `wasm/manifest.json`. The builder writes it, a test
 * compares it with the tree, so that a forgotten rebuild or an edited generated file fails.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The two builds, as the folder's name under `wasm/` and the CPU features beyond threads. */
export const VARIANTS = Object.freeze({
  relaxed: Object.freeze(["simd128", "relaxed-simd"]),
  simd: Object.freeze(["simd128"]),
});

export type Variant = keyof typeof VARIANTS;

/** The generated files of one build that are committed; wasm-pack's other files are npm's. */
export const GENERATED_FILES = Object.freeze([
  "sluice_kernels.d.ts",
  "sluice_kernels.js",
  "sluice_kernels_bg.wasm",
  "sluice_kernels_bg.wasm.d.ts",
]);

/** Bytes of the largest shared memory that the modules accept: all that 32 bits address. */
const MAX_MEMORY_BYTES = 65_536 * 65_536;

/**
 * The rustc flags of one build that decide what it computes. Paths of the machine, which must not,
 * are the builder's business.
 */
export function rustFlags(variant: Variant): string[] {
  const features = [...VARIANTS[variant], "atomics", "bulk-memory", "mutable-globals"];
  const linkArguments = [
    "--shared-memory",
    "--import-memory",
    `--max-memory=${MAX_MEMORY_BYTES}`,
    // The generated glue places each thread's stack and thread-local storage by these.
    "--export=__wasm_init_tls",
    "--export=__tls_size",
    "--export=__tls_align",
    "--export=__tls_base",
  ];
  return [
    "-C",
    `target-feature=${features.map((feature) => `+${feature}`).join(",")}`,
    ...linkArguments.flatMap((argument) => ["-C", `link-arg=${argument}`]),
  ];
}

export interface Manifest {
  /** What each program of the build answers to `--version`. */
  toolchain: { rustc: string; linker: string; wasmPack: string; wasmBindgen: string };
  /** Sha256 over the crate's sources and the flags, as {@linkcode hashSources} computes it. */
  sources: string;
  /** Sha256 of each generated file, by its path below `wasm/`. */
  files: Record<string, string>;
}

export const sha256 = (bytes: Uint8Array): string =>
  createHash("sha256").update(bytes).digest("hex");

/** Every generated file's path below `wasm/`. */
export function generatedPaths(): string[] {
  return Object.keys(VARIANTS).flatMap((variant) =>
    GENERATED_FILES.map((name) => `${variant}/${name}`)
  );
}

/**
 * Sha256 over the crate in `<root>/kernels`: Cargo.toml, Cargo.lock and everything in src, each as
 * path, length and contents in the order of the paths, then the flags of every build.
 */
export function hashSources(root: string): string {
  const kernels = join(root, "kernels");
  const sources = readdirSync(join(kernels, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(kernels.length + 1))
    .map((path) => path.replaceAll("\\", "/"));
  const hash = createHash("sha256");
  for (const path of ["Cargo.toml", "Cargo.lock", ...sources].sort()) {
    const contents = readFileSync(join(kernels, path));
    hash.update(`${path}\n${contents.length}\n`).update(contents);
  }
  for (const variant of Object.keys(VARIANTS) as Variant[]) {
    hash.update(`${variant}\n${rustFlags(variant).join("\n")}\n`);
  }
  return hash.digest("hex");
}

/** Reads `<root>/wasm/manifest.json`. */
export function readManifest(root: string): Manifest {
  return JSON.parse(readFileSync(join(root, "wasm", "manifest.json"), "utf8"));
}

/**
 * Says, a sentence each, in what `<root>/wasm` differs from its manifest or the manifest from
 * `<root>/kernels`; empty when all is as built.
 */
export function manifestProblems(root: string): string[] {
  const manifest = readManifest(root);
  const problems: string[] = [];
  const sources = hashSources(root);
  if (sources !== manifest.sources) {
    problems.push(
      `kernels/ hashes to ${sources}, wasm/ was built from ${manifest.sources}: ` +
        "run `deno task kernels` and commit wasm/",
    );
  }
  const present = readdirSync(join(root, "wasm"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(root, "wasm").length + 1))
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path !== "manifest.json");
  const expected = generatedPaths();
  for (const path of new Set([...present, ...expected, ...Object.keys(manifest.files)])) {
    if (!expected.includes(path)) {
      problems.push(`wasm/${path} is there, but no build generates it`);
    } else if (!present.includes(path)) {
      problems.push(`wasm/${path} is missing`);
    } else {
      const hash = sha256(readFileSync(join(root, "wasm", path)));
      if (hash !== manifest.files[path]) {
        problems.push(`wasm/${path} hashes to ${hash}, must be ${manifest.files[path]}`);
      }
    }
  }
  return problems;
}
