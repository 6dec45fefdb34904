/** Parts a model's output into reasoning (`<think>` ... `</think>`) and answer, as it streams. */

const OPEN = "<think>";
const CLOSE = "</think>";

/** What a piece of output adds to the message. */
export interface ReasoningDelta {
  /** Text for `reasoning_content`, often "". */
  readonly reasoning: string;
  /** Text for `content`, often "". */
  readonly content: string;
}

/** Whether a rendered prompt ends inside an opened `<think>`, as R1-Distill's does. */
export function promptOpensReasoning(prompt: string): boolean {
  return prompt.trimEnd().endsWith(OPEN);
}

/** Where in the output the splitter is. */
type Phase = "start" | "reasoning" | "gap" | "content";

/**
 * Splits output as DeepSeek's API presents it. Only a `<think>` that begins the output opens
 * reasoning; a later one is part of the answer. The line breaks around the reasoning and those in
 * front of the answer are dropped. A `<think>` that is never closed makes all of it reasoning.
 */
export class ReasoningSplitter {
  #phase: Phase;
  /** Spaces at the start, or line breaks that end the reasoning if `</think>` follows. */
  #spaces = "";
  /** How much of the tag looked for has been seen. */
  #matched = 0;
  /** Whether reasoning text has been given out, so that line breaks are part of it. */
  #begun = false;
  #reasoning = "";
  #content = "";

  constructor(options: { inReasoning?: boolean } = {}) {
    this.#phase = options.inReasoning ? "reasoning" : "start";
  }

  /** Adds output and returns what is certain of it. */
  push(text: string): ReasoningDelta {
    for (let i = 0; i < text.length; i++) {
      if (this.#phase === "content") {
        this.#content += text.slice(i);
        break;
      }
      this.#step(text[i]);
    }
    return this.#take();
  }

  /** Ends the output: what was held back is given out as what it was taken for. */
  flush(): ReasoningDelta {
    if (this.#phase === "start") {
      this.#content += this.#spaces + OPEN.slice(0, this.#matched);
    } else if (this.#phase === "reasoning") {
      const text = this.#spaces + CLOSE.slice(0, this.#matched);
      if (this.#begun || this.#matched > 0) this.#reasoning += text;
    }
    this.#spaces = "";
    this.#matched = 0;
    return this.#take();
  }

  #take(): ReasoningDelta {
    const delta = { reasoning: this.#reasoning, content: this.#content };
    this.#reasoning = "";
    this.#content = "";
    return delta;
  }

  #step(char: string): void {
    switch (this.#phase) {
      case "start":
        this.#stepStart(char);
        break;
      case "reasoning":
        this.#stepReasoning(char);
        break;
      case "gap":
        if (isLineBreak(char)) break;
        this.#phase = "content";
        this.#content += char;
        break;
      case "content":
        this.#content += char;
    }
  }

  #stepStart(char: string): void {
    if (char === OPEN[this.#matched]) {
      if (++this.#matched < OPEN.length) return;
      this.#matched = 0;
      this.#spaces = "";
      this.#phase = "reasoning";
    } else if (this.#matched === 0 && char.trim() === "") {
      this.#spaces += char;
    } else {
      this.#content += this.#spaces + OPEN.slice(0, this.#matched) + char;
      this.#phase = "content";
    }
  }

  #stepReasoning(char: string): void {
    if (char === CLOSE[this.#matched]) {
      if (++this.#matched < CLOSE.length) return;
      this.#phase = "gap";
      return;
    }
    if (this.#matched > 0) {
      // "<" begins the tag and occurs nowhere else in it, so only the new character may begin one.
      this.#emitReasoning(CLOSE.slice(0, this.#matched));
      this.#matched = 0;
      return this.#stepReasoning(char);
    }
    if (isLineBreak(char)) this.#spaces += char;
    else this.#emitReasoning(char);
  }

  #emitReasoning(text: string): void {
    if (this.#begun) this.#reasoning += this.#spaces;
    this.#spaces = "";
    this.#begun = true;
    this.#reasoning += text;
  }
}

function isLineBreak(char: string): boolean {
  return char === "\n" || char === "\r";
}
