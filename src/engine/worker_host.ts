/** The worker's side of a `WorkerEngine`: opens an engine, runs its requests, reports. */

import { type RemoteUnitStore, storeOverPort } from "../cache/remote_store.ts";
import type { UnitStore } from "../cache/store.ts";
import type { LocalEngine, LocalEngineOptions } from "./local_engine.ts";
import type { EngineOptions, GenerateRequest, LoadProgress } from "./types.ts";
import {
  type Command,
  encodeError,
  type MessageEndpoint,
  type NewsItem,
  type Report,
} from "./wire.ts";

export interface OpenHooks {
  /** The prefix cache's store; closed with the engine. */
  readonly store?: UnitStore;
  /** Decides how many tokens to guess instead of what steps have cost. */
  readonly draftLength?: LocalEngineOptions["draftLength"];
  readonly onProgress?: LoadProgress;
  /** Called when the events of a step have been handed out. */
  readonly onStepEnd?: () => void;
  /** Called when the backend is lost. */
  readonly onLost?: (error: Error) => void;
}

/** Opens the engine that a worker runs. */
export type OpenLocalEngine = (options: EngineOptions, hooks: OpenHooks) => Promise<LocalEngine>;

/** Load progress is reported this often at most, in milliseconds. */
const PROGRESS_INTERVAL_MS = 50;

/** What changes without a step (the store's counts) is reported this often, in milliseconds. */
const STATS_INTERVAL_MS = 1000;

/**
 * Answers commands that arrive at the endpoint, with an engine from `open`. Returns what a worker that
 * dies of an error is to call.
 */
export function serveEngine(
  endpoint: MessageEndpoint<Report, Command>,
  open: OpenLocalEngine,
): () => void {
  const host = new WorkerHost(endpoint, open);
  endpoint.onmessage = ({ data }) => host.take(data);
  return () => host.abandon();
}

type OpenCommand = Extract<Command, { type: "open" }>;

class WorkerHost {
  readonly #endpoint: MessageEndpoint<Report, Command>;
  readonly #open: OpenLocalEngine;
  /** The engine's number for each request, by the other side's. */
  readonly #requests = new Map<number, number>();
  #engine: LocalEngine | null = null;
  #store: RemoteUnitStore | undefined;
  /** What happened since the last report. */
  #news: NewsItem[] = [];
  #lastProgress = -Infinity;
  #lastStats = "";
  #statsTimer: ReturnType<typeof setInterval> | undefined;

  constructor(endpoint: MessageEndpoint<Report, Command>, open: OpenLocalEngine) {
    this.#endpoint = endpoint;
    this.#open = open;
  }

  /** Ends what would outlive the worker. */
  abandon(): void {
    this.#engine?.abandon();
  }

  take(command: Command): void {
    switch (command.type) {
      case "open":
        void this.#openEngine(command);
        return;
      case "store":
        this.#store?.reconnect(command.port);
        return;
      case "generate":
        this.#generate(command.id, command.request);
        break;
      case "abort":
        this.#abort(command.id);
        break;
      case "routingStats":
        void this.#reportRouting(command.id);
        return;
      case "close":
        void this.#close(command.graceMs);
        return;
    }
    this.#report();
  }

  async #openEngine({ options, store: port }: OpenCommand): Promise<void> {
    const onProgress: LoadProgress = ({ loadedBytes, totalBytes }) => {
      const now = performance.now();
      if (loadedBytes < totalBytes && now - this.#lastProgress < PROGRESS_INTERVAL_MS) return;
      this.#lastProgress = now;
      this.#endpoint.postMessage({ type: "progress", loadedBytes, totalBytes });
    };
    const onStepEnd = () => this.#report();
    const onLost = (error: Error) =>
      this.#endpoint.postMessage({ type: "lost", reason: error.message });
    const store = port === undefined ? undefined : storeOverPort(port);
    this.#store = store;
    try {
      this.#engine = await this.#open(options, { store, onProgress, onStepEnd, onLost });
      this.#statsTimer = setInterval(() => this.#reportStats(), STATS_INTERVAL_MS);
      this.#endpoint.postMessage({ type: "ready", info: this.#engine.info });
    } catch (error) {
      this.#endpoint.postMessage({ type: "failed", error: encodeError(error) });
    }
  }

  #generate(id: number, request: GenerateRequest): void {
    if (this.#engine === null) {
      const error = new Error("cannot generate: the engine is still opening, must be open");
      this.#news.push({ id, error: encodeError(error) });
      return;
    }
    let ended = false;
    const end = () => {
      ended = true;
      this.#requests.delete(id);
    };
    const number = this.#engine.submit(request, {
      push: (event) => {
        if (event.type === "done") end();
        this.#news.push({ id, event });
      },
      fail: (error) => {
        end();
        this.#news.push({ id, error: encodeError(error) });
        // A deadline passes when no step is at its end, and maybe none follows.
        this.#report();
      },
    });
    if (!ended) this.#requests.set(id, number);
  }

  #abort(id: number): void {
    const number = this.#requests.get(id);
    if (number !== undefined) this.#engine?.abort(number);
  }

  async #reportRouting(id: number): Promise<void> {
    const stats = await this.#engine?.routingStats();
    if (stats !== undefined) this.#endpoint.postMessage({ type: "routingStats", id, stats });
  }

  #reportStats(): void {
    const stats = this.#engine!.stats();
    const text = JSON.stringify(stats);
    if (text === this.#lastStats) return;
    this.#lastStats = text;
    this.#endpoint.postMessage({ type: "news", items: [], stats });
  }

  async #close(graceMs: number | undefined): Promise<void> {
    clearInterval(this.#statsTimer);
    try {
      await this.#engine?.close({ graceMs });
    } finally {
      this.#report();
      this.#endpoint.postMessage({ type: "closed" });
    }
  }

  /** Sends the news in one message. */
  #report(): void {
    if (this.#engine === null || this.#news.length === 0) return;
    const items = this.#news;
    this.#news = [];
    this.#endpoint.postMessage({ type: "news", items, stats: this.#engine.stats() });
  }
}
