/** `POST /v1/completions`: texts or token ids in, their continuations out, whole or streamed. */

import type { Context } from "hono";
import type { TokenRouting } from "../src/engine/types.ts";
import type { Prompt, PromptScore, TextEvent, TextModel } from "../src/text/types.ts";
import { readJsonObject } from "./body.ts";
import { Caller } from "./caller.ts";
import type { ServedName } from "./chat.ts";
import { type CompletionsRequest, readCompletionsRequest } from "./completions_request.ts";
import type { Generation } from "./generation.ts";
import { factsOf, samplingOfChoice } from "./generation_fields.ts";
import { merge } from "./merge.ts";
import { recordOf } from "./record.ts";
import { wirePromptRouting, wireRouting } from "./routing.ts";
import type { Serving } from "./serving.ts";
import { wireTimings, wireUsage } from "./usage.ts";
import { codePoints, completionLogprobs, newId, nowSeconds } from "./wire.ts";

/** Prompts that are tokenized in one go. */
const PROMPTS_PER_TURN = 16;

interface Job {
  readonly model: TextModel;
  readonly request: CompletionsRequest;
  readonly prompts: readonly Prompt[];
  readonly caller: Caller;
  readonly generation: Generation;
}

/** One stream of events per choice; choice i belongs to prompt floor(i / n). */
function answers({ model, request, prompts, caller, generation }: Job, signal: AbortSignal) {
  const { n, echo, maxTokens, topLogprobs } = request;
  const scorePrompt = echo && topLogprobs !== undefined;
  const sources = Array.from(
    { length: prompts.length * n },
    (_, i) => () =>
      model.answer(prompts[Math.floor(i / n)], {
        sampling: samplingOfChoice(request.sampling, i % n),
        maxTokens,
        stop: request.stop,
        topLogprobs,
        scorePrompt,
        routedExperts: request.routedExperts,
        // Whoever scores a prompt counts on the one token behind it, whatever it is.
        ignoreEos: request.ignoreEos || (scorePrompt && maxTokens === 1),
        ...caller.options(),
        signal,
      }),
  );
  return generation.follow(merge<TextEvent>(sources, model.info.slots));
}

async function wholeAnswer(job: Job, { name, signal }: { name: ServedName; signal: AbortSignal }) {
  const { model, request, prompts, generation } = job;
  const { n, echo, topLogprobs } = request;
  const layers = model.info.routedLayers;
  const choices = Array.from({ length: prompts.length * n }, (_, i) => ({
    texts: echo ? [prompts[Math.floor(i / n)].text] : [],
    promptScores: [] as readonly PromptScore[],
    scores: [] as PromptScore[],
    promptRouting: undefined as TokenRouting | undefined,
    routing: [] as TokenRouting[],
    finish: "stop",
  }));
  for await (const { index, event } of answers(job, signal)) {
    const choice = choices[index];
    if (event.type === "prompt") {
      choice.promptScores = event.scores ?? [];
      choice.promptRouting = event.routing;
    } else if (event.type === "delta") {
      choice.texts.push(event.content);
      choice.scores.push(...event.scores);
      choice.routing.push(...event.routing ?? []);
    } else if (event.type === "done") {
      choice.finish = event.reason;
    }
  }
  return {
    id: newId("cmpl"),
    object: "text_completion",
    created: nowSeconds(),
    model: name.modelId,
    system_fingerprint: name.fingerprint,
    choices: choices.map((choice, index) => {
      const offset = echo ? codePoints(prompts[Math.floor(index / n)].text) : 0;
      const scores = [
        ...choice.promptScores,
        ...choice.scores.map((score) => ({ ...score, offset: score.offset + offset })),
      ];
      return {
        index,
        text: choice.texts.join(""),
        logprobs: topLogprobs === undefined
          ? null
          : completionLogprobs(scores, { topLogprobs, offset: 0 }),
        ...(request.routedExperts !== undefined && wireRouting(choice.routing, layers)),
        ...(choice.promptRouting !== undefined && wirePromptRouting(choice.promptRouting, layers)),
        finish_reason: choice.finish,
      };
    }),
    usage: wireUsage(generation),
    timings: wireTimings(generation),
  };
}

async function* chunks(job: Job, { name, signal }: { name: ServedName; signal: AbortSignal }) {
  const { model, request, prompts, generation } = job;
  const { n, echo, topLogprobs } = request;
  const layers = model.info.routedLayers;
  const head = {
    id: newId("cmpl"),
    object: "text_completion",
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
    text: string,
    rest: {
      finish?: string;
      scores?: readonly PromptScore[];
      offset?: number;
      routing?: readonly TokenRouting[];
      promptRouting?: TokenRouting;
    } = {},
  ) => ({
    ...head,
    choices: [{
      index,
      text,
      logprobs: topLogprobs === undefined || rest.scores === undefined || rest.scores.length === 0
        ? null
        : completionLogprobs(rest.scores, { topLogprobs, offset: rest.offset ?? 0 }),
      ...(rest.routing !== undefined && wireRouting(rest.routing, layers)),
      ...(rest.promptRouting !== undefined && wirePromptRouting(rest.promptRouting, layers)),
      finish_reason: rest.finish ?? null,
    }],
    ...tail(),
  });
  for await (const { index, event } of answers(job, signal)) {
    const prompt = prompts[Math.floor(index / n)];
    if (event.type === "prompt") {
      const { scores, routing } = event;
      if (echo || routing !== undefined) {
        yield chunk(index, echo ? prompt.text : "", { scores, promptRouting: routing });
      }
    } else if (event.type === "delta") {
      const offset = echo ? codePoints(prompt.text) : 0;
      const { scores, routing } = event;
      yield chunk(index, event.content, { scores, offset, routing });
    } else if (event.type === "done") {
      const last = generation.complete() && !request.includeUsage;
      yield { ...chunk(index, "", { finish: event.reason }), ...(last && timings()) };
    }
  }
  if (request.includeUsage) {
    yield { ...head, choices: [], usage: wireUsage(generation), ...timings() };
  }
}

export async function completions(
  context: Context,
  { serving, name }: { serving: Serving; name: ServedName },
): Promise<Response> {
  const model = serving.model();
  serving.enter(context);
  const body = await readJsonObject(context.req.raw, serving.maxBodyBytes);
  const request = readCompletionsRequest(body, factsOf(model));
  const { addSpecial, parseSpecial, maxTokens } = request;
  const prompts: Prompt[] = [];
  for (const prompt of request.prompts) {
    if (prompts.length % PROMPTS_PER_TURN === 0) await serving.turns.take();
    prompts.push(await model.textPrompt(prompt, { addSpecial, parseSpecial }));
    model.checkLength(prompts[prompts.length - 1], { maxTokens, param: "prompt" });
  }
  const { n } = request;
  const job = {
    model,
    request,
    prompts,
    caller: new Caller(context, { fields: request.caller, n, deadlineMs: serving.deadlineMs }),
    generation: recordOf(context).generate({
      operation: "text_completion",
      prompts: prompts.map(({ tokens }) => tokens.length),
      n,
    }),
  };
  if (request.stream) {
    return await serving.stream(context, (signal) => chunks(job, { name, signal }));
  }
  return await serving.answer(context, (signal) => wholeAnswer(job, { name, signal }));
}
