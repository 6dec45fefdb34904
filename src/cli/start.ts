/** `deno task start`: serves a model over HTTP until a signal, then drains. */

import { ANY_ADDRESS, createApp, LOOPBACK_HOSTS } from "../../routes/mod.ts";
import { DEFAULT_MAX_WAITING } from "../engine/limits.ts";
import type { EngineInfo } from "../engine/types.ts";
import { OptionError } from "../errors.ts";
import { serve, type Server } from "../server/serve.ts";
import { loadModel } from "../text/load.ts";
import type { TextModel } from "../text/types.ts";
import { CACHE_FLAGS, cacheOptions } from "./cache_flags.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import { helpText, integerFlag, listFlag, parseFlags, textFlag } from "./flags.ts";
import { openKeyFile } from "./key_file.ts";
import { modelIdOf, modelPathOf } from "./model_path.ts";
import { milliseconds, SERVING_FLAGS, servingLog } from "./serving_flags.ts";
import { writeNotices } from "./notices.ts";
import {
  type CommandIo,
  formatBytes,
  formatCount,
  onInterrupt,
  printable,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  ...ENGINE_FLAGS,
  ...CACHE_FLAGS,
  ...SERVING_FLAGS,
  host: textFlag({
    help: "the address to listen on (default 127.0.0.1)",
    placeholder: "ADDRESS",
    must: "an address such as 127.0.0.1 or 0.0.0.0",
  }),
  port: integerFlag({ help: "the port; 0 takes a free one", min: 0, max: 65535, fallback: 8000 }),
  slots: integerFlag({ help: "answers computed side by side", min: 1, max: 64, fallback: 16 }),
  "max-waiting": integerFlag({
    help: "requests that may wait for one of them; others are refused with 503",
    min: 0,
    max: 100_000,
    fallback: DEFAULT_MAX_WAITING,
  }),
  "allowed-hosts": listFlag({
    help: "further Host names to answer to, besides this machine's own",
    placeholder: "A,B",
    must: "host names without port, separated by commas",
    accepts: (word) => /^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])$/.test(word),
  }),
  "allowed-origins": listFlag({
    help: "web origins whose pages may call this server",
    placeholder: "A,B",
    must: "origins such as https://chat.example, separated by commas",
    accepts: (word) => /^https?:\/\/[^/\s]+$/.test(word),
  }),
};

/** Host names the server answers to, given the address it listens on. */
export function hostsFor(host: string, configured: readonly string[]): string[] {
  const bound = host.includes(":") ? `[${host}]` : host;
  const wildcard = host === "0.0.0.0" || host === "::";
  return [...LOOPBACK_HOSTS, wildcard ? ANY_ADDRESS : bound, ...configured];
}

/** The one line that says what is being served. */
export function describeServing(info: EngineInfo, url: string): string {
  const { weights, kv, workspace } = info.memory;
  const active = info.activeParameters === info.parameters
    ? ""
    : ` (${formatCount(info.activeParameters)} active)`;
  const memory = `${formatBytes(weights)} weights + ${formatBytes(kv)} KV + ` +
    `${formatBytes(workspace)} workspace`;
  return printable([
    info.modelName,
    `${formatCount(info.parameters)} parameters${active}`,
    info.quantisation,
    `${describeBackend(info)}, ${info.activations} activations`,
    ...describeThreads(info),
    memory,
    `${info.contextLength} tokens of context`,
    url,
  ].join(" | "));
}

/** Which backend, on which GPU, and whose choice it was. */
function describeBackend({ backend, adapter, backendChosen }: EngineInfo): string {
  const place = adapter === undefined ? "" : ` on ${adapter}`;
  return `${backend} backend${place} (${backendChosen ? "chosen by itself" : "as asked"})`;
}

/** Nothing where a GPU computes everything. */
function describeThreads({ backend, threads }: EngineInfo): string[] {
  return backend === "webgpu" ? [] : [`${threads} thread${threads === 1 ? "" : "s"}`];
}

/** Resolves at SIGINT or SIGTERM; a second one ends the process at once. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    onInterrupt(() => {
      if (stopping) Deno.exit(130);
      stopping = true;
      resolve();
    }, { terminate: true });
  });
}

/** Throws OptionError where the process may not listen there; node:http would tell nobody. */
async function checkPermission(host: string, port: number): Promise<void> {
  const address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  const { state } = await Deno.permissions.query({ name: "net", host: address });
  if (state === "granted") return;
  throw new OptionError(
    `cannot start: listening on ${address} is not permitted, --host must be 127.0.0.1, ::1, ` +
      `0.0.0.0 or ::, or the task in deno.json must have --allow-net=${address}`,
  );
}

export interface StartIo extends CommandIo {
  /** Resolves when the server shall stop. */
  readonly stopped: Promise<void>;
  /** Hears of the server once it listens, before the model is loaded. */
  readonly onListening?: (server: Server) => void;
}

/** Serves until `stopped`, drains, and returns the exit code. */
export async function main(
  args: readonly string[],
  io: StartIo = { ...processIo(), stopped: stopSignal() },
): Promise<number> {
  const { stdout, stderr, env, stopped } = io;
  const { values, help } = parseFlags(FLAGS, {
    command: "start",
    args,
    env,
  });
  if (help) {
    const usage = "deno task start [--model PATH] [flags]";
    write(stdout, `${helpText(FLAGS, { usage, about: "Serves a model over HTTP." })}\n`);
    return 0;
  }
  const cache = cacheOptions(values);
  const modelPath = modelPathOf(values.model);
  const host = values.host ?? "127.0.0.1";
  const log = servingLog(values.log, stderr);
  const keysPath = values["api-keys-file"];
  const keyFile = keysPath === undefined
    ? undefined
    : await openKeyFile(keysPath, { onError: log.fault });
  const draining = new AbortController();
  const shutdown = new AbortController();
  const loading = Promise.withResolvers<TextModel>();
  const app = createApp({
    model: loading.promise,
    modelId: modelIdOf(modelPath),
    allowedHosts: hostsFor(host, values["allowed-hosts"]),
    allowedOrigins: values["allowed-origins"],
    keys: keyFile?.keys,
    maxRequests: values.slots + values["max-waiting"],
    deadlineMs: milliseconds(values.deadline, undefined),
    keepAliveMs: milliseconds(values["keep-alive"], Infinity),
    metrics: values.metrics === "on",
    rewards: values.reward,
    draining: draining.signal,
    shutdown: shutdown.signal,
    onError: log.fault,
    log: log.request,
  });
  await checkPermission(host, values.port);
  const server = await serve({
    fetch: (request) => app.fetch(request),
    hostname: host,
    port: values.port,
    onError: log.fault,
  });
  io.onListening?.(server);
  const bar = progressBar(stderr, "Loading");
  loadModel({
    ...loadOptions(values, modelPath),
    slots: values.slots,
    maxWaiting: values["max-waiting"],
    cache,
    reusePrefixes: values["prefix-cache"] !== "off",
    onProgress: bar.onProgress,
    onWarning: (message) => write(stderr, `warning: ${printable(message)}\n`),
  }).then(loading.resolve, loading.reject).finally(bar.clear);
  let ready: TextModel | null = null;
  try {
    ready = await Promise.race([loading.promise, stopped.then(() => null)]);
    if (ready !== null) {
      writeNotices(stderr, ready.info);
      write(stdout, `${describeServing(ready.info, server.url)}\n`);
    }
    await stopped;
  } finally {
    draining.abort();
    await server.drain({
      deadlineMs: milliseconds(values.drain, 0),
      onDeadline: () => shutdown.abort(),
    });
    keyFile?.close();
    await ready?.close();
  }
  return 0;
}

if (import.meta.main) await runCommand(() => main(Deno.args));
