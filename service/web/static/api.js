// Asking the service. Whatever goes wrong becomes an error whose message is meant for the reader.

export class Problem extends Error {
  // `status` is 0 when there was no answer at all.
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
  let told = null;
  if ((response.headers.get("content-type") ?? "").startsWith("application/problem+json")) {
    told = await response.json().catch(() => null);
  }
  throw new Problem(told?.detail ?? `The service answered ${response.status}.`, response.status, told?.type);
}

export async function askJson(path, options = {}) {
  return (await ask(path, options)).json();
}

export function query(path, values) {
  return `${path}?${new URLSearchParams(values)}`;
}
