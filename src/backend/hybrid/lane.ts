/** What is done in order, one thing after the other, where some of it waits in between. */

export class Lane {
  /** Resolves when everything so far has ended. */
  #end: Promise<void> = Promise.resolve();
  #open = 0;

  /** Whether nothing is under way and nothing waits. */
  get idle(): boolean {
    return this.#open === 0;
  }

  /** Runs a task at once where nothing is under way, else when everything before has ended. */
  run<T>(task: () => T | Promise<T>): Promise<T> {
    const { idle } = this;
    this.#open += 1;
    const result = idle ? started(task) : this.#end.then(task);
    const ended = () => {
      this.#open -= 1;
    };
    this.#end = result.then(ended, ended);
    return result;
  }
}

async function started<T>(task: () => T | Promise<T>): Promise<T> {
  return await task();
}
