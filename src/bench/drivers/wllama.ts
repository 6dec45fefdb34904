/**
 * Drives wllama (llama.cpp compiled to WASM) in Deno, as `../wire.ts` describes. Arguments: the folder
 * that holds node_modules, the model's path, threads, tokens of context.
 *
 * wllama is made for browsers. Three things of Deno lead it astray, and a prelude in front of each of
 * its worker scripts puts them right: Node's `process` (its loader would take the Node path), a
 * missing `WorkerGlobalScope`, and classic workers, which Deno refuses.
 */

import { serveDriver } from "./_serve.ts";

const [folder, path, threads, context] = Deno.args;
const root = new URL(`${await Deno.realPath(folder)}/node_modules/@wllama/wllama/`, "file://");

/** Runs in every worker before wllama's own code; `source` is this function's text. */
function actAsBrowser(source: string): void {
  const scope = globalThis as unknown as Record<string, unknown>;
  delete scope.process;
  Object.defineProperty(scope, "process", { value: undefined, configurable: true });
  scope.WorkerGlobalScope ??= class {};
  const DenoWorker = scope.Worker as typeof Worker;
  scope.Worker = class extends DenoWorker {
    constructor(url: string | URL, options: WorkerOptions = {}) {
      super(url, { ...options, type: "module" });
    }
  };
  const createObjectURL = URL.createObjectURL.bind(URL);
  URL.createObjectURL = (blob: Blob) =>
    createObjectURL(
      blob.type !== "text/javascript"
        ? blob
        : new Blob([`(${source})(${JSON.stringify(source)});\n`, blob], { type: blob.type }),
    );
}

const source = String(actAsBrowser);
const createObjectURL = URL.createObjectURL.bind(URL);
URL.createObjectURL = (blob) =>
  createObjectURL(
    (blob as Blob).type !== "text/javascript"
      ? blob
      : new Blob([`(${source})(${JSON.stringify(source)});\n`, blob as Blob], {
        type: "text/javascript",
      }),
  );
(globalThis as unknown as { document: unknown }).document ??= { baseURI: root.href };

const { version } = JSON.parse(await Deno.readTextFile(new URL("package.json", root)));
const { Wllama } = await import(new URL("esm/index.js", root).href);
// Its loader reads files by XMLHttpRequest, which Deno lacks; a blob it fetches.
const wasm = createObjectURL(
  new Blob([await Deno.readFile(new URL("esm/wasm/wllama.wasm", root))], {
    type: "application/wasm",
  }),
);

/**
 * wllama takes text only. A letter behind a space is one token in byte-level vocabularies, a bare letter
 * in those that know no words; what the prompt came to is in the answer.
 */
function textOf(tokens: number, { spaced }: { spaced: boolean }): string {
  const letter = (i: number) => String.fromCharCode(97 + (i * 7 + (i >> 3)) % 26);
  return Array.from({ length: tokens }, (_, i) => (spaced ? " " : "") + letter(i)).join("");
}

/** Timings that its core reports with each token. */
interface CoreTimings {
  readonly prompt_n: number;
  readonly prompt_ms: number;
  readonly predicted_n: number;
  readonly predicted_ms: number;
}

await serveDriver(async () => {
  const file = new Blob([await Deno.readFile(path)]);
  const silent = { debug() {}, log() {}, warn() {}, error() {} };
  const engine = new Wllama({ default: wasm }, {
    logger: silent,
    // There is no storage of an origin here.
    cacheManager: {},
    modelManager: {},
  });
  engine.setCompat(null);
  const contextTokens = Number(context);
  await engine.loadModel([file], {
    n_threads: Number(threads),
    n_gpu_layers: 0,
    n_ctx: contextTokens,
    n_batch: Math.min(512, contextTokens),
    n_ubatch: Math.min(512, contextTokens),
    n_parallel: 1,
    warmup: false,
    flash_attn: false,
  });
  const complete = async (prompt: string, { generate }: { generate: number }) => {
    const start = performance.now();
    let first: number | undefined;
    let timings: CoreTimings;
    const answer = await engine.createCompletion({
      prompt,
      stream: true,
      max_tokens: generate,
      n_predict: generate,
      cache_prompt: false,
      ignore_eos: true,
      temperature: 0,
      top_k: 1,
      samplers: ["top_k"],
      timings_per_token: true,
    });
    for await (const part of answer) {
      first ??= performance.now();
      timings = part.timings ?? timings!;
    }
    return { firstSeconds: (first! - start) / 1000, timings: timings! };
  };
  let spaced: boolean | undefined;
  return {
    version: `wllama ${version} (${engine.getNumThreads()} threads)`,
    async run({ prompt, generate }) {
      if (spaced === undefined) {
        const { timings } = await complete(textOf(8, { spaced: true }), { generate: 1 });
        spaced = timings.prompt_n < 12;
      }
      const { firstSeconds, timings } = await complete(textOf(prompt.length, { spaced }), {
        generate,
      });
      // Its own clock starts at the first token, so that predicted_ms covers one token less.
      return {
        promptTokens: timings.prompt_n,
        prefillSeconds: timings.prompt_ms / 1000,
        firstSeconds,
        decodeTokens: timings.predicted_n - 1,
        decodeSeconds: timings.predicted_ms / 1000,
      };
    },
  };
});
