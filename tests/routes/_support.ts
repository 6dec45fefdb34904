/** The API over a fake engine with a real tokenizer and template. */

import type { Hono } from "hono";
import { type AppOptions, createApp } from "../../routes/mod.ts";
import { ChatTemplate } from "../../src/chat/mod.ts";
import type { GenerateRequest } from "../../src/engine/types.ts";
import type { SamplingParams } from "../../src/sampling/types.ts";
import { createTextModel } from "../../src/text/text_model.ts";
import type { TextModel } from "../../src/text/types.ts";
import { type Tokenizer, tokenizerFromHuggingFace } from "../../src/tokenizer/mod.ts";
import { FakeEngine, type FakeEngineOptions, type Script } from "./_fake_engine.ts";

const FOLDER = new URL("../data/tokenizers/", import.meta.url);

/** `tiny_ds` thinks (its template opens `<think>`) and has a BOS; `tiny_qw` has neither. */
export type Family = "tiny_ds" | "tiny_qw";

function read(family: Family, file: string): string {
  return Deno.readTextFileSync(new URL(`${family}/${file}`, FOLDER));
}

export function loadTiny(family: Family): { tokenizer: Tokenizer; template: ChatTemplate } {
  const tokenizerConfig = read(family, "tokenizer_config.json");
  const tokenizer = tokenizerFromHuggingFace({
    tokenizer: read(family, "tokenizer.json"),
    tokenizerConfig,
    generationConfig: read(family, "generation_config.json"),
  }, { name: family });
  const template = new ChatTemplate(JSON.parse(tokenizerConfig).chat_template, {
    bosToken: tokenizer.bosToken === null ? null : tokenizer.idToPiece(tokenizer.bosToken),
  });
  return { tokenizer, template };
}

/** What the engine answers: a text that ends by itself, or token ids and errors. */
export type Answer = string | Script;

export interface Fixture {
  readonly app: Hono;
  readonly engine: FakeEngine;
  readonly tokenizer: Tokenizer;
  readonly model: TextModel;
  /** Faults that the app reported. */
  readonly faults: unknown[];
}

export interface FixtureOptions extends Partial<Omit<FakeEngineOptions, "script" | "vocabSize">> {
  readonly family?: Family;
  readonly answer?: Answer | ((request: GenerateRequest, index: number) => Answer);
  readonly app?: Partial<AppOptions>;
  /** Instead of the tokenizer's own. */
  readonly template?: ChatTemplate;
  readonly defaultSampling?: Partial<SamplingParams>;
}

export function fixture(options: FixtureOptions = {}): Fixture {
  const { family = "tiny_qw", answer = "Hello", app: appOptions, ...rest } = options;
  const { tokenizer, template: own } = loadTiny(family);
  const template = options.template ?? own;
  const engine = new FakeEngine({
    ...rest,
    vocabSize: tokenizer.vocabSize,
    script: (request, index) => {
      const given = typeof answer === "function" ? answer(request, index) : answer;
      if (typeof given !== "string") return given;
      return [...tokenizer.encode(given, { addSpecial: false }), tokenizer.eosTokens[0]];
    },
  });
  const faults: unknown[] = [];
  const { defaultSampling } = options;
  const model = createTextModel({ engine, tokenizer, template, defaultSampling });
  const app = createApp({
    model,
    modelId: "tiny",
    onError: (error) => faults.push(error),
    ...appOptions,
  });
  return { app, engine, tokenizer, model, faults };
}

export async function post(app: Hono, path: string, body: unknown): Promise<Response> {
  return await app.request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
}

// deno-lint-ignore no-explicit-any
export type Json = any;

/** Posts and reads the answer, which must have this status. */
export async function ask(
  app: Hono,
  path: string,
  { body, status = 200 }: { body: unknown; status?: number },
): Promise<Json> {
  const response = await post(app, path, body);
  const text = await response.text();
  if (response.status !== status) {
    throw new Error(`status is ${response.status}, must be ${status}: ${text.slice(0, 500)}`);
  }
  return JSON.parse(text);
}

export const USER = [{ role: "user", content: "hi" }];

export async function chat(app: Hono, fields: Json = {}, status = 200): Promise<Json> {
  const body = { model: "tiny", messages: USER, ...fields };
  return await ask(app, "/v1/chat/completions", { body, status });
}

export async function complete(app: Hono, fields: Json = {}, status = 200): Promise<Json> {
  const body = { model: "tiny", prompt: "hi", ...fields };
  return await ask(app, "/v1/completions", { body, status });
}

/** The payloads of an event stream, `[DONE]` as that string. */
export async function events(response: Response): Promise<Json[]> {
  const text = await response.text();
  return text.split("\n\n").filter((event) => event.startsWith("data: ")).map((event) => {
    const data = event.slice("data: ".length);
    return data === "[DONE]" ? data : JSON.parse(data);
  });
}

export async function stream(app: Hono, path: string, fields: Json): Promise<Json[]> {
  const body = path.endsWith("chat/completions")
    ? { messages: USER, stream: true, ...fields }
    : { prompt: "hi", stream: true, ...fields };
  return await events(await post(app, path, body));
}

/** Resolves once the condition holds, fails after three seconds. */
export async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 3_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error("it never came to hold");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
