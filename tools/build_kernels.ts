/**
 * `deno task kernels`: compiles the crate in `kernels/` twice, through wasm-pack, into
 * `wasm/relaxed/` (simd128 and relaxed-simd) and `wasm/simd/` (simd128 alone), both over one
 * imported shared memory, and writes `wasm/manifest.json`. With `--check` it builds elsewhere and
 * compares: exit 0 when every byte is the committed one, 1 when not, 3 when this machine has not
 * the toolchain that built the committed files and so cannot tell.
 *
 * Threads need a standard library compiled with atomics, which nobody ships, so std is built from
 * its sources. Two toolchains bring those: Debian's `rustc-web cargo-web rust-web-src` and rustup's
 * nightly with `rust-src`. Nobody needs either to run or test sluice: the result is committed.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  GENERATED_FILES,
  generatedPaths,
  hashSources,
  type Manifest,
  manifestProblems,
  readManifest,
  rustFlags,
  sha256,
  type Variant,
  VARIANTS,
} from "./kernels_manifest.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const CANNOT_TELL = 3;

interface Toolchain {
  cargo: string;
  rustc: string;
  sysroot: string;
  /** LLVM's linker in its WebAssembly flavour. */
  linker: string;
}

interface Output {
  ok: boolean;
  text: string;
}

function run(program: string, args: string[], env: Record<string, string> = {}): Promise<Output> {
  const decoder = new TextDecoder();
  return new Deno.Command(program, { args, env, stdin: "null", stdout: "piped", stderr: "piped" })
    .output()
    .then(
      ({ success, stdout, stderr }) => ({
        ok: success,
        text: (decoder.decode(stdout) + decoder.decode(stderr)).trim(),
      }),
      (error) => ({ ok: false, text: String(error) }),
    );
}

const cargoHome = (): string =>
  Deno.env.get("CARGO_HOME") ?? join(Deno.env.get("HOME") ?? "/", ".cargo");

const searchPath = (first: string): string =>
  [first, Deno.env.get("PATH") ?? "", join(cargoHome(), "bin")].join(":");

const standardLibrary = (sysroot: string): string =>
  join(sysroot, "lib", "rustlib", "src", "rust", "library");

/** The sysroot of one of rustup's toolchains, or undefined where it isn't installed. */
async function rustupSysroot(name: string): Promise<string | undefined> {
  const rustc = await run("rustup", ["which", "--toolchain", name, "rustc"]);
  return rustc.ok ? dirname(dirname(rustc.text)) : undefined;
}

/** The linker that comes with each of rustup's toolchains. */
const bundledLinker = (sysroot: string): string =>
  join(sysroot, "lib", "rustlib", `${Deno.build.arch}-unknown-linux-gnu`, "bin", "rust-lld");

/** A toolchain whose standard library can be compiled here, or what is missing, a line each. */
async function findToolchain(): Promise<Toolchain | string[]> {
  const missing: string[] = [];
  const debian = { cargo: "/usr/bin/cargo", rustc: "/usr/bin/rustc", sysroot: "/usr" };
  if (existsSync(debian.cargo) && existsSync(debian.rustc)) {
    // Debian's rustc comes without a linker: its /usr/bin/rust-lld dangles until lld is installed.
    const stable = await rustupSysroot("stable");
    const linkers = [...(stable === undefined ? [] : [bundledLinker(stable)]), "/usr/bin/rust-lld"];
    const linker = linkers.find((path) => existsSync(path));
    const hasSources = existsSync(join(standardLibrary("/usr"), "Cargo.lock"));
    if (hasSources && linker !== undefined) return { ...debian, linker };
    if (!hasSources) missing.push("/usr/bin/rustc has no sources: apt-get install rust-web-src");
    if (linker === undefined) missing.push("no rust-lld: install rustup's stable toolchain or lld");
  } else {
    missing.push("no Debian Rust: apt-get install rustc-web cargo-web rust-web-src");
  }
  const sysroot = await rustupSysroot("nightly");
  if (sysroot === undefined) {
    missing.push("no rustup nightly: rustup toolchain install nightly --component rust-src");
    return missing;
  }
  if (!existsSync(join(standardLibrary(sysroot), "Cargo.lock"))) {
    missing.push("rustup's nightly is there without rust-src: rustup component add rust-src");
    return missing;
  }
  return {
    cargo: join(sysroot, "bin", "cargo"),
    rustc: join(sysroot, "bin", "rustc"),
    sysroot,
    linker: bundledLinker(sysroot),
  };
}

/**
 * A folder for the front of PATH in which `cargo` and `rustc` are the toolchain's. wasm-pack asks
 * rustc for the target's libdir and refuses when that folder doesn't exist; as std is built from
 * source it never will, so that one question is answered with the folder itself.
 */
function writeShims(toolchain: Toolchain, folder: string): void {
  mkdirSync(folder, { recursive: true });
  const script = (name: string, body: string): void => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  script("cargo", `exec '${toolchain.cargo}' "$@"`);
  script(
    "rustc",
    `case "$*" in *"--print target-libdir"*) echo '${folder}';; ` +
      `*) exec '${toolchain.rustc}' "$@";; esac`,
  );
}

interface Build {
  toolchain: Toolchain;
  /** Cargo's target folder; kept between runs so that std is compiled once. */
  targetFolder: string;
  /** Receives wasm-pack's output. */
  outFolder: string;
}

async function buildVariant(variant: Variant, build: Build): Promise<Output> {
  const { toolchain, targetFolder, outFolder } = build;
  const shims = join(targetFolder, "bin");
  writeShims(toolchain, shims);
  // Panic messages hold source paths; these keep the machine's own out of the binary.
  const remap = [
    [join(ROOT, "kernels"), "/kernels"],
    [cargoHome(), "/cargo"],
    [targetFolder, "/target"],
    [Deno.realPathSync(standardLibrary(toolchain.sysroot)), "/std"],
    [standardLibrary(toolchain.sysroot), "/std"],
  ].flatMap(([from, to]) => ["--remap-path-prefix", `${from}=${to}`]);
  const env: Record<string, string> = {
    PATH: searchPath(shims),
    RUSTC: toolchain.rustc,
    // build-std is an unstable option; this lets a release compiler take it.
    RUSTC_BOOTSTRAP: "1",
    CARGO_ENCODED_RUSTFLAGS: [...rustFlags(variant), ...remap].join("\x1f"),
    CARGO_TARGET_DIR: targetFolder,
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: toolchain.linker,
  };
  return await run("wasm-pack", [
    "build",
    join(ROOT, "kernels"),
    "--release",
    "--mode",
    "no-install",
    "--no-opt",
    "--no-pack",
    "--target",
    "web",
    "--out-dir",
    outFolder,
    "--",
    "--locked",
    "-Z",
    "build-std=std,panic_abort",
  ], env);
}

async function versions(toolchain: Toolchain): Promise<Manifest["toolchain"] | string[]> {
  const env = { PATH: searchPath(dirname(toolchain.rustc)) };
  const [rustc, linker, wasmPack, wasmBindgen] = await Promise.all([
    run(toolchain.rustc, ["--version"]),
    run(toolchain.linker, ["-flavor", "wasm", "--version"]),
    run("wasm-pack", ["--version"], env),
    run("wasm-bindgen", ["--version"], env),
  ]);
  const wanted = /wasm-bindgen = "=([\d.]+)"/.exec(
    readFileSync(join(ROOT, "kernels", "Cargo.toml"), "utf8"),
  )![1];
  const missing: string[] = [];
  if (!wasmPack.ok) missing.push("no wasm-pack: cargo install --locked wasm-pack@0.15.0");
  if (!wasmBindgen.ok || wasmBindgen.text !== `wasm-bindgen ${wanted}`) {
    missing.push(
      `wasm-bindgen is ${wasmBindgen.ok ? wasmBindgen.text : "missing"}, must be ${wanted}: ` +
        `cargo install --locked wasm-bindgen-cli@${wanted}`,
    );
  }
  return missing.length > 0 ? missing : {
    rustc: rustc.text,
    linker: linker.text,
    wasmPack: wasmPack.text,
    wasmBindgen: wasmBindgen.text,
  };
}

function fail(lines: string[], code = 1): never {
  for (const line of lines) console.error(line);
  Deno.exit(code);
}

/** Builds every variant below `out`; gives the manifest's file hashes. */
async function buildAll(toolchain: Toolchain, out: string): Promise<Record<string, string>> {
  const variants = Object.keys(VARIANTS) as Variant[];
  const stage = join(ROOT, "kernels", "target", "stage");
  rmSync(stage, { recursive: true, force: true });
  const results = await Promise.all(variants.map((variant) =>
    buildVariant(variant, {
      toolchain,
      targetFolder: join(ROOT, "kernels", "target", `wasm-${variant}`),
      outFolder: join(stage, variant),
    })
  ));
  const failures = results.filter(({ ok }) => !ok).map(({ text }) => text);
  if (failures.length > 0) fail(["Cannot build the kernels: wasm-pack says", ...failures]);
  for (const variant of variants) {
    rmSync(join(out, variant), { recursive: true, force: true });
    mkdirSync(join(out, variant), { recursive: true });
    for (const name of GENERATED_FILES) {
      copyFileSync(join(stage, variant, name), join(out, variant, name));
    }
  }
  return Object.fromEntries(
    generatedPaths().map((path) => [path, sha256(readFileSync(join(out, path)))]),
  );
}

async function main(args: string[]): Promise<void> {
  const check = args.includes("--check");
  const unknown = args.filter((argument) => argument !== "--check");
  if (unknown.length > 0) fail([`Unknown argument "${unknown[0]}", must be --check or nothing`], 2);
  const wasm = join(ROOT, "wasm");
  const built = existsSync(join(wasm, "manifest.json"));
  if (!check && built && manifestProblems(ROOT).length === 0) {
    console.log("wasm/ is up to date with kernels/");
    return;
  }
  const toolchain = await findToolchain();
  if (Array.isArray(toolchain)) {
    fail(["Cannot build the kernels, one of these is needed:", ...toolchain], CANNOT_TELL);
  }
  const tools = await versions(toolchain);
  if (Array.isArray(tools)) fail(["Cannot build the kernels:", ...tools], CANNOT_TELL);
  if (!check) {
    const sources = hashSources(ROOT);
    const files = await buildAll(toolchain, wasm);
    const manifest: Manifest = { toolchain: tools, sources, files };
    writeFileSync(join(wasm, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
    console.log(`built wasm/ with ${tools.rustc}`);
    return;
  }
  const manifest = readManifest(ROOT);
  const files = await buildAll(toolchain, join(ROOT, "kernels", "target", "check"));
  if (JSON.stringify(manifest.toolchain) !== JSON.stringify(tools)) {
    fail([
      "kernels/ compiles, but cannot be compared with wasm/: that was built by " +
      `${JSON.stringify(manifest.toolchain)}, here is ${JSON.stringify(tools)}`,
    ], CANNOT_TELL);
  }
  const different = generatedPaths().filter((path) => files[path] !== manifest.files[path]);
  if (different.length > 0) {
    fail(different.map((path) => `wasm/${path} is not what kernels/ builds to`));
  }
  console.log("wasm/ is byte for byte what kernels/ builds to");
}

await main(Deno.args);
