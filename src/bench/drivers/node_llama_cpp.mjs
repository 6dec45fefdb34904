/**
 * Drives native llama.cpp through node-llama-cpp, in Node, as src/bench/wire.ts describes. Arguments:
 * the folder that holds node_modules, the model's path, threads, tokens of context.
 */

import { createRequire } from "node:module";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, modelPath, threadsText, contextText] = process.argv.slice(2);
const threads = Number(threadsText);
const say = (message) => console.log(`@bench ${JSON.stringify(message)}`);
const seconds = () => performance.now() / 1000;

const entry = createRequire(resolve(folder, "package.json")).resolve("node-llama-cpp");
const { getLlama, getModuleVersion, LlamaLogLevel } = await import(pathToFileURL(entry).href);

const start = seconds();
const llama = await getLlama({
  gpu: false,
  build: "never",
  maxThreads: threads,
  logLevel: LlamaLogLevel.error,
});
const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
const contextSize = Number(contextText);
const context = await model.createContext({
  contextSize,
  batchSize: Math.min(512, contextSize),
  threads,
  flashAttention: false,
});
const sequence = context.getSequence();
const version = `node-llama-cpp ${await getModuleVersion()} (llama.cpp ${
  llama.llamaCppRelease?.release ?? "of unknown release"
})`;
say({ ready: { loadSeconds: seconds() - start, version } });

for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, generate } = JSON.parse(line);
  await sequence.clearHistory();
  const start = seconds();
  let first = start;
  let last = start;
  let tokens = 0;
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    last = seconds();
    if (tokens++ === 0) first = last;
    if (tokens === generate) break;
  }
  say({
    timing: {
      promptTokens: prompt.length,
      prefillSeconds: first - start,
      firstSeconds: first - start,
      decodeTokens: tokens - 1,
      decodeSeconds: last - first,
    },
  });
}
process.exit(0);
