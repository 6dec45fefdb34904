import { assertEquals, assertRejects } from "@std/assert";
import { findAdapter } from "../../src/backend/webgpu/device.ts";
import { backendOf } from "../../src/cli/train_backend.ts";
import { OptionError } from "../../src/errors.ts";

Deno.test("the command line's back end goes before the recipe's", async () => {
  const webgpu = { name: "webgpu", storage: "f32" } as const;
  const wasm = { ...webgpu, name: "wasm" } as const;
  assertEquals(await backendOf(webgpu, "wasm"), { backend: wasm, text: "wasm, f32" });
  assertEquals(await backendOf(wasm, "recipe"), { backend: wasm, text: "wasm, f32" });
  const adapter = await findAdapter();
  const { backend } = await backendOf(wasm, "auto");
  const isFast = adapter !== null && !adapter.info.isFallbackAdapter;
  assertEquals(backend, isFast ? webgpu : wasm);
  if (adapter === null) await assertRejects(() => backendOf(webgpu, "recipe"), OptionError);
  else assertEquals((await backendOf(wasm, "webgpu")).backend, webgpu);
});
