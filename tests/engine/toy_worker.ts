/** A worker with the toy engine; the model's "path" says how it behaves. */

import { BackendLostError, ExpertReadError, FormatError } from "../../src/errors.ts";
import type { Command, MessageEndpoint, Report } from "../../src/engine/wire.ts";
import { serveEngine } from "../../src/engine/worker_host.ts";
import { TOY_ROUTED_LAYERS, toyEngine } from "./toy.ts";

/** Steps after which the model "crashing" throws outside any handler and "losing" loses its backend. */
const CRASH_STEPS = 20;

serveEngine(
  globalThis as unknown as MessageEndpoint<Report, Command>,
  async (
    { model, slots, chunkTokens, contextLength, maxWaiting },
    { store, onProgress, onStepEnd, onLost },
  ) => {
    if (model === "damaged") {
      throw FormatError.of("open the toy", "its state", "damaged", "whole");
    }
    if (model === "dying") {
      setTimeout(() => {
        throw new Error("died while opening");
      });
      return await new Promise<never>(() => {});
    }
    for (let loadedBytes = 0; loadedBytes <= 1000; loadedBytes++) {
      onProgress?.({ loadedBytes, totalBytes: 1000 });
    }
    let steps = 0;
    const { engine, backend } = toyEngine({
      slots,
      chunkTokens,
      contextLength,
      maxWaiting,
      store,
      routed: model === "mixture" ? TOY_ROUTED_LAYERS : [],
      onLost,
      onStepEnd: () => {
        onStepEnd?.();
        if (model === "crashing" && ++steps === CRASH_STEPS) {
          setTimeout(() => {
            throw new Error("crashed on purpose");
          });
        }
      },
    });
    if (model === "losing") {
      // As a WASM backend after a trap: this step and every later one fails.
      backend.stepMs = () => {
        if (++steps >= CRASH_STEPS) throw new BackendLostError("a kernel failed on purpose");
        return 0;
      };
    }
    if (model === "unreadable") {
      // As a backend whose weights cannot be read for a while: its first step fails.
      backend.stepMs = () => {
        if (steps++ === 0) throw new ExpertReadError("cannot read experts on purpose");
        return 0;
      };
    }
    if (model === "busy") {
      // Computes as a WASM backend does: without ever waiting within a step.
      backend.stepMs = (rows) => {
        const until = performance.now() + (rows > 8 ? 400 : 20);
        while (performance.now() < until);
        return 0;
      };
    }
    return engine;
  },
);
