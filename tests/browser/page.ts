/** What runs in the page: the suite of all backends, kernels' text, and an engine on the GPU. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { EngineOptions, GenerateRequest } from "../../src/engine/types.ts";
import { conformance } from "../backend/conformance.ts";
import { declaredBy, type Outcome, outcomeOf } from "../support/declared.ts";
import type { Kernel } from "../support/null_gpu.ts";

/** What the test that has opened the page calls. */
export interface Page {
  /** What the adapter calls itself; null where there is none. */
  adapter(): Promise<string | null>;
  /** Declares the suite on a device with these limits; gives its tests' names. */
  declare(limits: Readonly<Record<string, number>>): string[];
  /** Runs a test with each `every`-th of its steps. */
  run(name: string, every: number): Promise<Outcome>;
  /** What the compiler says against kernels, which are parsed and checked but not translated. */
  faultsOf(kernels: readonly Kernel[]): Promise<string[]>;
  /** The tokens of a request to an engine that is opened for it. */
  answer(options: EngineOptions, request: GenerateRequest): Promise<number[]>;
}

type Test = Parameters<typeof outcomeOf>[0];

let tests = new Map<string, Test>();

const page: Page = {
  async adapter() {
    const adapter = await navigator.gpu?.requestAdapter() ?? null;
    return adapter && `${adapter.info.vendor} ${adapter.info.architecture}`;
  },

  declare(limits) {
    const open = () => createWebGpuBackend({ limits });
    tests = declaredBy(() => conformance({ name: "browser", sparse: true, open }));
    return [...tests.keys()];
  },

  run: (name, every) => outcomeOf(tests.get(name)!, { every }),

  async faultsOf(kernels) {
    const adapter = (await navigator.gpu.requestAdapter())!;
    const halves = adapter.features.has("shader-f16");
    const device = await adapter.requestDevice({
      requiredFeatures: halves ? ["shader-f16"] : [],
    });
    const faults = await Promise.all(kernels.map(async ({ label, code: text }) => {
      // Where there are no numbers of type f16, kernels with them are read as if they were f32.
      const code = halves ? text : text.replace("enable f16;", "").replaceAll(/\bf16\b/g, "f32");
      const { messages } = await device.createShaderModule({ label, code }).getCompilationInfo();
      return messages.map(({ type, lineNum, message }) =>
        `${label}: ${type} in line ${lineNum}: ${message}\n${code.split("\n")[lineNum - 1]}`
      );
    }));
    device.destroy();
    return faults.flat();
  },

  async answer(options, request) {
    const engine = await openLocalEngine(options);
    const tokens: number[] = [];
    for await (const event of engine.generate(request)) {
      if (event.type === "token") tokens.push(event.token);
    }
    await engine.close();
    return tokens;
  },
};

Object.assign(globalThis, { page });
