/**
 * The project's error classes. A message states the attempted action, then what is and what would
 * be right: `cannot read tensor "x": its end is byte 128, must be at most 120 (the file's size)`.
 */

/** A model file, tokenizer or template that is damaged, inconsistent or not understood. */
export class FormatError extends Error {
  override readonly name = "FormatError";

  /** Builds the message `cannot {action}: {what} is {is}, must be {must}`. */
  static of(action: string, what: string, is: unknown, must: string): FormatError {
    return new FormatError(`cannot ${action}: ${what} is ${is}, must be ${must}`);
  }
}

/** Something valid that this backend or model family cannot do. */
export class UnsupportedOpError extends Error {
  override readonly name = "UnsupportedOpError";
}

/** A limit was met: memory, context length, slots, queue. */
export class CapacityError extends Error {
  override readonly name = "CapacityError";
}

/** A caller's request is wrong; `param` names the offending field. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly param: string | null;
  readonly status: number;
  readonly code: string | null;

  constructor(
    message: string,
    options: { param?: string | null; status?: number; code?: string | null } = {},
  ) {
    super(message);
    this.param = options.param ?? null;
    this.status = options.status ?? 400;
    this.code = options.code ?? null;
  }
}

/** A flag, environment variable or option is wrong. */
export class OptionError extends Error {
  override readonly name = "OptionError";
}

/** A read of paged weights failed: what was being computed is lost, later requests may succeed. */
export class ExpertReadError extends Error {
  override readonly name = "ExpertReadError";
}

/** A backend whose threads or device are gone: what it held must be loaded again. */
export class BackendLostError extends Error {
  override readonly name = "BackendLostError";
}

/** A request did not end within the time that it was given. */
export class DeadlineError extends Error {
  override readonly name = "DeadlineError";
}

/** A training run that cannot go on: a number is not finite, or a gate was not reached. */
export class TrainingError extends Error {
  override readonly name = "TrainingError";
}

/** Another server that work depends on cannot be reached, refuses, or answers what its protocol doesn't have. */
export class RemoteError extends Error {
  override readonly name = "RemoteError";
}
