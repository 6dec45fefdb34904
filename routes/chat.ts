/** `POST /v1/chat/completions`: a conversation in, an answer out, whole or streamed. */

import type { Context } from "hono";
import type { TokenRouting } from "../src/engine/types.ts";
import type { Prompt, TextEvent, TextModel, TokenScore } from "../src/text/types.ts";
import { readJsonObject } from "./body.ts";
import { Caller } from "./caller.ts";
import { type ChatRequest, readChatRequest } from "./chat_request.ts";
import type { Generation } from "./generation.ts";
import { factsOf, samplingOfChoice } from "./generation_fields.ts";
import { merge } from "./merge.ts";
import { recordOf } from "./record.ts";
import { wirePromptRouting, wireRouting } from "./routing.ts";
import type { Serving } from "./serving.ts";
import { wireTimings, wireUsage } from "./usage.ts";
import { chatLogprobs, newId, nowSeconds } from "./wire.ts";

/** What names the served model in every answer. */
export interface ServedName {
  readonly modelId: string;
  readonly fingerprint: string;
}

interface Job {
  readonly model: TextModel;
  readonly request: ChatRequest;
  readonly prompt: Prompt;
  readonly caller: Caller;
  readonly generation: Generation;
}

/** One stream of events per choice; the prompt's routing comes with the first, as it is all the same. */
function answers({ model, request, prompt, caller, generation }: Job, signal: AbortSignal) {
  const { routedExperts } = request;
  const sources = Array.from({ length: request.n }, (_, i) => () =>
    model.answer(prompt, {
      sampling: samplingOfChoice(request.sampling, i),
      maxTokens: request.maxTokens,
      stop: request.stop,
      topLogprobs: request.topLogprobs,
      routedExperts: routedExperts === "all" && i > 0 ? "completion" : routedExperts,
      ignoreEos: request.ignoreEos,
      ...caller.options(),
      signal,
    }));
  return generation.follow(merge<TextEvent>(sources, model.info.slots));
}

async function wholeAnswer(job: Job, { name, signal }: { name: ServedName; signal: AbortSignal }) {
  const { model, request, prompt, generation } = job;
  const layers = model.info.routedLayers;
  const choices = Array.from({ length: request.n }, () => ({
    content: [] as string[],
    reasoning: [] as string[],
    scores: [] as TokenScore[],
    routing: [] as TokenRouting[],
    finish: "stop",
  }));
  let promptRouting: TokenRouting | undefined;
  for await (const { index, event } of answers(job, signal)) {
    const choice = choices[index];
    if (event.type === "delta") {
      choice.content.push(event.content);
      choice.reasoning.push(event.reasoning);
      choice.scores.push(...event.scores);
      choice.routing.push(...event.routing ?? []);
    } else if (event.type === "done") {
      choice.finish = event.reason;
    } else if (event.type === "prompt") promptRouting ??= event.routing;
  }
  return {
    id: newId("chatcmpl"),
    object: "chat.completion",
    created: nowSeconds(),
    model: name.modelId,
    system_fingerprint: name.fingerprint,
    choices: choices.map((choice, index) => ({
      index,
      message: {
        role: "assistant",
        content: choice.content.join(""),
        ...(prompt.reasoning !== "none" && { reasoning_content: choice.reasoning.join("") }),
        refusal: null,
      },
      logprobs: request.topLogprobs === undefined
        ? null
        : chatLogprobs(choice.scores, request.topLogprobs),
      ...(request.routedExperts !== undefined && wireRouting(choice.routing, layers)),
      finish_reason: choice.finish,
    })),
    ...(promptRouting !== undefined && wirePromptRouting(promptRouting, layers)),
    usage: wireUsage(generation),
    timings: wireTimings(generation),
  };
}

async function* chunks(job: Job, { name, signal }: { name: ServedName; signal: AbortSignal }) {
  const { model, request, generation } = job;
  const { topLogprobs } = request;
  const layers = model.info.routedLayers;
  const head = {
    id: newId("chatcmpl"),
    object: "chat.completion.chunk",
    created: nowSeconds(),
    model: name.modelId,
    system_fingerprint: name.fingerprint,
  };
  const tail = () =>
    request.usageSoFar
      ? { usage: wireUsage(generation) }
      : request.includeUsage
      ? { usage: null }
      : {};
  const timings = () => ({ timings: wireTimings(generation) });
  const chunk = (
    index: number,
    delta: Record<string, string>,
    rest: {
      finish?: string;
      scores?: readonly TokenScore[];
      routing?: readonly TokenRouting[];
      promptRouting?: TokenRouting;
    } = {},
  ) => ({
    ...head,
    choices: [{
      index,
      delta,
      logprobs: topLogprobs === undefined || rest.scores === undefined || rest.scores.length === 0
        ? null
        : chatLogprobs(rest.scores, topLogprobs),
      ...(rest.routing !== undefined && wireRouting(rest.routing, layers)),
      finish_reason: rest.finish ?? null,
    }],
    ...(rest.promptRouting !== undefined && wirePromptRouting(rest.promptRouting, layers)),
    ...tail(),
  });
  for await (const { index, event } of answers(job, signal)) {
    if (event.type === "prompt") {
      const role = { role: "assistant", content: "" };
      yield chunk(index, role, { promptRouting: event.routing });
    } else if (event.type === "delta") {
      const { content, reasoning, scores, routing } = event;
      const delta = {
        ...(reasoning !== "" && { reasoning_content: reasoning }),
        ...((content !== "" || reasoning === "") && { content }),
      };
      yield chunk(index, delta, { scores, routing });
    } else if (event.type === "done") {
      const last = generation.complete() && !request.includeUsage;
      yield { ...chunk(index, {}, { finish: event.reason }), ...(last && timings()) };
    }
  }
  if (request.includeUsage) {
    yield { ...head, choices: [], usage: wireUsage(generation), ...timings() };
  }
}

export async function chatCompletions(
  context: Context,
  { serving, name }: { serving: Serving; name: ServedName },
): Promise<Response> {
  const model = serving.model();
  serving.enter(context);
  const body = await readJsonObject(context.req.raw, serving.maxBodyBytes);
  const request = readChatRequest(body, factsOf(model));
  await serving.turns.take();
  const prompt = await model.chatPrompt(request.messages);
  model.checkLength(prompt, { maxTokens: request.maxTokens, param: "messages" });
  const { n } = request;
  const job = {
    model,
    request,
    prompt,
    caller: new Caller(context, { fields: request.caller, n, deadlineMs: serving.deadlineMs }),
    generation: recordOf(context).generate({
      operation: "chat",
      prompts: [prompt.tokens.length],
      n,
    }),
  };
  if (request.stream) {
    return await serving.stream(context, (signal) => chunks(job, { name, signal }));
  }
  return await serving.answer(context, (signal) => wholeAnswer(job, { name, signal }));
}
