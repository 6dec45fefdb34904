/** Finds stop strings in streamed text, also across token borders. */

export interface StopResult {
  /** Text that is certainly in front of every stop string. */
  readonly text: string;
  /** The stop string that has ended the text, or null. */
  readonly matched: string | null;
}

interface State {
  /** UTF-16 unit to state. */
  readonly next: Map<number, number>;
  /** The state of the longest proper suffix that begins a stop string. */
  fail: number;
  /** Length of the text this state stands for. */
  readonly depth: number;
  /** The longest stop string that ends here, or null. */
  stop: string | null;
}

/**
 * An Aho-Corasick automaton that passes text on as soon as no stop string can begin in it. The stop
 * string that ends first wins, the longest of those that end at the same place. Linear in the text,
 * whatever the stop strings are.
 */
export class StopMatcher {
  readonly #states: State[] = [{ next: new Map(), fail: 0, depth: 0, stop: null }];
  #state = 0;
  /** The last text units seen that may begin a stop string; as many as the state's depth. */
  #held = "";
  #matched: string | null = null;

  /** Empty stop strings are ignored. */
  constructor(stops: readonly string[]) {
    for (const stop of stops) {
      if (stop !== "") this.#add(stop);
    }
    this.#link();
  }

  /** The stop string that has been found, or null. */
  get matched(): string | null {
    return this.#matched;
  }

  /** Adds text. Behind a match everything is dropped. */
  push(text: string): StopResult {
    if (this.#matched !== null) return { text: "", matched: this.#matched };
    for (let i = 0; i < text.length; i++) {
      this.#advance(text.charCodeAt(i));
      const { stop } = this.#states[this.#state];
      if (stop === null) continue;
      const all = this.#held + text.slice(0, i + 1);
      this.#held = "";
      this.#matched = stop;
      return { text: all.slice(0, all.length - stop.length), matched: stop };
    }
    const all = this.#held + text;
    const certain = all.length - this.#states[this.#state].depth;
    this.#held = all.slice(certain);
    return { text: all.slice(0, certain), matched: null };
  }

  /** Ends the text and returns what was held back. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    this.#state = 0;
    return held;
  }

  #advance(unit: number): void {
    const states = this.#states;
    let at = this.#state;
    let next = states[at].next.get(unit);
    while (next === undefined && at !== 0) {
      at = states[at].fail;
      next = states[at].next.get(unit);
    }
    this.#state = next ?? 0;
  }

  #add(stop: string): void {
    const states = this.#states;
    let at = 0;
    for (let i = 0; i < stop.length; i++) {
      const unit = stop.charCodeAt(i);
      let next = states[at].next.get(unit);
      if (next === undefined) {
        next = states.push({ next: new Map(), fail: 0, depth: i + 1, stop: null }) - 1;
        states[at].next.set(unit, next);
      }
      at = next;
    }
    states[at].stop = stop;
  }

  /** Sets where each state falls back to, breadth first, so that shorter states are done before. */
  #link(): void {
    const states = this.#states;
    const queue = [...states[0].next.values()];
    for (let i = 0; i < queue.length; i++) {
      const state = states[queue[i]];
      for (const [unit, child] of state.next) {
        let fail = state.fail;
        while (fail !== 0 && !states[fail].next.has(unit)) fail = states[fail].fail;
        states[child].fail = states[fail].next.get(unit) ?? 0;
        states[child].stop ??= states[states[child].fail].stop;
        queue.push(child);
      }
    }
  }
}
