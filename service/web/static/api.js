// HTTP client of the pages. Failures become a Problem, whose message is shown to the reader.

const RETRIED = ["busy", "not-ready", "queue-full"];
const RETRY_MS = 700;
const MAX_ATTEMPTS = 20;

export class Problem extends Error {
  // `status` is 0 if there was no response.
  constructor(message, status, type = "") {
    super(message);
    this.status = status;
    this.type = type;
  }
}

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Is it running?", 0);
  }
  if (response.ok) return response;
  let problem = null;
  if ((response.headers.get("content-type") ?? "").startsWith("application/problem+json")) {
    problem = await response.json().catch(() => null);
  }
  throw new Problem(problem?.detail ?? `The service responded with ${response.status}.`, response.status, problem?.type);
}

export async function askJson(path, options = {}) {
  return (await ask(path, options)).json();
}

// Like askJson, but retry while the service is busy; `waiting(message)` is called before each retry.
export async function askPatiently(path, options, waiting) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await askJson(path, options);
    } catch (error) {
      if (!RETRIED.includes(error.type) || attempt === MAX_ATTEMPTS) throw error;
      waiting(error.message);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      options.signal?.throwIfAborted();
    }
  }
}

export function query(path, values) {
  return `${path}?${new URLSearchParams(values)}`;
}
