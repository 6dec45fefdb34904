/** Puts the problems of a set to a model, several at a time, and scores what comes back. */

import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import type { Prompt, TextModel } from "../text/types.ts";
import type {
  ChoiceItem,
  EvalCounts,
  EvalItem,
  EvalSet,
  EvalSettings,
  GenerationItem,
  ItemResult,
  Shot,
} from "./types.ts";

export interface EvalOutcome {
  /** In the order of the set's items. */
  readonly results: readonly ItemResult[];
  readonly counts: EvalCounts;
}

export interface RunOptions {
  readonly settings: EvalSettings;
  readonly onResult?: (result: ItemResult, done: number, counts: EvalCounts) => void;
  readonly signal?: AbortSignal;
}

export async function runSet(
  model: TextModel,
  set: EvalSet,
  options: RunOptions,
): Promise<EvalOutcome> {
  return await new Run(model, set, options).all();
}

class Run {
  readonly #model: TextModel;
  readonly #set: EvalSet;
  readonly #options: RunOptions;
  readonly #begun = performance.now();
  readonly #counts = { promptTokens: 0, cachedTokens: 0, answerTokens: 0 };

  constructor(model: TextModel, set: EvalSet, options: RunOptions) {
    this.#model = model;
    this.#set = set;
    this.#options = options;
  }

  async all(): Promise<EvalOutcome> {
    const { items } = this.#set;
    const { settings, onResult } = this.#options;
    const results = new Array<ItemResult>(items.length);
    let next = 0;
    let done = 0;
    const worker = async () => {
      while (next < items.length) {
        const index = next++;
        results[index] = await this.#one(items[index]);
        onResult?.(results[index], ++done, this.#counted());
      }
    };
    await Promise.all(Array.from({ length: Math.min(settings.slots, items.length) }, worker));
    return { results, counts: this.#counted() };
  }

  #counted(): EvalCounts {
    return { ...this.#counts, seconds: (performance.now() - this.#begun) / 1000 };
  }

  async #one(item: EvalItem): Promise<ItemResult> {
    const { id, group } = item;
    const outcome = item.kind === "generation"
      ? await this.#generation(item)
      : await this.#choice(item);
    return { id, ...(group !== undefined && { group }), ...outcome };
  }

  async #generation(item: GenerationItem): Promise<Omit<ItemResult, "id" | "group">> {
    const { settings } = this.#options;
    const { maxTokens, samples, seed } = settings;
    const chat = settings.chat || this.#set.chatOnly === true;
    const { prompt, cut } = chat
      ? { prompt: await this.#chatPrompt(item), cut: false }
      : await this.#rawPrompt(this.#set.form.render(item.question), { room: maxTokens });
    const room = this.#model.info.contextLength - prompt.tokens.length;
    if (room < 1) return { scores: scoresOf([item.judge("")]), ...TOO_LONG, cut };
    const judged: Readonly<Record<string, number>>[] = [];
    let unfinished = 0;
    let tokens: number[] = [];
    let first = "";
    for (let sample = 0; sample < samples; sample++) {
      const { text, whole, finished } = await this.#answer(prompt, {
        ...{ maxTokens: Math.min(maxTokens, room), seed: seed + sample },
        stop: chat ? [] : this.#set.form.stop,
      });
      judged.push(item.judge(text));
      if (!finished) unfinished++;
      if (sample > 0) continue;
      first = text;
      const answer = await this.#model.encode(whole, { addSpecial: false, parseSpecial: true });
      tokens = [...prompt.tokens, ...answer];
    }
    return { scores: scoresOf(judged), answer: first, tokens, cut, tooLong: false, unfinished };
  }

  async #chatPrompt({ messages, question }: GenerationItem): Promise<Prompt> {
    return await this.#model.chatPrompt(messages ?? [{ role: "user", content: question }]);
  }

  /** With as many of the last shots as leave so much room. */
  async #rawPrompt(
    question: string,
    { room }: { room: number },
  ): Promise<{ prompt: Prompt; cut: boolean }> {
    const { shots } = this.#set;
    for (let from = 0;; from++) {
      const prompt = await this.#model.textPrompt(this.#withShots(shots.slice(from), question));
      const fits = prompt.tokens.length + room <= this.#model.info.contextLength;
      if (fits || from >= shots.length) return { prompt, cut: from > 0 };
    }
  }

  #withShots(shots: readonly Shot[], question: string): string {
    const { form } = this.#set;
    const worked = shots.map((shot) => `${form.render(shot.question)} ${shot.answer}\n\n`);
    return worked.join("") + question;
  }

  async #answer(
    prompt: Prompt,
    options: { maxTokens: number; seed: number; stop: readonly string[] },
  ): Promise<{ text: string; whole: string; finished: boolean }> {
    const { temperature, topP } = this.#options.settings;
    const { maxTokens, seed, stop } = options;
    let [text, thinking, finished] = ["", "", false];
    const events = this.#model.answer(prompt, {
      sampling: { ...NEUTRAL_SAMPLING, temperature, topP, seed },
      ...{ maxTokens, stop, signal: this.#options.signal },
    });
    for await (const event of events) {
      if (event.type === "delta") {
        text += event.content;
        thinking += event.reasoning;
      } else if (event.type === "done") {
        finished = event.reason === "stop";
        this.#count(prompt, event);
        this.#counts.answerTokens += event.usage.completionTokens;
      }
    }
    return { text, whole: thinking === "" ? text : `${thinking}</think>${text}`, finished };
  }

  async #choice(item: ChoiceItem): Promise<Omit<ItemResult, "id" | "group">> {
    const { choices, gold } = item;
    const longest = choices.reduce((a, b) => a.length >= b.length ? a : b);
    const reserve = await this.#model.encode(` ${longest}`, { addSpecial: false });
    const { prompt, cut } = await this.#rawPrompt(item.context, { room: reserve.length + 1 });
    const likelihoods: number[] = [];
    let right: readonly number[] = [];
    for (const [i, choice] of choices.entries()) {
      const whole = await this.#model.textPrompt(`${prompt.text} ${choice}`);
      if (whole.tokens.length > this.#model.info.contextLength) {
        return { scores: { acc: 0, acc_norm: 0 }, ...TOO_LONG, cut };
      }
      likelihoods.push(await this.#likelihood(whole, prompt.tokens.length));
      if (i === gold) right = whole.tokens;
    }
    const perCharacter = likelihoods.map((value, i) => value / [...choices[i]].length);
    const isBest = (list: readonly number[]) => Number(list.indexOf(Math.max(...list)) === gold);
    return {
      scores: { acc: isBest(likelihoods), acc_norm: isBest(perCharacter) },
      ...{ likelihoods, tokens: right },
      ...{ cut, tooLong: false, unfinished: 0 },
    };
  }

  /** The log-likelihood of the tokens from `from` on. */
  async #likelihood(prompt: Prompt, from: number): Promise<number> {
    let sum = NaN;
    const events = this.#model.answer(prompt, {
      ...{ sampling: NEUTRAL_SAMPLING, maxTokens: 0, topLogprobs: 0, scorePrompt: true },
      signal: this.#options.signal,
    });
    for await (const event of events) {
      if (event.type === "done") this.#count(prompt, event);
      if (event.type !== "prompt") continue;
      sum = (event.scores ?? []).slice(from).reduce(
        (total, { chosen }) => total + ("logprob" in chosen ? chosen.logprob : NaN),
        0,
      );
    }
    return sum;
  }

  #count(
    prompt: Prompt,
    { cached }: { cached: { readonly memory: number; readonly store: number } },
  ): void {
    this.#counts.promptTokens += prompt.tokens.length;
    this.#counts.cachedTokens += cached.memory + cached.store;
  }
}

const TOO_LONG = Object.freeze({ tokens: [], tooLong: true, unfinished: 0 });

/** The mean of each metric. */
function scoresOf(judged: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  return Object.fromEntries(
    Object.keys(judged[0]).map((name) => [
      name,
      judged.reduce((sum, scores) => sum + scores[name], 0) / judged.length,
    ]),
  );
}
