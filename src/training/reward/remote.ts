/** Rewards from another server, in the protocol of OpenRLHF's `--reward.remote_url`. */

import { RemoteError } from "../../errors.ts";
import type { BatchRewards, RewardSource } from "./source.ts";
import type { Sample } from "./types.ts";

export interface RemoteRewardsOptions {
  /** Such as `http://127.0.0.1:8000/get_reward`. */
  readonly url: string;
  /** Further headers, `authorization` for instance. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The prompt as the model read it; by default the question, and `<think>` where the template wrote it. */
  readonly render?: (sample: Sample) => string;
  /** What is sent as labels: the bare answer as most servers want it, or all of the reference, as ours can take it. */
  readonly labels?: "answer" | "reference";
  /** Samples in a request. */
  readonly batchSize?: number;
  /** Milliseconds for one request. */
  readonly timeoutMs?: number;
  /** Requests for a batch before it is given up. */
  readonly attempts?: number;
  /** Milliseconds before the second attempt; twice as many before each further one. */
  readonly retryMs?: number;
  /** Bytes that an answer may have. */
  readonly maxBytes?: number;
  readonly fetch?: (url: string, init: RequestInit) => Response | Promise<Response>;
}

/** OpenRLHF waits as long. */
const DEFAULT_TIMEOUT_MS = 180_000;
const DEFAULT_ATTEMPTS = 5;
const DEFAULT_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30_000;
const DEFAULT_BATCH = 256;
const DEFAULT_MAX_BYTES = 16 * 2 ** 20;

/**
 * Rewards that a server gives. Throws RemoteError where it cannot be reached, refuses, or answers
 * something else; what may pass (no connection, no answer in time, 408, 429, 5xx) is tried again.
 */
export function remoteRewards(options: RemoteRewardsOptions): RewardSource {
  const { batchSize = DEFAULT_BATCH } = options;
  return async (samples, { signal } = {}) => {
    const batches: BatchRewards[] = [];
    for (let i = 0; i < samples.length; i += batchSize) {
      batches.push(await askWithRetries(samples.slice(i, i + batchSize), { ...options, signal }));
    }
    return joined(batches);
  };
}

type AskOptions = RemoteRewardsOptions & { readonly signal?: AbortSignal };

/** A failure after which another attempt may succeed. */
class PassingFailure extends Error {
  /** What the server asks to wait. */
  readonly retryMs: number;

  constructor(message: string, options: { retryMs?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.retryMs = options.retryMs ?? 0;
  }
}

async function askWithRetries(
  samples: readonly Sample[],
  options: AskOptions,
): Promise<BatchRewards> {
  const { url, attempts = DEFAULT_ATTEMPTS, retryMs = DEFAULT_RETRY_MS, signal } = options;
  for (let attempt = 1;; attempt++) {
    signal?.throwIfAborted();
    try {
      return await ask(samples, options);
    } catch (error) {
      if (!(error instanceof PassingFailure)) throw error;
      if (attempt >= attempts) {
        throw new RemoteError(
          `cannot get rewards from ${url}: ${error.message}, in the last of ${attempts} attempts`,
          { cause: error.cause ?? error },
        );
      }
      const wait = Math.max(retryMs * 2 ** (attempt - 1), error.retryMs);
      await pause(Math.min(wait, LONGEST_RETRY_MS), signal);
    }
  }
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    function stop() {
      clearTimeout(timer);
      reject(signal!.reason);
    }
    signal?.addEventListener("abort", stop, { once: true });
  });
}

async function ask(samples: readonly Sample[], options: AskOptions): Promise<BatchRewards> {
  const { url, headers, timeoutMs = DEFAULT_TIMEOUT_MS, signal, fetch = globalThis.fetch } =
    options;
  const { render = renderPlainly, labels = "answer", maxBytes = DEFAULT_MAX_BYTES } = options;
  const prompts = samples.map(render);
  const body = JSON.stringify({
    query: samples.map(({ completion }, i) => prompts[i] + completion),
    prompts,
    labels: samples.map((sample) => labels === "answer" ? answerOf(sample) : referenceOf(sample)),
  });
  const timeout = AbortSignal.timeout(timeoutMs);
  let status: number;
  let text: string;
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
      signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
    });
    status = response.status;
    text = await readText(response, { maxBytes, url });
    if (!response.ok) refuse(response, { url, text });
  } catch (error) {
    if (error instanceof RemoteError || error instanceof PassingFailure) throw error;
    signal?.throwIfAborted();
    const what = timeout.aborted ? `there was no answer within ${timeoutMs} ms` : String(error);
    throw new PassingFailure(what, { cause: error });
  }
  return readRewards(text, { url, status, count: samples.length });
}

function renderPlainly({ prompt, opened }: Sample): string {
  return opened ? `${prompt}<think>\n` : prompt;
}

function answerOf({ reference }: Sample): string {
  return reference.answer ?? "";
}

/** Everything, as a text: labels of other trainers' data sets are texts. */
function referenceOf({ prompt, reference }: Sample): string {
  return JSON.stringify({ ...reference, prompt });
}

async function readText(
  response: Response,
  { maxBytes, url }: { maxBytes: number; url: string },
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  if (response.body === null) return text;
  for await (const chunk of response.body) {
    bytes += chunk.length;
    if (bytes > maxBytes) {
      throw new RemoteError(
        `cannot get rewards from ${url}: the answer is longer than ${maxBytes} bytes, must be at ` +
          "most as long",
      );
    }
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

function refuse(response: Response, { url, text }: { url: string; text: string }): never {
  const { status } = response;
  const said = `the server answers ${status}: ${oneLine(text)}`;
  if (status !== 408 && status !== 429 && status < 500) {
    throw new RemoteError(`cannot get rewards from ${url}: ${said}`);
  }
  const seconds = Number(response.headers.get("retry-after") ?? 0);
  throw new PassingFailure(said, { retryMs: Number.isFinite(seconds) ? seconds * 1000 : 0 });
}

function oneLine(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > 200 ? `${line.slice(0, 197)}...` : line;
}

/** Checks an answer and reads it. */
function readRewards(
  text: string,
  { url, status, count }: { url: string; status: number; count: number },
): BatchRewards {
  const wrong = (what: string, is: string, must: string) =>
    new RemoteError(`cannot get rewards from ${url}: ${what} is ${is}, must be ${must}`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw wrong(`its answer (${status})`, JSON.stringify(oneLine(text)), "JSON");
  }
  const { rewards, scores, extra_logs: logs, functions: all } = (value ?? {}) as Record<
    string,
    unknown
  >;
  const list = (name: string, given: unknown): number[] => {
    if (Array.isArray(given) && given.length === count && given.every(Number.isFinite)) {
      return given;
    }
    const is = Array.isArray(given) ? `a list of ${given.length}` : typeof given;
    throw wrong(`its answer's ${name}`, is, `a list of ${count} finite numbers`);
  };
  const read = list("rewards", rewards);
  const isObject = typeof logs === "object" && logs !== null && !Array.isArray(logs);
  if (logs !== undefined && logs !== null && !isObject) {
    throw wrong(
      "its answer's extra_logs",
      Array.isArray(logs) ? "a list" : typeof logs,
      "an object",
    );
  }
  // Our own server names all functions in a field beside the protocol's, which knows no null. Logs that
  // are no list of one number a sample are for people, as OpenRLHF's examples have it.
  const functions = Object.entries(all ?? logs ?? {}).filter(([, values]) =>
    Array.isArray(values) && values.length === count &&
    values.every((value) => Number.isFinite(value) || (value === null && all !== undefined))
  );
  return {
    rewards: read,
    scores: scores === undefined || scores === null ? read : list("scores", scores),
    functions: Object.fromEntries(functions),
  };
}

/** Batches in a row; a function that some of them lack is null there. */
function joined(batches: readonly BatchRewards[]): BatchRewards {
  const names = new Set(batches.flatMap(({ functions }) => Object.keys(functions)));
  const functions = [...names].map((name) => [
    name,
    batches.flatMap(({ functions, rewards }) => functions[name] ?? rewards.map(() => null)),
  ]);
  return {
    rewards: batches.flatMap(({ rewards }) => rewards),
    scores: batches.flatMap(({ scores }) => scores),
    functions: Object.fromEntries(functions),
  };
}
